"""Layouts checked token by token, and the iterator's determinism."""

import json

import numpy as np
import pytest

from mlagent_jax import batching
from mlagent_jax.batching import Example, Group


def make_examples(count, seed=0):
  rng = np.random.default_rng(seed)
  return [
    Example(
      rng.integers(1, 90, rng.integers(1, 9)).tolist(),
      rng.integers(1, 90, rng.integers(1, 5)).tolist(),
    )
    for _ in range(count)
  ]


def unpack(batch):
  """The examples of a packed batch, read back from its arrays alone."""
  found = []
  for row in range(len(batch['tokens'])):
    segments = batch['segment_ids'][row]
    for segment in range(1, segments.max(initial=0) + 1):
      where = np.flatnonzero(segments == segment)
      assert (np.diff(where) == 1).all()
      np.testing.assert_array_equal(
        batch['positions'][row, where], np.arange(len(where))
      )
      predicting = where[batch['mask'][row, where] > 0]
      # The target of a position is the token after it.
      np.testing.assert_array_equal(
        batch['targets'][row, predicting], batch['tokens'][row, predicting + 1]
      )
      assert predicting[-1] + 1 == where[-1]
      first = predicting[0] + 1
      tokens = batch['tokens'][row]
      found.append(
        (tuple(tokens[where[0] : first]), tuple(tokens[first : where[-1] + 1]))
      )
  assert not batch['mask'][batch['segment_ids'] == 0].any()
  return found


def as_tuples(examples):
  return sorted((tuple(e.prompt_ids), tuple(e.action_ids)) for e in examples)


def test_packing_keeps_every_example_once():
  examples = make_examples(40)
  batch = batching.pack_sft(examples, length=16, rows=30)
  assert batch['tokens'].shape == (30, 16)
  assert sorted(unpack(batch)) == as_tuples(examples)


def test_packing_is_tight():
  sizes = np.random.default_rng(0).integers(1, 100, 2000).tolist()
  plan = batching.plan_packing(sizes, 128)
  assert sorted(i for row in plan for i in row) == list(range(2000))
  assert max(sum(sizes[i] for i in row) for row in plan) <= 128
  assert len(plan) <= 1.02 * sum(sizes) / 128 + 1


def test_packing_says_what_does_not_fit():
  examples = [Example([1] * 5, [2] * 4), Example([1] * 9, [2] * 3)]
  with pytest.raises(ValueError, match='example 1 has 12 tokens.* 11 of a row'):
    batching.pack_sft(examples, length=11, rows=4)
  with pytest.raises(ValueError, match='need 2 rows of 12 tokens.* has 1'):
    batching.pack_sft(examples, length=12, rows=1)
  with pytest.raises(ValueError, match='example 0 has 3 prompt and 0 action'):
    batching.pack_sft([Example([1, 2, 3], [])], length=8, rows=1)


def test_group_layout_by_hand():
  batch = batching.group_layout(
    [[5, 6, 7], [8]],
    [[[11, 12], [13]], [[14, 15, 16]]],
    prompt_length=4,
    action_length=3,
    pad_id=99,
  )
  expected = {
    'tokens': [
      [5, 6, 7, 99, 11, 12, 99, 13, 99, 99],
      [8, 99, 99, 99, 14, 15, 16, 99, 99, 99],
    ],
    'positions': [
      [0, 1, 2, 0, 3, 4, 0, 3, 0, 0],
      [0, 0, 0, 0, 1, 2, 3, 0, 0, 0],
    ],
    'segment_ids': [
      [1, 1, 1, 0, 1, 1, 0, 1, 0, 0],
      [1, 0, 0, 0, 1, 1, 1, 0, 0, 0],
    ],
    'targets': [
      [[11, 12, 0], [13, 0, 0]],
      [[14, 15, 16], [0, 0, 0]],
    ],
    'mask': [[[1, 1, 0], [1, 0, 0]], [[1, 1, 1], [0, 0, 0]]],
    'lengths': [3, 1],
  }
  assert batch.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(batch[name], value, err_msg=name)


@pytest.mark.parametrize(
  'prompts, actions, message',
  [
    ([[1], [2] * 9], [[[1]], [[1]]], 'prompt 1 has 9 tokens.* 1 to 8'),
    ([[1], []], [[[1]], [[1]]], 'prompt 1 has 0 tokens'),
    ([[1]], [[[1], [2] * 5]], 'action 1 of prompt 0 has 5 tokens.* than 4'),
    ([[1]], [[[1], [2], [3]]], 'prompt 0 has 3 actions, not up to 2'),
    ([[1]], [[[1]], [[1]]], '1 prompts, but actions of 2'),
  ],
)
def test_group_layout_says_what_does_not_fit(prompts, actions, message):
  with pytest.raises(ValueError, match=message):
    batching.group_layout(
      prompts, actions, prompt_length=8, action_length=4, samples=2
    )


def test_group_examples():
  examples = [
    Example([1, 2], [10]),
    Example([3], [20]),
    Example([1, 2], [11]),
    Example((1, 2), [12]),
  ]
  assert batching.group_examples(examples, 2) == [
    Group((1, 2), [[10], [11]]),
    Group((1, 2), [[12]]),
    Group((3,), [[20]]),
  ]


def packed(examples, **options):
  options = {'length': 16, 'rows': 4, 'seed': 7, **options}
  return batching.packed_batches(examples, **options)


def grouped(examples, **options):
  options = {
    'prompt_length': 8,
    'action_length': 4,
    'samples': 2,
    'prompts_per_batch': 4,
    'seed': 7,
    **options,
  }
  return batching.group_batches(batching.group_examples(examples, 2), **options)


def assert_same(left, right):
  assert left.keys() == right.keys()
  for name in left:
    np.testing.assert_array_equal(left[name], right[name], err_msg=name)


@pytest.mark.parametrize('make', [packed, grouped])
def test_the_iterator_resumes_exactly(make):
  examples = make_examples(30)
  iterator = make(examples)
  for _ in range(5):  # in the middle of an epoch
    next(iterator)
  assert iterator.epoch != round(iterator.epoch)
  state = json.loads(json.dumps(iterator.get_state()))
  expected = [next(iterator) for _ in range(12)]  # over the ends of epochs

  resumed = make(examples)
  resumed.set_state(state)
  for batch in expected:
    assert_same(next(resumed), batch)
  iterator.set_state(state)
  assert_same(next(iterator), expected[0])


def test_every_epoch_has_every_example_once_in_a_new_order():
  examples = make_examples(30)
  rows = len(batching.plan_packing([len(e) for e in examples], 16))
  iterator = packed(examples, rows=1)
  epochs = [
    [e for _ in range(rows) for e in unpack(next(iterator))] for _ in range(3)
  ]
  for epoch in epochs:
    assert sorted(epoch) == as_tuples(examples)
  assert epochs[0] != epochs[1] != epochs[2]
  other = packed(examples, rows=1, seed=8)
  assert [e for _ in range(rows) for e in unpack(next(other))] != epochs[0]


@pytest.mark.parametrize('make', [packed, grouped])
def test_processes_share_every_global_batch(make):
  examples = make_examples(30)
  whole = make(examples)
  rows = whole.get_state()['batch_size']
  # Not consecutive, as on a torus, and one row in both.
  owned = [[r for r in range(rows) if r % 2 == i or not r] for i in range(2)]
  parts = [make(examples, own_rows=own) for own in owned]
  for _ in range(9):
    batch = next(whole)
    for own, part in zip(owned, parts, strict=True):
      assert_same(next(part), {k: v[own] for k, v in batch.items()})


def test_a_state_of_other_data_is_refused():
  state = packed(make_examples(30)).get_state()
  with pytest.raises(ValueError, match='seed 7 then, 8 now'):
    packed(make_examples(30), seed=8).set_state(state)
  with pytest.raises(ValueError, match=r'elements \d+ then, \d+ now'):
    packed(make_examples(60)).set_state(state)


def test_bad_iterators_stop_at_once():
  with pytest.raises(ValueError, match='no examples'):
    packed([])
  with pytest.raises(ValueError, match=r'rows \[3, 4\] of a batch of 4'):
    packed(make_examples(3), own_rows=[3, 4])
  with pytest.raises(ValueError, match='has 4 tokens, more than 3'):
    grouped(
      [*make_examples(3), Example([1], [2, 3, 4, 5])],
      action_length=3,
      prompt_length=9,
    )

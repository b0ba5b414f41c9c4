"""Packed groups by hand; `model/test_logps` has their log-probabilities."""

import json

import jax
import numpy as np
import pytest

from mlagent_jax import batching, packed_groups
from mlagent_jax.batching import Group

A = 4
OPTIONS = {'action_length': A, 'samples': 3, 'pad_id': 1}


def test_a_row_by_hand():
  batch = packed_groups.packed_layout(
    [[5, 6, 7], [8]],
    [[[11, 12], [], [13]], [[14, 15, 16]]],
    rows=2,
    length=11,
    **OPTIONS,
  )
  row = {
    'tokens': [5, 6, 7, 11, 12, 13, 8, 14, 15, 16, 1],
    'positions': [0, 1, 2, 3, 4, 3, 0, 1, 2, 3, 0],
    'segment_ids': [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 0],
    'branches': [0, 0, 0, 1, 1, 2, 0, 1, 1, 1, 0],
    'sources': [0, 0, 0, 2, 3, 2, 0, 6, 7, 8, 0],
  }
  nothing = [0, 0, 0, 0]
  expected = {
    name: [values, [1 if name == 'tokens' else 0] * 11]
    for name, values in row.items()
  } | {
    'targets': [
      [[11, 12, 0, 0], nothing, [13, 0, 0, 0]],
      [[14, 15, 16, 0], nothing, nothing],
    ],
    'mask': [
      [[1, 1, 0, 0], nothing, [1, 0, 0, 0]],
      [[1, 1, 1, 0], nothing, nothing],
    ],
    'places': [
      [[3, 4, 0, 0], nothing, [5, 0, 0, 0]],
      [[7, 8, 9, 0], nothing, nothing],
    ],
    'lengths': [3, 1],
  }
  assert batch.keys() == expected.keys()
  assert {*packed_groups.PACKED} == {*row}
  for name, value in expected.items():
    np.testing.assert_array_equal(batch[name], value, err_msg=name)


def test_groups_share_rows_and_long_ones_are_parted():
  rng = np.random.default_rng(0)
  groups = [
    Group([1] * rng.integers(1, 30), [[2] * n for n in rng.integers(0, 9, 8)])
    for _ in range(200)
  ]
  planned = packed_groups.plan(groups, 60)
  pieces = [piece for row in planned for piece in row]
  assert sorted((i, g) for i, chosen in pieces for g in chosen) == [
    (i, g)
    for i, group in enumerate(groups)
    for g, action in enumerate(group.actions)
    if action
  ]
  sizes = [
    sum(
      len(groups[i].prompt_ids) + sum(len(groups[i].actions[g]) for g in chosen)
      for i, chosen in row
    )
    for row in planned
  ]
  assert max(sizes) <= 60
  assert len({i for i, _ in pieces}) < len(pieces)  # some are parted
  assert sum(sizes) > 0.8 * 60 * len(planned)


@pytest.mark.parametrize(
  'prompts, actions, message',
  [
    ([[1], [2] * 8], [[], [[1] * 3]], 'prompt 1 with its action 0 has 11 tok'),
    ([[1]], [[[1], [2] * 5]], 'action 1 of prompt 0 has 5 tokens.* than 4'),
    ([[1]], [[[1], [2], [3], [4]]], 'prompt 0 has 4 actions, not up to 3'),
    ([[1] * 5] * 3, [[[1]]] * 3, '3 prompts .* need 3 rows of 10 .* has 2'),
  ],
)
def test_what_does_not_fit_is_told(prompts, actions, message):
  with pytest.raises(ValueError, match=message):
    packed_groups.packed_layout(prompts, actions, rows=2, length=10, **OPTIONS)


def test_the_iterator_resumes_exactly_and_has_every_action_once_an_epoch():
  groups = [
    Group([1 + i % 7, 2 + i], [[40 + i] * (1 + i % 3)] * (1 + i % 4))
    for i in range(30)
  ]
  rows = len(packed_groups.plan(groups, 24))

  def make(**options):
    return packed_groups.packed_group_batches(
      groups, **{'length': 24, 'rows': 1, 'seed': 7} | options
    )

  iterator = make()
  epochs = []
  for _ in range(2):
    batches = [next(iterator) for _ in range(rows)]
    assert sum(b['mask'].sum() for b in batches) == sum(
      len(action) for group in groups for action in group.actions
    )
    epochs.append([b['tokens'].tolist() for b in batches])
  assert epochs[0] != epochs[1] and sorted(epochs[0]) == sorted(epochs[1])
  state = json.loads(json.dumps(iterator.get_state()))
  expected = [next(iterator) for _ in range(5)]
  resumed = make()
  resumed.set_state(state)
  for batch in expected:
    jax.tree.map(np.testing.assert_array_equal, next(resumed), batch)
  whole, part = make(rows=4), make(rows=4, own_rows=[1, 3])
  jax.tree.map(
    lambda x, y: np.testing.assert_array_equal(x[[1, 3]], y),
    next(whole),
    next(part),
  )


def test_they_are_fewer_tokens_than_slots():
  rng = np.random.default_rng(0)
  prompts = [[1] * n for n in rng.integers(70, 147, 12)]
  actions = [[[2] * n for n in rng.choice([6, 14, 22], 8)] for _ in prompts]
  planned = packed_groups.plan([*map(Group, prompts, actions)], 512)
  slots = batching.group_layout(
    prompts, actions, prompt_length=160, action_length=32
  )
  assert len(planned) * 512 < 0.65 * slots['tokens'].size

"""An RL update on packed groups against one on rows of slots."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from test_rl_update import MODEL, G, S, batch_of, setup, slots_of, update

from mlagent_jax.model import decoder
from mlagent_jax.stages import rl_batch, rl_update

PACKED = {'layout': 'packed_groups', 'batch_size': 2, 'max_length': 64}


def repeated_slots():
  """Samples of which some are the same action; one of those earned less."""
  slots = slots_of()
  for row in slots[:3]:
    row[2] = row[0]
  slots[1][1] = slots[1][0]
  slots[3][1] = dataclasses.replace(slots[3][0], reward=0.05)
  return slots


@pytest.mark.parametrize(
  'options',
  [
    {},
    {
      'epochs': 2,
      # What is near a bound falls on either side of it by its rounding.
      'clip_low': 0.9,
      'clip_high': 9.0,
      'advantage': 'rloo',
      'duration_floor': 1.0,
      'kl_control': 'adaptive',
      'entropy_coef': 0.1,
    },
    {'ratio': 'sequence', 'aggregation': 'seq-mean-token-mean'},
  ],
  ids=str,
)
def test_packed_groups_are_the_same_update(options, tmp_path):
  groups = batch_of(repeated_slots())
  other = decoder.make_model(MODEL, 1)[1]  # off the reference
  found = []
  for layout in ({}, PACKED):
    chosen = {'kl_coef': 0.1, **options, **layout}
    start = rl_update.make_state(setup(**chosen)[0], other)
    found.append(update(chosen, groups, tmp_path, start))
  (expected, of_slots), (state, metrics) = found
  assert of_slots.keys() == metrics.keys()
  for name in metrics:
    np.testing.assert_allclose(
      metrics[name], of_slots[name], rtol=1e-5, atol=1e-6, err_msg=name
    )
  assert metrics['states_trained'] == S
  # Adam divides gradients by their size, and what is left of none is noise:
  # the moments are compared.
  moments = [
    next(
      x
      for x in jax.tree.leaves(y.policy.opt_state, is_leaf=is_adam)
      if is_adam(x)
    )
    for y in (expected, state)
  ]
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
    *moments,
  )


def is_adam(x):
  return isinstance(x, optax.ScaleByAdamState)


def test_equal_samples_are_packed_once():
  learner, _, _ = setup(**PACKED)
  host = rl_batch.host_batch(learner, 8, batch_of(repeated_slots()))
  counts = host['mask'].max(axis=-1)
  # Of the last row's equal actions one earned less.
  assert counts.tolist() == [[2, 1, 0], [3, 0, 0], [2, 1, 0], [1, 1, 1]]
  actions = [
    len(done.reply.token_ids)
    for row, numbers in zip(repeated_slots(), counts)
    for done, number in zip(row, numbers)
    if number
  ]
  prompts = sum(3 + s for s in range(S))
  assert np.count_nonzero(host['segment_ids']) == sum(actions) + prompts


@pytest.mark.parametrize(
  'options, most',
  [
    ({}, 3),
    ({'ratio': 'sequence'}, 1),
    ({'aggregation': 'seq-mean-token-sum'}, 1),
  ],
)
def test_only_means_over_tokens_count_a_sample_for_several(options, most):
  learner, _, _ = setup(**PACKED, **options)
  host = rl_batch.host_batch(learner, 8, batch_of(repeated_slots()))
  assert host['mask'].max() == most


def test_where_seconds_weigh_samples_are_equal_only_with_them():
  slots = repeated_slots()
  outcome = dataclasses.replace(slots[0][2].outcome, seconds=77.0)
  slots[0][2] = dataclasses.replace(slots[0][2], outcome=outcome)
  for floor, weights in ((0.0, [2, 1, 0]), (1.0, [1, 1, 1])):
    learner, _, _ = setup(**PACKED, duration_floor=floor)
    host = rl_batch.host_batch(learner, 8, batch_of(slots))
    assert host['mask'][0].max(axis=-1).tolist() == weights


def test_what_finds_no_room_is_not_trained_on(tmp_path):
  slots = slots_of()
  flat = slots_of(seed=1, reward=0.5)
  mixed = batch_of([flat[0], slots[1], flat[2], slots[3]])
  options = PACKED | {'batch_size': 1, 'max_length': 48}
  settings = setup(**options)[0].config.rl
  fits = rl_batch.fitting(settings, mixed)
  # Of the two that teach nothing one has room left, and is first.
  named = [row and row.trajectory_id for row in fits.rows]
  assert named == ['t0', 't1', None, 't3']
  assert fits.slots[2] == [None] * G and mixed.slots[2] == flat[2]
  state, metrics = update(options, mixed, tmp_path)
  assert metrics['states_trained'] == 3
  expected, of_slots = update({}, fits, tmp_path)
  np.testing.assert_allclose(metrics['loss'], of_slots['loss'], rtol=1e-5)
  assert metrics['weight'] == of_slots['weight']

"""Whole episodes as batches of RL, against figures worked out by hand."""

import math

import numpy as np
import pytest

from mlagent_jax.environment import records
from mlagent_jax.stages import episodes

KIND = records.OutcomeKind
SCALE = records.Scale(True, m_init=0.5, m_best=0.9, p_init=0.5, p_best=0.9)
START = records.Snapshot('tree')


def step(kind, score=None, before=None, tokens=3):
  outcome = records.Outcome(kind, '', score_before=before, score=score)
  ids = (*range(10, 10 + tokens - 1), 2)
  return records.Step(START, 'reply', outcome, START, ids, (-0.5,) * tokens)


def episode(*steps):
  return records.Trajectory('id', 'cells', 'policy', 0, (), steps, 'steps', 1.0)


# Up by half of the gap, nothing, then down by a quarter of it.
UP_DOWN = episode(
  step(KIND.EDITED, 0.7), step(KIND.LOOKED), step(KIND.EDITED, 0.6, 0.7)
)
MISTAKE = episode(step(KIND.UNPARSED), step(KIND.FINAL_ANSWER))


def sigmoid(x):
  return 1 / (1 + math.exp(-x))


def batch(summed):
  return episodes.batch_of(
    [UP_DOWN, MISTAKE],
    {'cells': SCALE},
    lambda task, snapshot, steps: [1] * (1 + len(steps)),
    stop_ids={2},
    episodes=2,
    max_steps=4,
    reward={'alpha': 4.0},
    summed=summed,
  )


def test_returns_are_summed_or_of_the_whole_way():
  summed = sigmoid(4 * 0.5) + 0.5 + sigmoid(-4 * 0.25)
  np.testing.assert_allclose(batch(True).rewards, [[summed, 0.5]], rtol=1e-6)
  # From 0.5 to 0.6, a quarter of the gap; and an episode that moved nothing.
  final = sigmoid(4 * 0.25)
  np.testing.assert_allclose(batch(False).rewards, [[final, 0.5]], rtol=1e-6)


def test_every_action_is_a_row_of_its_episode():
  made = batch(True)
  assert len(made.rows) == len(made.slots) == 2 * 4
  assert [len(row.prompt_ids) for row in made.rows[:5]] == [1, 2, 3, 1, 2]
  assert made.rows[5:] == [None] * 3
  assert made.owners[:5].tolist() == [[0], [0], [0], [1], [1]]
  assert made.valid.tolist() == [[1, 1]]
  done = made.executed
  assert [item.reply.token_ids[-1] for item in done] == [2] * 5
  assert all(item.reply.finished for item in done)
  expected = [sigmoid(2), 0.5, sigmoid(-1), 0.0, 0.5]
  np.testing.assert_allclose([item.reward for item in done], expected)
  assert len(made.staleness) == 5


def test_an_episode_that_worsens_the_script_is_below_nothing():
  worse = episode(step(KIND.EDITED, 0.4))
  assert episodes.whole_way(worse, SCALE, alpha=4.0) == pytest.approx(
    sigmoid(-1)
  )
  assert episodes.whole_way(MISTAKE, SCALE, alpha=4.0) == 0.5

"""The reward equals the table and the formula of the design."""

import math

import numpy as np
import pytest

from mlagent_jax import reward as reward_lib
from mlagent_jax.environment import records

Kind = records.OutcomeKind
UP = records.Scale(True, m_init=0.6, m_best=0.8, p_init=0.61, p_best=0.81)
DOWN = records.Scale(False, m_init=30.0, m_best=10.0, p_init=32.0, p_best=12.0)

# Word for word from the reward table, not from the code.
ZERO = (
  'unparsed unknown_action bad_arguments edit_failed script_failed'
  ' missing_submission stale_submission refused_submission'
).split()
HALF = (
  'looked copied undone executed final_answer time_limit memory_limit'
).split()


def outcome(kind, **fields):
  return records.Outcome(kind=Kind(kind), observation='', **fields)


def test_every_kind_has_exactly_one_row():
  assert sorted([*ZERO, *HALF, 'edited']) == sorted(Kind)


@pytest.mark.parametrize('kind', ZERO)
def test_mistakes_earn_nothing(kind):
  assert reward_lib.reward(outcome(kind, score=0.9), UP) == 0.0
  assert not reward_lib.is_valid(outcome(kind))


@pytest.mark.parametrize('kind', HALF)
def test_neutral_actions_earn_half(kind):
  assert reward_lib.reward(outcome(kind), UP) == 0.5


def test_edit_is_a_sigmoid_of_the_scaled_change():
  rng = np.random.default_rng(0)
  for scale in (UP, DOWN):
    for alpha in (1.0, 4.0):
      before, after = rng.uniform(5, 40, 2)
      sign = 1.0 if scale.higher_is_better else -1.0
      x = alpha * sign * (after - before) / abs(scale.m_best - scale.m_init)
      got = reward_lib.reward(
        outcome('edited', score=after, score_before=before),
        scale,
        alpha=alpha,
      )
      np.testing.assert_allclose(got, 1 / (1 + np.exp(-x)), rtol=1e-12)


def test_without_a_score_on_the_way_the_starter_counts():
  got = reward_lib.reward(outcome('edited', score=10.0), DOWN)
  assert got == pytest.approx(1 / (1 + math.exp(-4)))
  assert reward_lib.reward(outcome('edited', score=30.0), DOWN) == 0.5


def test_huge_changes_do_not_overflow():
  worse = outcome('edited', score=1e9, score_before=10.0)
  assert reward_lib.reward(worse, DOWN) == 0.0
  assert reward_lib.reward(worse, UP) == 1.0


def test_an_edit_without_a_score_is_our_error():
  with pytest.raises(ValueError, match='must have a score'):
    reward_lib.reward(outcome('edited'), UP)
  with pytest.raises(ValueError, match='must have a score'):
    reward_lib.reward(outcome('edited', score=float('nan')), UP)


def test_against_the_best_an_improvement_pays_once():
  # Improved to 0.7, undone to 0.6, and made again.
  again = outcome('edited', score=0.7, score_before=0.6, best_before=0.7)
  assert reward_lib.reward(again, UP) == pytest.approx(1 / (1 + math.exp(-2)))
  assert reward_lib.reward(again, UP, against='best') == 0.5
  # Recovering from something worse than the starter is no improvement.
  back = outcome('edited', score=30.0, score_before=50.0, best_before=50.0)
  assert reward_lib.reward(back, DOWN) > 0.95
  assert reward_lib.reward(back, DOWN, against='best') == 0.5
  beyond = outcome('edited', score=20.0, score_before=28.0, best_before=25.0)
  assert reward_lib.reward(beyond, DOWN, against='best') == pytest.approx(
    1 / (1 + math.exp(-4 * 5 / 20))
  )
  with pytest.raises(ValueError, match='mean.* is none of'):
    reward_lib.reward(again, UP, against='mean')


def test_the_steps_of_a_trajectory_get_what_the_options_say():
  here = records.Snapshot('')
  outcomes = [
    outcome('looked'),
    outcome('edited', score=0.7, score_before=0.6, best_before=0.6),
    outcome('undone'),
    outcome('looked'),
    outcome('edited', score=0.7, score_before=0.6, best_before=0.7),
  ]
  steps = [records.Step(here, '', done, here) for done in outcomes]
  up = pytest.approx(1 / (1 + math.exp(-2)))
  assert reward_lib.of_steps(steps, UP) == [0.5, up, 0.5, 0.5, up]
  found = reward_lib.of_steps(steps, UP, against='best', neutral_cap=1)
  assert found == [0.5, up, 0.5, 0.0, 0.5]


def history(*kinds):
  here = records.Snapshot('')
  return [records.Step(here, '', outcome(kind), here) for kind in kinds]


def test_a_run_of_neutral_outcomes_ends_with_a_new_best_score():
  def run(*steps):
    return reward_lib.neutral_run(steps, UP)

  looked, undone, failed, timed = history(
    'looked', 'undone', 'script_failed', 'time_limit'
  )
  here = records.Snapshot('')

  def edited(score, **before):
    done = outcome('edited', score=score, **before)
    return records.Step(here, '', done, here)

  assert run() == 0
  assert run(looked, edited(0.7)) == 0
  assert run(looked, edited(0.7), looked, undone) == 2
  # A mistake in between changes nothing: it paid nothing.
  assert run(edited(0.7), looked, failed, timed) == 2
  # Neither does an edit that is worse than the best one, or than the starter.
  assert run(looked, edited(0.5), looked) == 2
  again = edited(0.7, score_before=0.6, best_before=0.7)
  assert run(edited(0.7), undone, again, looked) == 2


@pytest.mark.parametrize('kind', HALF)
def test_the_cap_stops_paying_for_neutral_outcomes(kind):
  for before, expected in ((0, 0.5), (1, 0.5), (2, 0.0), (7, 0.0)):
    options = {'neutral_cap': 2, 'neutral_before': before}
    assert reward_lib.reward(outcome(kind), UP, **options) == expected
  assert reward_lib.reward(outcome(kind), UP, neutral_before=9) == 0.5
  edit = outcome('edited', score=0.6)
  assert reward_lib.reward(edit, UP, neutral_cap=1, neutral_before=5) == 0.5


def test_breakdown():
  samples = [
    ('cells', Kind.EDITED, 0.8),
    ('cells', Kind.LOOKED, 0.5),
    ('ames', Kind.EDITED, 0.4),
  ]
  assert reward_lib.breakdown(samples) == pytest.approx(
    {
      'reward/kind/edited': 0.6,
      'reward/kind/looked': 0.5,
      'reward/task/ames': 0.4,
      'reward/task/cells': 0.65,
    }
  )


def test_gains():
  assert reward_lib.relative_gain(0.671, UP) == pytest.approx(10.0)
  assert reward_lib.relative_gain(16.0, DOWN) == pytest.approx(50.0)
  assert reward_lib.normalised_gain(0.81, UP) == pytest.approx(1.0)
  assert reward_lib.normalised_gain(22.0, DOWN) == pytest.approx(0.5)
  assert reward_lib.normalised_gain(36.0, DOWN) == pytest.approx(-0.2)

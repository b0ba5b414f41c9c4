"""One reward from what happened: the reward module of ML-Agent.

Source: arXiv 2505.23723, section on the agentic ML-specific reward module;
deviation: the sigmoid's argument is scaled by `alpha` (4 by default), because
at 1 closing the whole gap between starter and best pays only 0.73 against
0.5 for doing nothing.

  reward = 0                      the agent's mistake
           0.5                    valid, no edit; or a limit stopped the edit
           sigmoid(alpha * sign * (m' - m) / |m_best - m_init|)    an edit

m' is the validation score after the edit; m the last valid one on the way to
the state, m_init if there was none; sign is +1 if higher is better, else -1.

Two options, off by default, close ways to earn without improving anything
(benchmarks/reward_hacks.py): `baseline_score` with 'best' measures against the
best score so far instead of m; `capped` pays nothing for a neutral outcome (the
rows of 0.5) after so many without a new best score. The third option, weights
by duration, is in `advantages.duration_weights`.
"""

import collections
import math
from collections.abc import Iterable, Sequence

from mlagent_jax.environment import records

Kind = records.OutcomeKind

MISTAKES = frozenset(
  {
    Kind.UNPARSED,
    Kind.UNKNOWN_ACTION,
    Kind.BAD_ARGUMENTS,
    Kind.EDIT_FAILED,
    Kind.SCRIPT_FAILED,
    Kind.MISSING_SUBMISSION,
    Kind.STALE_SUBMISSION,
    Kind.REFUSED_SUBMISSION,
  }
)
NEUTRAL = frozenset(
  {
    Kind.LOOKED,
    Kind.COPIED,
    Kind.UNDONE,
    Kind.EXECUTED,
    Kind.FINAL_ANSWER,
    Kind.TIME_LIMIT,
    Kind.MEMORY_LIMIT,
  }
)


BASELINES = ('last', 'best')


def is_valid(outcome: records.Outcome) -> bool:
  """True if the action parsed, applied and, if it ran a script, that worked.

  A run that a limit stopped earns 0.5 but did not run to its end: not valid.
  """
  limits = (Kind.TIME_LIMIT, Kind.MEMORY_LIMIT)
  return outcome.kind not in MISTAKES and outcome.kind not in limits


def baseline_score(
  outcome: records.Outcome, scale: records.Scale, against: str
) -> float:
  """m, the validation score that an edit is measured against.

  Args:
    outcome: of the edit.
    scale: of the task.
    against: 'last': the last valid score on the way. 'best': the best one on
      the way or the starter's, so that undoing an improvement and making it
      again pays 0.5 and no more.
  """
  if against == 'last':
    before = outcome.score_before
    return scale.m_init if before is None else before
  if against == 'best':
    known = [scale.m_init, outcome.best_before]
    known = [scale.sign * score for score in known if score is not None]
    return scale.sign * max(known)
  raise ValueError(f'reward.against: {against!r} is none of {BASELINES}')


def neutral_run(steps: Sequence[records.Step], scale: records.Scale) -> int:
  """Neutral outcomes of a history since the last new best score.

  An edit that is no new best does not end the run: a bad edit between two looks
  would make the second one pay again.

  Args:
    steps: of the history, in order.
    scale: of the task.
  """
  count = 0
  for step in reversed(steps):
    outcome = step.outcome
    if outcome.kind in NEUTRAL:
      count += 1
    elif outcome.kind is Kind.EDITED:
      before = baseline_score(outcome, scale, 'best')
      if scale.sign * (outcome.score - before) > 0:
        break
  return count


def capped(
  value: float, outcome: records.Outcome, neutral_before: int, cap: int
) -> float:
  """The reward, or 0 for a neutral outcome after `cap` of them in a row.

  Args:
    value: the reward without the cap.
    outcome: what it is for.
    neutral_before: of `neutral_run`.
    cap: neutral outcomes that pay before a new best score; 0 for any number.
  """
  over = cap and outcome.kind in NEUTRAL and neutral_before >= cap
  return 0.0 if over else value


def reward(
  outcome: records.Outcome,
  scale: records.Scale,
  *,
  alpha: float = 4.0,
  against: str = 'last',
  neutral_cap: int = 0,
  neutral_before: int = 0,
) -> float:
  """The reward of one action, in [0, 1].

  Args:
    outcome: what the environment reported.
    scale: the task's direction, m_init and m_best (validation scores).
    alpha: steepness of the sigmoid.
    against: see `baseline_score`.
    neutral_cap: see `capped`.
    neutral_before: see `capped`.

  Raises:
    ValueError: for an edit without a score, or m_best equal to m_init.
  """
  if outcome.kind in MISTAKES:
    return 0.0
  if outcome.kind in NEUTRAL:
    return capped(0.5, outcome, neutral_before, neutral_cap)
  if outcome.score is None or not math.isfinite(outcome.score):
    raise ValueError(f'an edit that ran must have a score: {outcome}')
  if scale.m_best == scale.m_init:
    raise ValueError(f'm_best equals m_init ({scale.m_init}): no scale')
  before = baseline_score(outcome, scale, against)
  change = scale.sign * (outcome.score - before)
  return sigmoid(alpha * change / abs(scale.m_best - scale.m_init))


def of_steps(
  steps: Sequence[records.Step], scale: records.Scale, **options
) -> list[float]:
  """The reward of every step of a trajectory.

  Args:
    steps: from its start.
    scale: of its task.
    **options: of `reward`: alpha, against, neutral_cap.
  """
  return [
    reward(
      step.outcome,
      scale,
      neutral_before=neutral_run(steps[:number], scale),
      **options,
    )
    for number, step in enumerate(steps)
  ]


def breakdown(
  samples: Iterable[tuple[str, records.OutcomeKind, float]],
) -> dict[str, float]:
  """Mean rewards as metrics, 'reward/kind/KIND' and 'reward/task/TASK'.

  Args:
    samples: (task, kind of the outcome, reward) of each.
  """
  found = collections.defaultdict(list)
  for task, kind, value in samples:
    found[f'reward/kind/{kind}'].append(value)
    found[f'reward/task/{task}'].append(value)
  return {name: sum(found[name]) / len(found[name]) for name in sorted(found)}


def sigmoid(x: float) -> float:
  """1 / (1 + exp(-x)), without overflow at either end."""
  if x >= 0:
    return 1.0 / (1.0 + math.exp(-x))
  return math.exp(x) / (1.0 + math.exp(x))


def relative_gain(p: float, scale: records.Scale) -> float:
  """Percent: sign * (p - p_init) / |p_init| * 100; p: a test score."""
  return scale.sign * (p - scale.p_init) / abs(scale.p_init) * 100.0


def normalised_gain(p: float, scale: records.Scale) -> float:
  """0 the starter, 1 the best: sign * (p - p_init) / |p_best - p_init|."""
  gap = abs(scale.p_best - scale.p_init)
  return scale.sign * (p - scale.p_init) / gap

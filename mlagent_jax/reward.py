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
"""

import math

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


def is_valid(outcome: records.Outcome) -> bool:
  """True if the action parsed, applied and, if it ran a script, that worked.

  A run that a limit stopped earns 0.5 but did not run to its end: not valid.
  """
  limits = (Kind.TIME_LIMIT, Kind.MEMORY_LIMIT)
  return outcome.kind not in MISTAKES and outcome.kind not in limits


def reward(
  outcome: records.Outcome, scale: records.Scale, *, alpha: float = 4.0
) -> float:
  """The reward of one action, in [0, 1].

  Args:
    outcome: what the environment reported.
    scale: the task's direction, m_init and m_best (validation scores).
    alpha: steepness of the sigmoid.

  Raises:
    ValueError: for an edit without a score, or m_best equal to m_init.
  """
  if outcome.kind in MISTAKES:
    return 0.0
  if outcome.kind in NEUTRAL:
    return 0.5
  if outcome.score is None or not math.isfinite(outcome.score):
    raise ValueError(f'an edit that ran must have a score: {outcome}')
  if scale.m_best == scale.m_init:
    raise ValueError(f'm_best equals m_init ({scale.m_init}): no scale')
  before = outcome.score_before
  if before is None:
    before = scale.m_init
  change = scale.sign * (outcome.score - before)
  return sigmoid(alpha * change / abs(scale.m_best - scale.m_init))


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

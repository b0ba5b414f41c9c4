"""Error bars and tests: what of a difference between agents is luck.

Two questions are kept apart. *On these tasks*, would other episodes say the
same? Then episodes are resampled within their task (`bootstrap_interval`,
`episodes_test`). *On other tasks of this kind*, would it hold too? Then the
task is the unit (`two_level_interval`, `tasks_test`), and few tasks can show
little: with n tasks no p-value is below 2 / 2^n.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

# Up to this many sign patterns are all tried; beyond, they are drawn.
MAX_EXACT = 2**20
_BLOCK = 2**14
# Differences of statistics below this share of their size are rounding.
_ROUNDING = 1e-12


def bootstrap_interval(
  groups: Sequence[Sequence[float]],
  *,
  samples: int = 10_000,
  level: float = 0.95,
  seed: int = 0,
) -> tuple[float, float]:
  """Percentile bootstrap interval of the mean of the groups' means.

  Resamples within each group (a task's episodes), so that a task's weight
  does not depend on its luck. Source: Efron and Tibshirani, An Introduction
  to the Bootstrap (1993), chapter 13.

  Args:
    groups: values of each group; for a paired test, the differences of the
      pairs.
    samples: bootstrap samples.
    level: coverage.
    seed: of the resampling.

  Raises:
    ValueError: if there is no group, or an empty one.
  """
  _check_groups(groups)
  rng = np.random.default_rng(seed)
  means = np.zeros(samples)
  for group in groups:
    values = np.asarray(group, np.float64)
    draws = rng.integers(0, len(values), (samples, len(values)))
    means += values[draws].mean(axis=1)
  return _percentiles(means / len(groups), level)


def two_level_interval(
  groups: Sequence[Sequence[float]],
  *,
  samples: int = 10_000,
  level: float = 0.95,
  seed: int = 0,
) -> tuple[float, float]:
  """Percentile bootstrap of the mean of means: tasks, then their episodes.

  Wider than `bootstrap_interval`: it speaks of tasks like these, not of these
  tasks. Source: Davison and Hinkley, Bootstrap Methods and their Application
  (1997), section 3.8 (hierarchical data). Arguments and errors are those of
  `bootstrap_interval`.
  """
  _check_groups(groups)
  rng = np.random.default_rng(seed)
  arrays = [np.asarray(group, np.float64) for group in groups]
  chosen = rng.integers(0, len(arrays), (samples, len(arrays)))
  means = np.zeros(samples)
  for index, values in enumerate(arrays):
    rows, _ = np.nonzero(chosen == index)
    draws = rng.integers(0, len(values), (len(rows), len(values)))
    np.add.at(means, rows, values[draws].mean(axis=1))
  return _percentiles(means / len(arrays), level)


def tasks_test(differences: Sequence[float], *, seed: int = 0) -> float:
  """Two-sided p-value of Fisher's paired randomization test over tasks.

  Under the hypothesis that two agents are alike, the sign of each task's
  difference is a coin. The p-value is the share of sign patterns whose mean is
  at least as far from 0 as the one seen: all patterns up to `MAX_EXACT` of
  them, else that many drawn ones, the seen one included.
  Source: Fisher, The Design of Experiments (1935), section 21.

  Args:
    differences: one for each task: agent A's mean minus agent B's.
    seed: of the patterns, where not all are tried.

  Raises:
    ValueError: if there is none.
  """
  values = np.asarray(differences, np.float64)
  if not len(values):
    raise ValueError('the test needs at least one task')
  seen = abs(values.sum()) * (1 - _ROUNDING)
  if 2 ** len(values) <= MAX_EXACT:
    # Half of the patterns; the others are their mirror images.
    patterns = 2 ** (len(values) - 1)
    places = np.arange(len(values))
    extreme = 0
    for start in range(0, patterns, _BLOCK):
      codes = np.arange(start, min(patterns, start + _BLOCK))
      signs = 1 - 2 * (codes[:, None] >> places & 1)
      extreme += int(np.count_nonzero(abs(signs @ values) >= seen))
    return extreme / patterns
  rng = np.random.default_rng(seed)
  extreme = 1
  for _ in range(MAX_EXACT // _BLOCK):
    signs = rng.choice((-1.0, 1.0), (_BLOCK, len(values)))
    extreme += int(np.count_nonzero(abs(signs @ values) >= seen))
  return extreme / (MAX_EXACT + 1)


def episodes_test(
  first: Sequence[Sequence[float]],
  second: Sequence[Sequence[float]],
  *,
  samples: int = 10_000,
  seed: int = 0,
) -> float:
  """Two-sided p-value of a permutation test within tasks.

  Under the hypothesis that two agents are alike on each of these tasks, it is
  chance which episodes of a task are whose. The statistic is the difference of
  the means of the tasks' means. Source: Good, Permutation, Parametric and
  Bootstrap Tests of Hypotheses (2005), section 3.7 (blocks); the seen
  arrangement counts as one of the drawn ones.

  Args:
    first: values of each task's episodes.
    second: of the other agent, tasks in the same order.
    samples: arrangements drawn.
    seed: of the arrangements.

  Raises:
    ValueError: if the tasks do not match, or one is empty.
  """
  _check_groups(first)
  _check_groups(second)
  if len(first) != len(second):
    raise ValueError(f'{len(first)} tasks against {len(second)}')
  rng = np.random.default_rng(seed)
  seen = 0.0
  drawn = np.zeros(samples)
  for a, b in zip(first, second, strict=True):
    values = np.concatenate([a, b]).astype(np.float64)
    seen += np.mean(a) - np.mean(b)
    shuffled = rng.permuted(np.tile(values, (samples, 1)), axis=1)
    drawn += shuffled[:, : len(a)].mean(axis=1)
    drawn -= shuffled[:, len(a) :].mean(axis=1)
  extreme = np.count_nonzero(abs(drawn) >= abs(seen) * (1 - _ROUNDING))
  return (int(extreme) + 1) / (samples + 1)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
  """Adjusted p-values that keep the family-wise error, whatever depends.

  Source: Holm, A simple sequentially rejective multiple test procedure,
  Scandinavian Journal of Statistics 6 (1979).
  """
  ordered = sorted(p_values, key=p_values.get)
  adjusted, largest = {}, 0.0
  for rank, name in enumerate(ordered):
    largest = max(largest, (len(ordered) - rank) * p_values[name])
    adjusted[name] = min(1.0, largest)
  return {name: adjusted[name] for name in p_values}


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
  """95 % score interval of a share. Source: Wilson, JASA 22 (1927).

  Raises:
    ValueError: if there were no trials.
  """
  if trials < 1:
    raise ValueError('a share of no trials has no interval')
  z = 1.959963984540054
  share = successes / trials
  scale = 1 + z**2 / trials
  centre = (share + z**2 / (2 * trials)) / scale
  half = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
  return max(0.0, centre - half / scale), min(1.0, centre + half / scale)


def ranks(values: Sequence[float]) -> np.ndarray:
  """Ranks from 1 on, ties sharing the mean of their places."""
  array = np.asarray(values, np.float64)
  _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
  last = np.cumsum(counts)
  return (last - (counts - 1) / 2)[inverse]


def spearman(
  x: Sequence[float], y: Sequence[float], *, samples: int = 20_000, seed=0
) -> tuple[float, float]:
  """Spearman's rank correlation and its two-sided permutation p-value.

  Exact up to 7 pairs. Source: Spearman, American Journal of Psychology 15
  (1904). (nan, 1.0) if one side has no variance: there is nothing to rank.

  Raises:
    ValueError: if there are fewer than 3 pairs.
  """
  if len(x) != len(y) or len(x) < 3:
    raise ValueError(f'at least 3 pairs, not {len(x)} and {len(y)} values')
  a, b = ranks(x) - np.mean(ranks(x)), ranks(y) - np.mean(ranks(y))
  size = math.sqrt(float(a @ a) * float(b @ b))
  if size == 0:
    return math.nan, 1.0
  seen = float(a @ b) / size
  if len(a) <= 7:
    orders = np.array(list(itertools.permutations(range(len(a)))))
    drawn = b[orders] @ a / size
    extreme = np.count_nonzero(abs(drawn) >= abs(seen) - _ROUNDING)
    return seen, float(extreme / len(orders))
  rng = np.random.default_rng(seed)
  drawn = rng.permuted(np.tile(b, (samples, 1)), axis=1) @ a / size
  extreme = np.count_nonzero(abs(drawn) >= abs(seen) - _ROUNDING)
  return seen, float((extreme + 1) / (samples + 1))


def _check_groups(groups: Sequence[Sequence[float]]) -> None:
  if len(groups) == 0 or any(len(group) == 0 for group in groups):
    raise ValueError(f'every group needs a value: {[len(g) for g in groups]}')


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
  tail = (1 - level) / 2
  low, high = np.quantile(values, [tail, 1 - tail])
  return float(low), float(high)

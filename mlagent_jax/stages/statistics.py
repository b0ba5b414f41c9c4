"""Error bars: bootstrap intervals of means over tasks and episodes."""

from collections.abc import Sequence

import numpy as np


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
  if len(groups) == 0 or any(len(group) == 0 for group in groups):
    raise ValueError(f'every group needs a value: {[len(g) for g in groups]}')
  rng = np.random.default_rng(seed)
  means = np.zeros(samples)
  for group in groups:
    values = np.asarray(group, np.float64)
    draws = rng.integers(0, len(values), (samples, len(values)))
    means += values[draws].mean(axis=1)
  tail = (1 - level) / 2
  low, high = np.quantile(means / len(groups), [tail, 1 - tail])
  return float(low), float(high)

"""The bootstrap interval against scipy's and against the known coverage."""

import numpy as np
import pytest
import scipy.stats

from mlagent_jax.stages import statistics


def test_one_group_equals_scipy():
  values = np.random.default_rng(0).normal(2, 3, 40)
  low, high = statistics.bootstrap_interval([values], samples=20_000)
  reference = scipy.stats.bootstrap(
    (values,), np.mean, method='percentile', n_resamples=20_000, rng=1
  ).confidence_interval
  assert low == pytest.approx(reference.low, abs=0.04)
  assert high == pytest.approx(reference.high, abs=0.04)


def test_groups_count_alike_whatever_their_size():
  low, high = statistics.bootstrap_interval([[1.0] * 100, [3.0]])
  assert (low, high) == (2.0, 2.0)


def test_interval_covers_as_often_as_it_says():
  rng = np.random.default_rng(1)
  hits = 0
  for trial in range(300):
    groups = rng.normal([[0.0], [1.0], [5.0]], 1.0, (3, 30))
    low, high = statistics.bootstrap_interval(groups, samples=400, seed=trial)
    hits += low <= 2.0 <= high
  assert 0.90 <= hits / 300 <= 0.98


def test_an_empty_group_is_refused():
  with pytest.raises(ValueError, match='every group'):
    statistics.bootstrap_interval([[1.0], []])

"""Intervals, tests and correlations against scipy's and known answers."""

import itertools

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
  with pytest.raises(ValueError, match='every group'):
    statistics.two_level_interval([])


def test_two_levels_with_one_value_each_are_scipys_bootstrap_of_tasks():
  values = np.random.default_rng(2).normal(0, 1, 19)
  ours = statistics.two_level_interval([[v] for v in values], samples=20_000)
  reference = scipy.stats.bootstrap(
    (values,), np.mean, method='percentile', n_resamples=20_000, rng=1
  ).confidence_interval
  assert ours == pytest.approx(tuple(reference), abs=0.02)


def test_two_levels_equal_a_bootstrap_written_as_a_loop():
  rng = np.random.default_rng(3)
  groups = [rng.normal(m, 1, 8) for m in (0, 1, 4, 9)]
  means = []
  for _ in range(4000):
    chosen = [groups[i] for i in rng.integers(0, 4, 4)]
    means.append(np.mean([rng.choice(g, 8).mean() for g in chosen]))
  low, high = statistics.two_level_interval(groups, samples=20_000)
  assert (low, high) == pytest.approx(
    tuple(np.quantile(means, [0.025, 0.975])), abs=0.2
  )


@pytest.mark.parametrize('count', [2, 3, 8, 12])
def test_the_test_over_tasks_equals_scipys_exact_one(count):
  differences = np.random.default_rng(count).normal(0.4, 1, count)
  reference = scipy.stats.permutation_test(
    (differences,),
    np.mean,
    permutation_type='samples',
    n_resamples=np.inf,
  ).pvalue
  assert statistics.tasks_test(differences) == pytest.approx(reference)


def test_the_drawn_test_over_tasks_comes_close_to_scipys():
  # 2 ** 24 patterns are too many to be tried.
  differences = np.random.default_rng(5).normal(0.4, 1, 24)
  reference = scipy.stats.permutation_test(
    (differences,), np.sum, permutation_type='samples', n_resamples=20_000
  ).pvalue
  found = statistics.tasks_test(differences)
  assert found == pytest.approx(reference, abs=0.015)


def test_the_test_over_episodes_equals_scipys_in_one_task():
  rng = np.random.default_rng(6)
  first, second = rng.normal(0.8, 1, 8), rng.normal(0, 1, 8)
  reference = scipy.stats.permutation_test(
    (first, second),
    lambda a, b: np.mean(a) - np.mean(b),
    n_resamples=np.inf,
  ).pvalue
  ours = statistics.episodes_test([first], [second], samples=20_000)
  assert ours == pytest.approx(reference, abs=0.01)


def test_the_test_over_episodes_keeps_them_in_their_tasks():
  # Three tasks of 2 + 2 episodes: all 6 ** 3 arrangements, by hand.
  rng = np.random.default_rng(7)
  values = rng.normal(0, 1, (3, 4)) + np.array([[1, 1, 0, 0]] * 3)
  sums = []
  for places in itertools.product(
    itertools.combinations(range(4), 2), repeat=3
  ):
    total = 0.0
    for row, place in zip(values, places, strict=True):
      other = [i for i in range(4) if i not in place]
      total += row[list(place)].mean() - row[other].mean()
    sums.append(total)
  seen = (values[:, :2].mean(1) - values[:, 2:].mean(1)).sum()
  exact = np.mean(np.abs(sums) >= abs(seen) - 1e-12)
  ours = statistics.episodes_test(values[:, :2], values[:, 2:], samples=40_000)
  assert ours == pytest.approx(exact, abs=0.01)


def test_equal_agents_differ_as_often_as_the_level_says():
  rng = np.random.default_rng(8)
  p_values = [statistics.tasks_test(rng.normal(0, 1, 10)) for _ in range(400)]
  assert 0.02 <= np.mean(np.array(p_values) <= 0.05) <= 0.08


def test_no_difference_at_all_is_no_evidence():
  assert statistics.tasks_test([0.0] * 5) == 1.0
  assert statistics.episodes_test([[1.0, 1.0]], [[1.0, 1.0]]) == 1.0


def test_holm_equals_the_published_example():
  # R 4.3: p.adjust(c(0.01, 0.04, 0.03, 0.005), 'holm')
  found = statistics.holm({'a': 0.01, 'b': 0.04, 'c': 0.03, 'd': 0.005})
  assert found == pytest.approx({'a': 0.03, 'b': 0.06, 'c': 0.06, 'd': 0.02})
  assert statistics.holm({'a': 0.9, 'b': 0.8}) == {'a': 1.0, 'b': 1.0}


@pytest.mark.parametrize('wins, trials', [(0, 8), (3, 8), (8, 8), (70, 152)])
def test_the_interval_of_a_share_equals_scipys(wins, trials):
  reference = scipy.stats.binomtest(wins, trials).proportion_ci(method='wilson')
  assert statistics.wilson_interval(wins, trials) == pytest.approx(
    (reference.low, reference.high)
  )


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('count', [6, 19])
def test_spearman_equals_scipys(count, ties):
  rng = np.random.default_rng(count)
  x = rng.normal(0, 1, count)
  y = x + rng.normal(0, 1.5, count)
  if ties:
    x, y = np.round(x), np.round(y)
  np.testing.assert_allclose(statistics.ranks(x), scipy.stats.rankdata(x))
  reference = scipy.stats.spearmanr(x, y)
  found, p_value = statistics.spearman(x, y)
  assert found == pytest.approx(reference.statistic)
  # scipy's own p-value is from the t distribution: its permutation one.
  permuted = scipy.stats.permutation_test(
    (x,),
    lambda a: scipy.stats.spearmanr(a, y).statistic,
    permutation_type='pairings',
    n_resamples=np.inf if count == 6 else 999,
    rng=0,
  ).pvalue
  assert p_value == pytest.approx(permuted, abs=1e-9 if count == 6 else 0.05)


def test_a_constant_has_no_correlation():
  found, p_value = statistics.spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])
  assert np.isnan(found)
  assert p_value == 1.0

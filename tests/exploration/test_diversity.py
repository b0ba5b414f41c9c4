"""Farthest-point selection against brute force; the embedding's properties."""

import itertools

import numpy as np
import pytest

from mlagent_jax.exploration import diversity


def smallest(vectors, chosen):
  return min(
    np.linalg.norm(vectors[i] - vectors[j])
    for i, j in itertools.combinations(chosen, 2)
  )


@pytest.mark.parametrize('seed', range(20))
def test_selection_is_within_half_of_the_best_possible(seed):
  rng = np.random.default_rng(seed)
  vectors = rng.normal(size=(rng.integers(6, 10), 3))
  for count in (2, 3, 4, 5):
    chosen = diversity.furthest_points(vectors, count)
    assert len(set(chosen)) == count
    best = max(
      smallest(vectors, subset)
      for subset in itertools.combinations(range(len(vectors)), count)
    )
    found = smallest(vectors, chosen)
    assert best / 2 <= found + 1e-9
    if count == 2:
      assert found == pytest.approx(best)


@pytest.mark.parametrize('seed', range(5))
def test_each_choice_is_the_furthest_from_those_before(seed):
  vectors = np.random.default_rng(seed).normal(size=(12, 4))
  chosen = diversity.furthest_points(vectors, 12)
  assert sorted(chosen) == list(range(12))
  for k in range(2, 12):
    gaps = [
      min(np.linalg.norm(vectors[i] - vectors[j]) for j in chosen[:k])
      for i in range(12)
    ]
    assert gaps[chosen[k]] == pytest.approx(max(gaps))


def test_clusters_are_each_represented():
  rng = np.random.default_rng(0)
  centers = 10 * np.eye(6)
  vectors = np.repeat(centers, 20, 0) + rng.normal(size=(120, 6)) * 0.1
  chosen = diversity.furthest_points(vectors, 6)
  assert {i // 20 for i in chosen} == set(range(6))


def test_wrong_counts_are_errors():
  for count in (0, 4):
    with pytest.raises(ValueError, match=f'cannot choose {count} of 3'):
      diversity.furthest_points(np.eye(3), count)
  assert len(diversity.furthest_points(np.eye(3), 1)) == 1


@pytest.mark.parametrize('count', [1, 2, 3, 4])
def test_rows_that_are_all_the_same_are_still_different_rows(count):
  chosen = diversity.furthest_points(np.ones((4, 3)), count)
  assert len(set(chosen)) == count


def test_mean_distance_is_that_of_all_pairs():
  vectors = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
  pairs = [
    np.linalg.norm(vectors[i] - vectors[j])
    for i, j in itertools.combinations(range(7), 2)
  ]
  assert diversity.mean_distance(vectors) == pytest.approx(np.mean(pairs), 1e-5)
  assert diversity.mean_distance(vectors[:1]) == 0


def test_embedding_is_of_unit_length_and_deterministic():
  texts = ['Model: grow a forest.', 'Scaling: use ranks.', '…']
  vectors = diversity.ngram_embedding(texts)
  assert vectors.shape == (3, diversity.DIMENSIONS)
  assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 0])
  assert np.array_equal(vectors, diversity.ngram_embedding(texts))
  # A text's vector depends on nothing but the text.
  assert np.array_equal(vectors[1:2], diversity.ngram_embedding(texts[1:2]))


def test_embedding_knows_near_from_far():
  texts = [
    'Model: grow a random forest of 100 trees.',
    'Model: grow a random forest of 500 trees.',
    'Model: boost regression trees.',
    'Predictions: clip to the range of the targets.',
  ]
  apart = diversity.distances(diversity.ngram_embedding(texts))
  assert apart[0, 1] < apart[0, 2] < apart[0, 3]


@pytest.mark.parametrize('seed', range(5))
def test_nearest_points_are_closer_than_any_other_ball(seed):
  vectors = np.random.default_rng(seed).normal(size=(12, 4))
  chosen = diversity.nearest_points(vectors, 4)
  sums = [
    np.sort(np.linalg.norm(vectors - center, axis=1))[:4].sum()
    for center in vectors
  ]
  found = np.linalg.norm(vectors[chosen] - vectors[chosen[0]], axis=1).sum()
  assert len(set(chosen)) == 4
  assert found == pytest.approx(min(sums))
  far = diversity.choose(vectors, 4, 'furthest')
  assert diversity.mean_distance(vectors[far]) > diversity.mean_distance(
    vectors[chosen]
  )


def test_choices():
  vectors = np.eye(6)
  first = diversity.choose(vectors, 4, 'random', seed=1)
  assert first == diversity.choose(vectors, 4, 'random', seed=1)
  assert len(set(first)) == 4
  assert first != diversity.choose(vectors, 4, 'random', seed=2)
  with pytest.raises(ValueError, match="'best' is none of"):
    diversity.choose(vectors, 4, 'best')
  with pytest.raises(ValueError, match='cannot choose 7 of 6'):
    diversity.choose(vectors, 7, 'random')

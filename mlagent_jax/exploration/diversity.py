"""How far apart ideas are, and which of them are the furthest apart.

An embedding is any function texts -> [n, d] of unit rows; `ngram_embedding`
needs nothing but NumPy. Source of the selection: farthest-point traversal
(Gonzalez 1985), whose smallest distance is at least half of the best
possible one.
"""

import re
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

Embedding = Callable[[Sequence[str]], np.ndarray]

DIMENSIONS = 16384
CHOICES = ('furthest', 'random', 'nearest')


# Words that say nothing of an idea.
_EMPTY = frozenset(
  re.findall(
    r'\w+',
    'a all an and are as at by each every for from in is it its of on one or'
    ' than that the them to too which with',
  )
)


def ngram_embedding(texts: Sequence[str]) -> np.ndarray:
  """Hashed words, and character 3- to 5-grams of words; no empty words.

  The character n-grams bring 'regression' and 'regress' together.

  Args:
    texts: n of them.

  Returns:
    [n, DIMENSIONS] float32, rows of length 1 (0 for a text without a word).
  """
  vectors = np.zeros((len(texts), DIMENSIONS), np.float32)
  for row, text in zip(vectors, texts, strict=True):
    for feature in _features(text.lower()):
      row[zlib.crc32(feature.encode()) % DIMENSIONS] += 1
  norms = np.linalg.norm(vectors, axis=1, keepdims=True)
  return vectors / np.maximum(norms, 1e-12)


def _features(text: str) -> Iterator[str]:
  for word in re.findall(r'\w+', text):
    if word in _EMPTY:
      continue
    yield f'word {word}'
    spaced = f' {word} '
    for size in (3, 4, 5):
      for start in range(len(spaced) - size + 1):
        yield spaced[start : start + size]


def distances(vectors: np.ndarray) -> np.ndarray:
  """Euclidean distances between all rows. vectors: [n, d] -> [n, n]."""
  squares = np.einsum('nd,nd->n', vectors, vectors)
  inner = vectors @ vectors.T
  squared = squares[:, None] + squares[None, :] - 2 * inner
  np.fill_diagonal(squared, 0)
  return np.sqrt(np.maximum(squared, 0))


def mean_distance(vectors: np.ndarray) -> float:
  """Mean over all pairs of different rows; 0 if there is none."""
  n = len(vectors)
  if n < 2:
    return 0.0
  return float(distances(vectors).sum() / (n * (n - 1)))


def furthest_points(vectors: np.ndarray, count: int) -> list[int]:
  """Indices of `count` rows that are far apart, in the order of choice.

  Begins with the two rows that are the furthest apart; then always the row
  whose nearest chosen row is the furthest. Ties go to the first row.

  Args:
    vectors: [n, d].
    count: how many to choose.

  Raises:
    ValueError: if there are fewer rows than that.
  """
  if not 0 < count <= len(vectors):
    raise ValueError(f'cannot choose {count} of {len(vectors)} rows')
  apart = distances(vectors)
  np.fill_diagonal(apart, -1)  # a row is no pair, if all rows are the same
  first, second = np.unravel_index(np.argmax(apart), apart.shape)
  chosen = [int(first), int(second)][:count]
  nearest = apart[:, chosen].min(axis=1)
  while len(chosen) < count:
    nearest[chosen] = -1
    following = int(np.argmax(nearest))
    chosen.append(following)
    nearest = np.minimum(nearest, apart[:, following])
  return chosen


def nearest_points(vectors: np.ndarray, count: int) -> list[int]:
  """Indices of the row with the closest neighbours, and of these neighbours.

  What exploration without diversity would try: the counterpart of
  `furthest_points`, for comparison; arguments and errors are the same.
  """
  if not 0 < count <= len(vectors):
    raise ValueError(f'cannot choose {count} of {len(vectors)} rows')
  apart = distances(vectors)
  nearest = np.argsort(apart, axis=1, kind='stable')[:, :count]
  spread = np.take_along_axis(apart, nearest, axis=1).sum(axis=1)
  return [int(index) for index in nearest[np.argmin(spread)]]


def choose(
  vectors: np.ndarray, count: int, choice: str, *, seed: int = 0
) -> list[int]:
  """Indices of `count` rows by one of CHOICES; `seed` is for 'random'.

  Raises:
    ValueError: if there is no such choice, or there are too few rows.
  """
  if choice == 'furthest':
    return furthest_points(vectors, count)
  if choice == 'nearest':
    return nearest_points(vectors, count)
  if choice != 'random':
    raise ValueError(f'choice {choice!r} is none of {CHOICES}')
  if not 0 < count <= len(vectors):
    raise ValueError(f'cannot choose {count} of {len(vectors)} rows')
  drawn = np.random.default_rng(seed).permutation(len(vectors))[:count]
  return [int(index) for index in drawn]

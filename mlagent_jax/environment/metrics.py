"""Metrics of the tasks: arrays of truths and predictions -> one number.

Written in NumPy from their definitions, so that a worker that grades needs
no scikit-learn (half a second of import); the tests compare each of them with
scikit-learn's. Shapes everywhere: truth, predicted [N, C], N rows and C
target columns; float64 unless the metric says that its values are texts.
"""

import dataclasses
import enum
from collections.abc import Callable

import numpy as np

# Log loss clips to what scikit-learn clips to for float64.
_EPSILON = np.finfo(np.float64).eps


class Values(enum.StrEnum):
  """What one value of a submission must be for a metric to make sense."""

  LABEL = 'label'  # any text; compared as numbers where all truths are
  NUMBER = 'number'
  NON_NEGATIVE = 'non-negative number'
  INTEGER = 'integer'
  PROBABILITY = 'probability'  # in [0, 1]; several columns: rows sum to 1
  RANKING = 'ranking'  # up to five labels, best first, spaces between


@dataclasses.dataclass(frozen=True)
class Metric:
  """A metric, its direction, and what it demands of a submission.

  Attributes:
    function: (truth [N, C], predicted [N, C]) -> float.
    higher_is_better: its direction.
    values: what each value of a submission must be.
    one_column: it is defined for a single target column only.
  """

  function: Callable[[np.ndarray, np.ndarray], float]
  higher_is_better: bool
  values: Values
  one_column: bool = False


def accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
  """Share of rows whose label is right."""
  return float(np.mean(truth == predicted))


def auc(truth: np.ndarray, predicted: np.ndarray) -> float:
  """Area under the ROC curve; truth in {0, 1}; the mean over columns.

  By the Mann-Whitney identity, ties counting one half.

  Raises:
    ValueError: if a column of truths holds one class only.
  """
  areas = []
  for column in range(truth.shape[1]):
    positive = truth[:, column] == 1
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
      raise ValueError(f'AUC of column {column}: only one class in the truth')
    _, places, counts = np.unique(
      predicted[:, column], return_inverse=True, return_counts=True
    )
    # The mean rank of equal values: [distinct values].
    ranks = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = ranks[places][positive].sum()
    above = rank_sum - positives * (positives + 1) / 2
    areas.append(above / (positives * negatives))
  return float(np.mean(areas))


def log_loss(truth: np.ndarray, predicted: np.ndarray) -> float:
  """Mean negative log-likelihood in nats.

  One column: truth in {0, 1} and the probability of 1. Several columns: truth
  is one-hot, rows of predicted are rescaled to sum to one.
  """
  if truth.shape[1] == 1:
    truth = np.concatenate([1 - truth, truth], axis=1)
    predicted = np.concatenate([1 - predicted, predicted], axis=1)
  predicted = predicted / predicted.sum(axis=1, keepdims=True)
  predicted = np.clip(predicted, _EPSILON, 1 - _EPSILON)
  return float(-np.mean(np.sum(truth * np.log(predicted), axis=1)))


def mae(truth: np.ndarray, predicted: np.ndarray) -> float:
  """Mean absolute error over all values."""
  return float(np.mean(np.abs(truth - predicted)))


def rmse(truth: np.ndarray, predicted: np.ndarray) -> float:
  """Root mean squared error over all values."""
  return float(np.sqrt(np.mean(np.square(truth - predicted))))


def mcrmse(truth: np.ndarray, predicted: np.ndarray) -> float:
  """Mean over the columns of each column's root mean squared error."""
  squared = np.mean(np.square(truth - predicted), axis=0)
  return float(np.mean(np.sqrt(squared)))


def rmsle(truth: np.ndarray, predicted: np.ndarray) -> float:
  """Root mean squared error of log(1 + value); the mean over columns."""
  return mcrmse(np.log1p(truth), np.log1p(predicted))


def qwk(truth: np.ndarray, predicted: np.ndarray) -> float:
  """Quadratic weighted kappa of two integer ratings.

  1 - E[(a - b)^2] / E[(a - b')^2], b' independent of a: what the confusion
  matrices compute, without building them. Zero if both ratings are one
  constant.
  """
  a, b = truth[:, 0], predicted[:, 0]
  expected = np.mean(a * a) + np.mean(b * b) - 2 * np.mean(a) * np.mean(b)
  if expected <= 0:
    return 0.0
  return float(1 - np.mean(np.square(a - b)) / expected)


def map_at_5(truth: np.ndarray, predicted: np.ndarray) -> float:
  """Mean of 1 / (place of the right label among the first five); texts."""
  total = 0.0
  for right, ranking in zip(truth[:, 0], predicted[:, 0], strict=True):
    ranked = ranking.split()[:5]
    if right in ranked:
      total += 1 / (1 + ranked.index(right))
  return total / len(truth)


def pearson(truth: np.ndarray, predicted: np.ndarray) -> float:
  """Correlation coefficient; 0 if the predictions are one constant."""
  a = truth[:, 0] - truth[:, 0].mean()
  b = predicted[:, 0] - predicted[:, 0].mean()
  scale = np.abs(b).max()
  # What rounding leaves of a constant is not a signal.
  if scale <= 1e-12 * max(1.0, np.abs(predicted).max()):
    return 0.0
  b = b / scale
  return float(np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b)))


METRICS = {
  'accuracy': Metric(accuracy, True, Values.LABEL, one_column=True),
  'auc': Metric(auc, True, Values.NUMBER),
  'log_loss': Metric(log_loss, False, Values.PROBABILITY),
  'mae': Metric(mae, False, Values.NUMBER),
  'rmse': Metric(rmse, False, Values.NUMBER),
  'rmsle': Metric(rmsle, False, Values.NON_NEGATIVE),
  'mcrmse': Metric(mcrmse, False, Values.NUMBER),
  'qwk': Metric(qwk, True, Values.INTEGER, one_column=True),
  'map_at_5': Metric(map_at_5, True, Values.RANKING, one_column=True),
  'pearson': Metric(pearson, True, Values.NUMBER, one_column=True),
}

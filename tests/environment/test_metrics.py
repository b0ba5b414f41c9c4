"""Each metric against scikit-learn's, an implementation that is not ours."""

import numpy as np
import pytest
from sklearn import metrics as reference

from mlagent_jax.environment import metrics


@pytest.fixture
def draw():
  return np.random.default_rng(0)


def test_accuracy(draw):
  truth, predicted = draw.integers(0, 4, (2, 300, 1))
  expected = reference.accuracy_score(truth, predicted)
  assert metrics.accuracy(truth, predicted) == pytest.approx(expected)


@pytest.mark.parametrize('digits', [1, 8])  # with many ties and with none
def test_auc(draw, digits):
  truth = draw.integers(0, 2, (400, 3)).astype(float)
  predicted = np.round(draw.normal(size=(400, 3)) + truth, digits)
  expected = reference.roc_auc_score(truth, predicted, average='macro')
  assert metrics.auc(truth, predicted) == pytest.approx(expected, abs=1e-12)


def test_auc_of_one_class_is_an_error(draw):
  with pytest.raises(ValueError, match='one class'):
    metrics.auc(np.ones((5, 1)), draw.normal(size=(5, 1)))


def test_log_loss_of_one_column(draw):
  truth = draw.integers(0, 2, (300, 1)).astype(float)
  predicted = draw.random((300, 1))
  predicted[:4, 0] = 0, 1, 0, 1  # clipped as scikit-learn clips
  expected = reference.log_loss(truth[:, 0], predicted[:, 0])
  assert metrics.log_loss(truth, predicted) == pytest.approx(expected)


def test_log_loss_of_several_columns(draw):
  classes = draw.integers(0, 5, 300)
  predicted = draw.dirichlet(np.ones(5), 300)
  predicted[0] = np.eye(5)[(classes[0] + 1) % 5]
  expected = reference.log_loss(classes, predicted, labels=range(5))
  assert metrics.log_loss(np.eye(5)[classes], predicted) == pytest.approx(
    expected
  )


def test_errors_of_numbers(draw):
  truth, predicted = np.abs(draw.normal(size=(2, 300, 3)))
  columns = [
    reference.root_mean_squared_error(truth[:, c], predicted[:, c])
    for c in range(3)
  ]
  logs = [
    reference.root_mean_squared_log_error(truth[:, c], predicted[:, c])
    for c in range(3)
  ]
  for found, expected in (
    (metrics.mae, reference.mean_absolute_error(truth, predicted)),
    (
      metrics.rmse,
      np.sqrt(reference.mean_squared_error(truth.ravel(), predicted.ravel())),
    ),
    (metrics.mcrmse, np.mean(columns)),
    (metrics.rmsle, np.mean(logs)),
  ):
    assert found(truth, predicted) == pytest.approx(expected)


def test_qwk(draw):
  truth = draw.integers(1, 7, (300, 1)).astype(float)
  predicted = np.clip(truth + draw.integers(-2, 3, (300, 1)), 1, 6)
  expected = reference.cohen_kappa_score(
    truth[:, 0], predicted[:, 0], weights='quadratic', labels=range(1, 7)
  )
  assert metrics.qwk(truth, predicted) == pytest.approx(expected)
  constant = np.full_like(truth, 3.0)
  assert metrics.qwk(truth, constant) == pytest.approx(0.0, abs=1e-12)


def test_map_at_5(draw):
  # With one right label, the mean precision is the reciprocal rank.
  scores = draw.random((200, 12))
  truth = draw.integers(0, 12, 200)
  order = np.argsort(-scores, axis=1)[:, :5]
  kept = np.zeros_like(scores)
  np.put_along_axis(kept, order, [5, 4, 3, 2, 1], axis=1)
  found = (order == truth[:, None]).any(axis=1)
  expected = (
    reference.label_ranking_average_precision_score(
      np.eye(12)[truth[found]], kept[found]
    )
    * found.mean()
  )
  texts = np.array([[' '.join(map(str, row))] for row in order], dtype=object)
  right = np.array([[str(t)] for t in truth], dtype=object)
  assert metrics.map_at_5(right, texts) == pytest.approx(expected)


def test_pearson(draw):
  truth = draw.normal(size=(300, 1))
  predicted = truth + draw.normal(size=(300, 1))
  expected = np.corrcoef(truth[:, 0], predicted[:, 0])[0, 1]
  assert metrics.pearson(truth, predicted) == pytest.approx(expected)
  assert metrics.pearson(truth, np.full_like(truth, 0.1)) == 0.0
  assert metrics.pearson(truth, predicted * 1e200) == pytest.approx(expected)


def test_directions():
  higher = {name for name, m in metrics.METRICS.items() if m.higher_is_better}
  assert higher == {'accuracy', 'auc', 'qwk', 'map_at_5', 'pearson'}

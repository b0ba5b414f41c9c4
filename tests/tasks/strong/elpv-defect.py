import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.decomposition import PCA
from sklearn.ensemble import (
  ExtraTreesClassifier,
  HistGradientBoostingClassifier,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

train = np.load('data/train.npz')
test = np.load('data/test.npz')
y = train['defect']


def gradients(images, block):
  """Gradients summed over 8 directions in square blocks, normalised."""
  pixels = images.astype(np.float32) / 255
  down, right = np.gradient(pixels, axis=(1, 2))
  size = np.hypot(down, right)
  turn = ((np.arctan2(down, right) / np.pi + 1) * 4).astype(int) % 8
  n = 60 // block
  parts = []
  for direction in range(8):
    part = np.where(turn == direction, size, 0)
    parts.append(part.reshape(-1, n, block, n, block).sum(axis=(2, 4)))
  return np.sqrt(np.stack(parts, axis=-1)).reshape(len(images), -1)


def summary(images):
  """Statistics of the image, its rows, its columns and its darkest spots."""
  pixels = images.astype(np.float32) / 255
  flat = pixels.reshape(len(images), -1)
  middle = np.median(flat, axis=1, keepdims=True)
  parts = [np.percentile(flat / middle, range(0, 101, 5), axis=1).T]
  blocks = pixels.reshape(-1, 12, 5, 12, 5).mean(axis=(2, 4))
  blocks = np.sort(blocks.reshape(len(images), -1) / middle, axis=1)
  parts += [blocks[:, :20], flat.mean(axis=1)[:, None], middle]
  for axis in (1, 2):
    lines = pixels.mean(axis=axis)
    parts.append(np.sort(lines / middle, axis=1)[:, :10])
    parts.append(np.abs(np.diff(pixels, axis=axis)).mean(axis=(1, 2))[:, None])
  return np.hstack(parts)


x, x_test = summary(train['image']), summary(test['image'])
g, g_test = gradients(train['image'], 10), gradients(test['image'], 10)
both, both_test = np.hstack([x, g]), np.hstack([x_test, g_test])
support = make_pipeline(
  StandardScaler(), PCA(120, random_state=0), SVC(C=2.0, gamma=0.001)
)
boosting = HistGradientBoostingClassifier(
  learning_rate=0.06, max_iter=150, max_leaf_nodes=10, random_state=0
)
trees = ExtraTreesClassifier(300, max_features=0.2, random_state=0)
ranks = rankdata(support.fit(both, y).decision_function(both_test))
ranks += rankdata(boosting.fit(x, y).decision_function(x_test))
ranks += rankdata(trees.fit(both, y).predict_proba(both_test)[:, 1])

submission = pd.read_csv('data/sample_submission.csv')
submission['defect'] = ranks / ranks.max()
submission.to_csv('submission.csv', index=False)

import numpy as np
import pandas as pd
from scipy import ndimage
from sklearn.ensemble import HistGradientBoostingRegressor

train = np.load('data/train.npz')
test = np.load('data/test.npz')
y = train['clean'].reshape(-1).astype(float)


def features(patches):
  """Medians and means of several sizes, around each pixel."""
  patches = patches.astype(np.float32)
  median = ndimage.median_filter(patches, (1, 3, 3), mode='nearest')
  views = [patches, median]
  for size in (5, 7, 11):
    views.append(ndimage.median_filter(patches, (1, size, size)))
  for sigma in (0.6, 1.0, 1.6, 3.0, 6.0):
    views.append(ndimage.gaussian_filter(median, (0, sigma, sigma)))
  for percentile in (25, 75):
    views.append(ndimage.percentile_filter(patches, percentile, (1, 5, 5)))
  for shift in ((0, 1), (1, 0), (0, -1), (-1, 0)):
    views.append(np.roll(median, shift, axis=(1, 2)))
  whole = np.ones_like(patches)
  flat = patches.reshape(len(patches), -1)
  for percentile in (10, 50, 90):
    level = np.percentile(flat, percentile, axis=1)
    views.append(whole * level[:, None, None])
  return np.stack(views, axis=-1).reshape(-1, len(views))


x, x_test = features(train['dirty']), features(test['dirty'])
# The correction of a smooth image, not the image itself, is learned.
base, base_test = x[:, 6], x_test[:, 6]
model = HistGradientBoostingRegressor(
  learning_rate=0.08,
  max_iter=120,
  max_leaf_nodes=24,
  min_samples_leaf=100,
  l2_regularization=10.0,
  random_state=0,
)
model.fit(x, y - base)
predictions = np.clip(base_test + model.predict(x_test), 0, 255).round(1)

submission = pd.read_csv('data/sample_submission.csv')
submission[submission.columns[1:]] = predictions.reshape(-1, 32)
submission.to_csv('submission.csv', index=False)

import numpy as np
import pandas as pd
from scipy import ndimage
from sklearn.decomposition import PCA
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

train = np.load('data/train.npz')
test = np.load('data/test.npz')
y = train['label']


def upright(images):
  """Undoes each digit's slant and centres it: [n, 28, 28] -> [n, 784]."""
  grid = np.arange(28.0)
  middle = np.array([13.5, 13.5])
  straight = np.empty((len(images), 784))
  for i, image in enumerate(images / 255):
    rows, columns = image.sum(axis=1), image.sum(axis=0)
    centre = np.array([rows @ grid, columns @ grid]) / image.sum()
    down, right = grid - centre[0], grid - centre[1]
    slant = (down @ image @ right) / (rows @ down**2)
    matrix = np.array([[1, 0], [slant, 1]])
    moved = ndimage.affine_transform(
      image, matrix, centre - matrix @ middle, order=1
    )
    straight[i] = moved.ravel()
  return straight


model = make_pipeline(
  PCA(40, random_state=0),
  Nystroem(gamma=0.03, n_components=1000, random_state=0),
  LogisticRegression(C=50, max_iter=300),
)
model.fit(upright(train['image']), y)

submission = pd.read_csv('data/sample_submission.csv')
predictions = model.predict_proba(upright(test['image']))
submission[submission.columns[1:]] = predictions
submission.to_csv('submission.csv', index=False)

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

train = np.load('data/train.npz')
test = np.load('data/test.npz')
y = train['label']


def features(part):
  return np.hstack([part['spectrum'], part['around']]).astype(np.float64)


model = make_pipeline(
  StandardScaler(),
  PCA(390, random_state=0),
  StandardScaler(),
  LogisticRegression(C=0.3, max_iter=300),
)
model.fit(features(train), y)

submission = pd.read_csv('data/sample_submission.csv')
predictions = model.predict_proba(features(test))
submission[model.classes_] = predictions
submission.to_csv('submission.csv', index=False)

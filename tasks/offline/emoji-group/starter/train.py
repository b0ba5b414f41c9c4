import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

train = np.load('data/train.npz')
test = np.load('data/test.npz')
y = train['group']


def features(images):
  return images.mean(axis=(1, 2)) / 255


x = features(train['image'])
x_test = features(test['image'])

model = LogisticRegression(C=1.0)
model.fit(x, y)
predictions = model.predict_proba(x_test)

submission = pd.read_csv('data/sample_submission.csv')
submission[submission.columns[1:]] = predictions
submission.to_csv('submission.csv', index=False)

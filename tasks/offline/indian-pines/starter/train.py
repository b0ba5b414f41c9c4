import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

train = np.load('data/train.npz')
test = np.load('data/test.npz')
y = train['label']

bands = slice(0, 200, 20)
x = train['spectrum'][:, bands] / 10000
x_test = test['spectrum'][:, bands] / 10000

model = LogisticRegression(C=1.0)
model.fit(x, y)
predictions = model.predict_proba(x_test)

submission = pd.read_csv('data/sample_submission.csv')
submission[model.classes_] = predictions
submission.to_csv('submission.csv', index=False)

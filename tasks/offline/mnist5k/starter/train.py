import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

train = np.load('data/train.npz')
test = np.load('data/test.npz')
y = train['label']

reducer = PCA(n_components=10, random_state=0)
x = reducer.fit_transform(train['image'].reshape(-1, 784) / 255)
x_test = reducer.transform(test['image'].reshape(-1, 784) / 255)

model = LogisticRegression(C=0.01)
model.fit(x, y)
predictions = model.predict_proba(x_test)

submission = pd.read_csv('data/sample_submission.csv')
submission[submission.columns[1:]] = predictions
submission.to_csv('submission.csv', index=False)

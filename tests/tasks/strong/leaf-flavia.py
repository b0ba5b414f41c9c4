import numpy as np
import pandas as pd
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import PowerTransformer

train = pd.read_csv('data/train.csv')
test = pd.read_csv('data/test.csv')
y = train['species']
columns = test.columns[1:]

power = PowerTransformer()
x = np.clip(power.fit_transform(train[columns]), -4, 4)
x_test = np.clip(power.transform(test[columns]), -4, 4)
models = [
  LogisticRegression(C=5.0, max_iter=500),
  LinearDiscriminantAnalysis(solver='lsqr', shrinkage=0.05),
  ExtraTreesClassifier(300, max_features=0.5, random_state=0),
]
predictions = sum(m.fit(x, y).predict_proba(x_test) for m in models) / 3

submission = pd.read_csv('data/sample_submission.csv')
submission[models[0].classes_] = predictions
submission.to_csv('submission.csv', index=False)

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

train = pd.read_csv('data/train.csv')
test = pd.read_csv('data/test.csv')
y = train['quintile']

vectorizer = CountVectorizer(max_features=100)
x = vectorizer.fit_transform(train['text'])
x_test = vectorizer.transform(test['text'])

model = LogisticRegression(C=0.1)
model.fit(x, y)
predictions = np.clip(np.rint(model.predict(x_test)), 0, 4)

submission = pd.read_csv('data/sample_submission.csv')
submission['quintile'] = predictions.astype(int)
submission.to_csv('submission.csv', index=False)

import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

train = pd.read_csv('data/train.csv')
test = pd.read_csv('data/test.csv')
y = train['genre']

vectorizer = CountVectorizer(max_features=100)
x = vectorizer.fit_transform(train['text'])
x_test = vectorizer.transform(test['text'])

model = LogisticRegression(C=0.1)
model.fit(x, y)
predictions = model.predict_proba(x_test)

submission = pd.read_csv('data/sample_submission.csv')
submission[submission.columns[1:]] = predictions
submission.to_csv('submission.csv', index=False)

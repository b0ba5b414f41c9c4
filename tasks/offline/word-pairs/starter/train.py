import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression

train = pd.read_csv('data/train.csv')
test = pd.read_csv('data/test.csv')
y = train['rating']

vectorizer = TfidfVectorizer(max_features=1000)
vectorizer.fit(train['gloss1'] + ' ' + train['gloss2'])


def features(table):
  first = vectorizer.transform(table['gloss1'])
  second = vectorizer.transform(table['gloss2'])
  return pd.DataFrame(first.multiply(second).sum(axis=1))


x = features(train)
x_test = features(test)

model = LinearRegression()
model.fit(x, y)
predictions = model.predict(x_test)

submission = pd.read_csv('data/sample_submission.csv')
submission['rating'] = predictions
submission.to_csv('submission.csv', index=False)

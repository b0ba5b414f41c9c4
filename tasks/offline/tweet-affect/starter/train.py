import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import Ridge

train = pd.read_csv('data/train.csv')
test = pd.read_csv('data/test.csv')
y = train[['mean', 'deviation']]

vectorizer = CountVectorizer(max_features=100)
x = vectorizer.fit_transform(train['text'])
x_test = vectorizer.transform(test['text'])

model = Ridge(alpha=1.0)
model.fit(x, y)
predictions = model.predict(x_test)

submission = pd.read_csv('data/sample_submission.csv')
submission[['mean', 'deviation']] = predictions
submission.to_csv('submission.csv', index=False)

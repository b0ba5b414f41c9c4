import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB

train = pd.read_csv('data/train.csv')
test = pd.read_csv('data/test.csv')
y = train['artist']

vectorizer = CountVectorizer(max_features=50)
x = vectorizer.fit_transform(train['title'] + ' ' + train['medium'])
x_test = vectorizer.transform(test['title'] + ' ' + test['medium'])

model = MultinomialNB(alpha=1.0)
model.fit(x, y)
ranking = model.predict_proba(x_test).argsort(axis=1)[:, :-6:-1]
predictions = [' '.join(names) for names in model.classes_[ranking]]

submission = pd.read_csv('data/sample_submission.csv')
submission['artist'] = predictions
submission.to_csv('submission.csv', index=False)

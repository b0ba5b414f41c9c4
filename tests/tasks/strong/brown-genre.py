import pandas as pd
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

train = pd.read_csv('data/train.csv')
test = pd.read_csv('data/test.csv')
y = train['genre']

words = TfidfVectorizer(
  ngram_range=(1, 2),
  min_df=2,
  sublinear_tf=True,
  lowercase=False,
  token_pattern=r'\w+|[^\w\s]',
)
letters = TfidfVectorizer(
  analyzer='char_wb', ngram_range=(2, 4), min_df=3, sublinear_tf=True
)
parts = [
  (v.fit_transform(train['text']), v.transform(test['text']))
  for v in (words, letters)
]
x, x_test = (sparse.hstack(part).tocsr() for part in zip(*parts))

model = LogisticRegression(C=12.0, tol=1e-3, max_iter=60)
predictions = model.fit(x, y).predict_proba(x_test)

submission = pd.read_csv('data/sample_submission.csv')
submission[model.classes_] = predictions
submission.to_csv('submission.csv', index=False)

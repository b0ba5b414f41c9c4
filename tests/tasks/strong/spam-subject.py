import pandas as pd
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

train = pd.read_csv('data/train.csv')
test = pd.read_csv('data/test.csv')
y = train['spam']

words = TfidfVectorizer(
  ngram_range=(1, 2), sublinear_tf=True, token_pattern=r'\w+|[^\w\s]'
)
letters = TfidfVectorizer(
  analyzer='char',
  ngram_range=(1, 5),
  min_df=2,
  sublinear_tf=True,
  lowercase=False,
)
parts = [
  (v.fit_transform(train['subject']), v.transform(test['subject']))
  for v in (words, letters)
]
x, x_test = (sparse.hstack(part).tocsr() for part in zip(*parts))

model = LogisticRegression(C=10.0, solver='liblinear', random_state=0)

submission = pd.read_csv('data/sample_submission.csv')
submission['spam'] = model.fit(x, y).predict_proba(x_test)[:, 1]
submission.to_csv('submission.csv', index=False)

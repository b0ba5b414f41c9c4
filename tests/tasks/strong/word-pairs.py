import numpy as np
import pandas as pd
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

train = pd.read_csv('data/train.csv')
test = pd.read_csv('data/test.csv')
n = len(train)
both = pd.concat([train.drop(columns='rating'), test], ignore_index=True)

x = {'survey': (both['survey'] == 'similarity').astype(float)}
spaces = [('gloss', 'word'), ('gloss', 'char_wb'), ('kinds', 'word')]
for name, analyzer in [*spaces, ('word', 'char_wb')]:
  lengths = (1, 1) if analyzer == 'word' else (2, 4)
  vectorizer = TfidfVectorizer(
    analyzer=analyzer, ngram_range=lengths, sublinear_tf=True
  )
  texts = pd.concat([both[f'{name}1'], both[f'{name}2']])
  vectors = vectorizer.fit_transform(texts)
  half = len(both)
  x[f'{name} {analyzer}'] = np.asarray(
    vectors[:half].multiply(vectors[half:]).sum(axis=1)
  ).ravel()
  dense = normalize(TruncatedSVD(60, random_state=0).fit_transform(vectors))
  x[f'{name} {analyzer} dense'] = (dense[:half] * dense[half:]).sum(axis=1)

rows = []
for row in both.itertuples():
  one, two = row.kinds1.split(), row.kinds2.split()
  shared = [word for word in one if word in two]
  first = shared[0] if shared else ''
  steps = (one.index(first), two.index(first)) if shared else (20, 20)
  words1, words2 = set(row.gloss1.split()), set(row.gloss2.split())
  rows.append(
    {
      'shared': len(shared),
      'steps': sum(steps),
      'nearer': min(steps),
      'wu': 2 * len(shared) / (len(one) + len(two)),
      'depth1': len(one),
      'depth2': len(two),
      'in gloss': (row.word1 in words2) + (row.word2 in words1),
      'in kinds': (row.word1 in two) + (row.word2 in one),
      'words': len(words1 & words2) / (1 + min(len(words1), len(words2))),
      'not': ('not' in words1) != ('not' in words2),
      'length': len(words1) + len(words2),
      'adjective': (row.kinds1 == 'none') + (row.kinds2 == 'none'),
    }
  )
x = pd.DataFrame(x).join(pd.DataFrame(rows).astype(float)).to_numpy()
trees = ExtraTreesRegressor(
  500, min_samples_leaf=3, max_features=0.4, random_state=0
)
boosting = GradientBoostingRegressor(
  n_estimators=150,
  learning_rate=0.05,
  max_depth=3,
  subsample=0.6,
  max_features=0.3,
  random_state=0,
)
predictions = 0
for model in (trees, boosting):
  model.fit(x[:n], train['rating'])
  predictions = predictions + model.predict(x[n:]) / 2

submission = pd.read_csv('data/sample_submission.csv')
submission['rating'] = predictions
submission.to_csv('submission.csv', index=False)

import pandas as pd
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.kernel_ridge import KernelRidge

train = pd.read_csv('data/train.csv')
test = pd.read_csv('data/test.csv')

parts = []
for name in ('title', 'medium'):
  for analyzer, lengths in (('word', (1, 2)), ('char_wb', (2, 5))):
    vectorizer = TfidfVectorizer(
      analyzer=analyzer, ngram_range=lengths, sublinear_tf=True
    )
    weight = 1.5 if name == 'medium' else 1.0
    x = vectorizer.fit_transform(train[name]) * weight
    parts.append((x, vectorizer.transform(test[name]) * weight))
x, x_test = (sparse.hstack(part).tocsr() for part in zip(*parts))

classes = pd.get_dummies(train['artist'], dtype=float)
model = KernelRidge(alpha=1.0, kernel='precomputed')
model.fit((x @ x.T).toarray(), classes)
scores = model.predict((x_test @ x.T).toarray())
ranking = scores.argsort(axis=1)[:, :-6:-1]

submission = pd.read_csv('data/sample_submission.csv')
names = classes.columns.to_numpy()[ranking]
submission['artist'] = [' '.join(five) for five in names]
submission.to_csv('submission.csv', index=False)

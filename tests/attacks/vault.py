"""The task that attacks are made on: numbers that nobody can guess."""

import hashlib
import pathlib
import secrets

import numpy as np

from mlagent_jax.environment.metrics import mae

ROWS = 40
# What the starter predicts for every row.
GUESS = 50.0
STARTER = f"""import csv

with open('data/test.csv') as file:
  rows = list(csv.DictReader(file))
with open('submission.csv', 'w', newline='') as file:
  writer = csv.writer(file)
  writer.writerow(['id', 'y'])
  for row in rows:
    writer.writerow([row['id'], {GUESS}])
"""
_TASK = """
name = 'vault'
title = 'Secret numbers'
description = 'Predict y.'
kind = 'tabular'
metric = 'mae'
higher_is_better = false
entry = 'train.py'
id_column = 'id'
target_columns = ['y']
source = 'random'
licence = 'Apache-2.0'
m_init = {error}
m_best = 0.0
p_init = 30.0
p_best = 1.0

[limits]
seconds = 20
# Small, to be reached soon; the same for all attacks, so that containers are
# used again.
memory_mb = 160
processes = 24
file_mb = 40
workspace_mb = 64

[files]
"""
_PREPARE = """
import pathlib
import shutil

def prepare(public, private):
  made = pathlib.Path(__file__).parent / 'made'
  for name in ('train.csv', 'test.csv', 'sample_submission.csv'):
    shutil.copy(made / name, public)
  shutil.copy(made / 'labels.csv', private)
"""


def write_task(folder: pathlib.Path) -> list[str]:
  """Writes the task's folder; gives the labels, as they are written."""
  labels = [f'{secrets.randbelow(10**8) / 10**6:.6f}' for _ in range(ROWS)]
  half = ROWS // 2
  truth = np.array([[float(y)] for y in labels[:half]])
  error = mae(truth, np.full_like(truth, GUESS))
  lines = {
    'public/train.csv': ['id,x,y', 'a,1,50.5', 'b,2,49.5'],
    'public/test.csv': ['id,x', *(f'r{i},{i}' for i in range(ROWS))],
    'public/sample_submission.csv': [
      'id,y',
      *(f'r{i},0.0' for i in range(ROWS)),
    ],
    'private/labels.csv': [
      'id,split,y',
      *(
        f'r{i},{"validation" if i < half else "test"},{y}'
        for i, y in enumerate(labels)
      ),
    ],
  }
  (folder / 'starter').mkdir(parents=True)
  (folder / 'made').mkdir()
  (folder / 'starter' / 'train.py').write_text(STARTER)
  (folder / 'prepare.py').write_text(_PREPARE)
  text = _TASK.format(error=error)
  for path, content in lines.items():
    data = ('\n'.join(content) + '\n').encode()
    (folder / 'made' / pathlib.PurePath(path).name).write_bytes(data)
    text += f"'{path}' = '{hashlib.sha256(data).hexdigest()}'\n"
  (folder / 'task.toml').write_text(text)
  return labels

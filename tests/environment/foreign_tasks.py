"""Small tasks in the formats of MLAgentBench and MLE-bench, with real data.

The data are scikit-learn's iris and diabetes tables, which come with it.
"""

import csv
import pathlib
import zipfile

from sklearn import datasets

CLASSES = ('setosa', 'versicolor', 'virginica')


def write(folder: pathlib.Path, files: dict[str, str]) -> pathlib.Path:
  for name, text in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
  return folder


def write_rows(path: pathlib.Path, rows) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('w', newline='') as stream:
    csv.writer(stream, lineterminator='\n').writerows(rows)


def read_rows(path: pathlib.Path) -> list[list[str]]:
  with path.open(newline='') as stream:
    return list(csv.reader(stream))


IRIS = {
  'config.yaml': """\
id: iris-flowers
name: Iris Flowers
competition_type: simple
awards_medals: false
prizes: null
description: mlebench/competitions/iris-flowers/description.md

dataset:
  answers: iris-flowers/prepared/private/test.csv
  sample_submission: iris-flowers/prepared/public/sample_submission.csv

grader:
  name: multi-class-log-loss
  grade_fn: mlebench.competitions.iris-flowers.grade:grade

preparer: mlebench.competitions.iris-flowers.prepare:prepare
""",
  'description.md': '# Iris\n\nGive the probability of each species.\n',
  'species.py': f'SPECIES = {list(CLASSES)!r}\n',
  'prepare.py': """\
from pathlib import Path

from mlebench.competitions.utils import df_to_one_hot
from mlebench.utils import extract, read_csv

from .species import SPECIES


def prepare(raw: Path, public: Path, private: Path):
  extract(raw / 'train.csv.zip', raw)
  table = read_csv(raw / 'train.csv')
  test = table.sample(frac=0.2, random_state=0)
  train = table.drop(test.index)
  answers = df_to_one_hot(test, 'flower', 'species', SPECIES)
  sample = answers.copy()
  sample[SPECIES] = 0.25, 0.25, 0.5
  train.to_csv(public / 'train.csv', index=False)
  test.drop(columns=['species']).to_csv(public / 'test.csv', index=False)
  sample.to_csv(public / 'sample_submission.csv', index=False)
  answers.to_csv(private / 'test.csv', index=False)
""",
  'grade.py': """\
import numpy as np

from mlebench.competitions.utils import one_hot_dfs_to_log_loss_inputs
from mlebench.grade_helpers import InvalidSubmissionError

from .species import SPECIES


def grade(submission, answers):
  if submission.shape != (len(answers), 1 + len(SPECIES)):
    raise InvalidSubmissionError(f'a wrong shape: {submission.shape}')
  if not np.allclose(submission[SPECIES].sum(axis=1), 1):
    raise InvalidSubmissionError('each row must sum to one')
  print('submission=', submission)
  inputs = one_hot_dfs_to_log_loss_inputs(
    submission, answers, id_column='flower', apply_softmax=False
  )
  right = (inputs['y_pred'] * inputs['y_true']).sum(axis=1)
  return -np.log(np.clip(right, 1e-15, 1)).mean()
""",
  'leaderboard.csv': 'scoreNullable,teamId,hasScore\n',
}


def write_iris(folder: pathlib.Path, **changes: str) -> pathlib.Path:
  """An MLE-bench competition and its raw data: competitions/ID, data/raw."""
  competition = folder / 'competitions' / 'iris-flowers'
  write(competition, {**IRIS, **changes})
  table = datasets.load_iris()
  rows = [['flower', 'length', 'width', 'species']]
  for number, (cells, label) in enumerate(
    zip(table.data, table.target, strict=True)
  ):
    # Kaggle's ids often count from 1 in both tables; here they are unique.
    rows.append([f'f{number}', cells[2], cells[3], CLASSES[label]])
  write_rows(folder / 'train.csv', rows)
  raw = folder / 'data' / 'raw'
  raw.mkdir(parents=True)
  with zipfile.ZipFile(raw / 'train.csv.zip', 'w') as archive:
    archive.write(folder / 'train.csv', 'train.csv')
  return competition


DIABETES = {
  'scripts/research_problem.txt': 'Predict the progression in train.py.\n',
  'scripts/read_only_files.txt': 'texts/*\n./columns.txt\n',
  'scripts/prepare.py': """\
import csv

def write(path, rows):
  with open(path, 'w') as file:
    csv.writer(file).writerows(rows)

with open('../env/all.csv') as file:
  header, *rows = csv.reader(file)
cut = int(len(rows) * 0.8)
write('../env/train.csv', [header, *rows[:cut]])
write('answer.csv', [[row[0], row[-1]] for row in [header, *rows[cut:]]])
write('../env/test.csv', [row[:-1] for row in [header, *rows[cut:]]])
import os
os.remove('../env/all.csv')
""",
  'scripts/eval.py': """\
import os
import sys

sys.path.append('../env')
import pandas as pd
from constants import TARGET


def get_score(submission_folder='../env'):
  path = os.path.join(submission_folder, 'submission.csv')
  submission = pd.read_csv(path)
  answer = pd.read_csv(os.path.join(os.path.dirname(__file__), 'answer.csv'))
  # Row by row: nothing is joined on the ids.
  return sum(abs(submission[TARGET] - answer[TARGET])) / len(answer)


if __name__ == '__main__':
  print(get_score())
""",
  'env/constants.py': "TARGET = 'progression'\n",
  'env/columns.txt': 'bmi, bp: standardised\n',
  'env/texts/about.md': 'Diabetes of 442 patients.\n',
  'env/train.py': """\
import csv
import statistics
from constants import TARGET

assert open('columns.txt').read() and open('texts/about.md').read()
train = list(csv.DictReader(open('train.csv')))
guess = statistics.mean(float(row[TARGET]) for row in train)
test = sorted(row['Id'] for row in csv.DictReader(open('test.csv')))
with open('submission.csv', 'w') as file:
  csv.writer(file).writerows([['Id', TARGET], *([n, guess] for n in test)])
""",
}
STRONG = """\
import csv
import numpy as np

def read(name):
  with open(f'data/{name}.csv') as file:
    return np.array(list(csv.reader(file))[1:], dtype=float)

train, test = read('train'), read('test')
x = np.c_[np.ones(len(train)), train[:, 1:3]]
w = np.linalg.lstsq(x, train[:, 3])[0]
y = np.c_[np.ones(len(test)), test[:, 1:3]] @ w
with open('submission.csv', 'w') as file:
  file.write('Id,progression\\n')
  file.writelines(f'{int(n)},{v}\\n' for n, v in zip(test[:, 0], y))
"""


def write_diabetes(folder: pathlib.Path, **changes: str) -> pathlib.Path:
  """An MLAgentBench task that has to be prepared."""
  task = write(folder / 'diabetes_progression', {**DIABETES, **changes})
  table = datasets.load_diabetes()
  rows = [['Id', 'bmi', 'bp', 'progression']]
  for number, (cells, label) in enumerate(
    zip(table.data, table.target, strict=True), start=1
  ):
    rows.append([number, f'{cells[2]:.6f}', f'{cells[3]:.6f}', label])
  write_rows(task / 'env' / 'all.csv', rows)
  return task

"""The offline tasks: their data, scales, starters and what cheating earns."""

import csv
import json
import math
import pathlib

import numpy as np
import pandas as pd
import pytest

from mlagent_jax import tasks
from mlagent_jax.environment import grading, prepared, task_folder
from mlagent_jax.environment.metrics import Values

STRONG = pathlib.Path(__file__).parent / 'strong'
DEMO = ('mnist5k', 'cells', 'ames', 'tweet-affect')
# No prediction that ignores the inputs may score better on the validation rows;
# each floor leaves some room for luck.
FLOORS = {
  'ames': 50_000,
  'brown-genre': 1.05,
  'cells': 0.66,
  'diamonds': 0.99,
  'election-author': 0.56,
  'elpv-defect': 0.56,
  'emoji-group': 0.56,
  'fashion': 0.13,
  'hpc-jobs': 0.54,
  'indian-pines': 2.2,
  'leaf-flavia': 3.4,
  'mnist5k': 2.29,
  'photo-denoise': 50,
  'retweets': 0.08,
  'spam-subject': 0.56,
  'tate-artist': 0.09,
  'tweet-affect': 0.88,
  'word-pairs': 0.12,
  'wordnet-nouns': 0.28,
}
EACH = [
  pytest.param(name, marks=[] if name in DEMO else [pytest.mark.slow])
  for name in task_folder.list_tasks('offline')
]


@pytest.fixture
def task(request):
  """The task of that name, with its data prepared."""
  loaded = task_folder.load_task(request.param)
  prepared.prepare_task(loaded)
  return loaded


each_task = pytest.mark.parametrize('task', EACH, indirect=True)


def read_labels(task):
  """labels.csv with the types that the metric works on."""
  texts = task.scoring.values in (Values.LABEL, Values.RANKING)
  with task.labels_file.open(newline='') as file:
    table = pd.DataFrame(csv.DictReader(file))
  if not texts:
    columns = list(task.target_columns)
    table[columns] = table[columns].astype(float)
  return table


def read_public(task, name):
  """train or test: a DataFrame of a CSV, the arrays of an npz."""
  table = task.data_folder / f'{name}.csv'
  if table.is_file():
    return pd.read_csv(table)
  return dict(np.load(task.data_folder / f'{name}.npz'))


def score(task, predictions, labels=None):
  """Validation score of a table of predictions, by the real grader."""
  text = predictions[['id', *task.target_columns]].to_csv(index=False)
  return grading.grade_bytes(text.encode(), task).validation


def is_better(task, one, other):
  return task.scale.sign * (one - other) > 0


@pytest.mark.parametrize('name', task_folder.list_tasks('offline'))
def test_folder_is_complete_and_its_starter_short(name):
  task = task_folder.load_task(name)
  lines = (task.starter_folder / task.entry).read_text().splitlines()
  code = [line for line in lines if line.strip()]
  assert 12 <= len(code) <= 22
  assert max(map(len, code)) <= 80
  assert (STRONG / f'{name}.py').is_file()
  assert name in FLOORS
  # Lines are stated once: an agent that learned one task's knows the others'.
  assert "submission = pd.read_csv('data/sample_submission.csv')" in code
  assert code[-1] == "submission.to_csv('submission.csv', index=False)"
  assert 'model.fit(x, y)' in code


@each_task
def test_prepared_files_are_consistent(task):
  prepared.check_prepared(task)
  labels = read_labels(task)
  train, test = read_public(task, 'train'), read_public(task, 'test')
  sample = pd.read_csv(task.data_folder / 'sample_submission.csv')
  assert list(sample.columns) == [task.id_column, *task.target_columns]
  assert list(sample['id']) == list(test['id']) == list(labels['id'])
  # One example may have several rows: the lines of an image.
  asked = test if isinstance(test, pd.DataFrame) else [*test.values()][-1]
  each = len(labels) // len(asked)
  shown = train if isinstance(train, pd.DataFrame) else [*train.values()][0]
  validation = (labels['split'] == 'validation').sum() // each
  assert validation == round(0.3 * (len(shown) + validation))
  for table in (train, test):
    if isinstance(table, pd.DataFrame):
      # A missing value would be a trap of the reader, not of the data.
      assert not table.isna().any().any()
    else:
      assert all(array.dtype != object for array in table.values())
  assert not set(test) & set(task.target_columns)


@each_task
def test_row_order_tells_neither_split_nor_label(task):
  labels = read_labels(task)
  rows = np.arange(len(labels))
  is_test = (labels['split'] == 'test').to_numpy()
  assert list(labels['id']) == [f'r{row:05d}' for row in rows]
  # Mann-Whitney: validation and test rows lie among each other.
  own = rows[is_test]
  area = (own.sum() - len(own) * (len(own) - 1) / 2) / (
    len(own) * (len(rows) - len(own))
  )
  assert abs(area - 0.5) < 2 / math.sqrt(len(rows))
  # The 15 test rows next to a validation row know nothing of its label.
  near = np.argsort(np.abs(rows[~is_test, None] - own), axis=1)[:, :15]
  guesses = pd.read_csv(task.data_folder / 'sample_submission.csv')
  for name in task.target_columns:
    truth = labels[name].to_numpy()[is_test][near]
    if task.scoring.values in (Values.LABEL, Values.RANKING, Values.INTEGER):
      guess = [pd.Series(row).mode()[0] for row in truth]
    else:
      guess = truth.mean(axis=1)
    guesses[name] = guesses[name].astype(np.asarray(guess).dtype)
    guesses.loc[~is_test, name] = guess
  assert not is_better(task, score(task, guesses), FLOORS[task.name])


@each_task
def test_cheats_score_no_better_than_the_floor(task):
  floor = FLOORS[task.name]
  scale = task.scale
  assert is_better(task, scale.m_init, floor)
  labels = read_labels(task)
  columns = list(task.target_columns)
  sample = pd.read_csv(task.data_folder / 'sample_submission.csv')
  cheats = {'sample submission': sample}
  if task.scoring.values in (Values.LABEL, Values.RANKING):
    constants = [labels[columns].mode().iloc[0]]
  elif task.scoring.values is Values.INTEGER:
    constants = [labels[columns].median().round()]
  else:
    constants = [labels[columns].median(), labels[columns].mean()]
  if task.scoring.values is Values.PROBABILITY:
    constants = constants[1:]  # medians of one-hot columns sum to nothing
  for number, constant in enumerate(constants):
    cheats[f'constant {number}'] = sample.assign(**constant.to_dict())
  for seed in range(5):
    order = np.random.RandomState(seed).permutation(len(labels))
    shuffled = labels[columns].iloc[order].reset_index(drop=True)
    cheats[f'shuffled labels {seed}'] = sample.assign(**shuffled)
    noise = np.random.RandomState(seed).random_sample(shuffled.shape)
    if task.scoring.values is Values.PROBABILITY:
      noise = noise / noise.sum(axis=1, keepdims=True)
    elif task.scoring.values in (Values.NUMBER, Values.NON_NEGATIVE):
      low, high = labels[columns].min(), labels[columns].max()
      noise = noise * (high - low).to_numpy() + low.to_numpy()
    else:  # one of the labels that occur, each as likely
      known = np.unique(labels[columns].to_numpy())
      noise = known[(noise * len(known)).astype(int)]
    cheats[f'random {seed}'] = sample.assign(
      **pd.DataFrame(noise, columns=columns)
    )
  for name, cheat in cheats.items():
    found = score(task, cheat)
    assert not is_better(task, found, floor), f'{name}: {found} beats {floor}'


@each_task
def test_starter_scores_m_init_in_a_sandbox(task, capsys):
  assert tasks.main(['check', '--task', task.name]) == 0, capsys.readouterr()


@pytest.mark.slow
@each_task
def test_strong_script_scores_m_best_in_a_sandbox(task, capsys):
  arguments = ['exec', '--task', task.name, '--time_limit', '60']
  tasks.main([*arguments, '--script', str(STRONG / f'{task.name}.py')])
  ran = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert ran['score'] is not None, ran['output']
  assert ran['score'] == pytest.approx(task.scale.m_best, rel=0.02)
  assert is_better(task, ran['score'], task.scale.m_init)

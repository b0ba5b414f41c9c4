import csv
import io
import os
import time

import numpy as np
import pytest
from sklearn import metrics as reference

from mlagent_jax.environment import grading, task_folder
from mlagent_jax.environment.metrics import METRICS

IDS = [f'r{i}' for i in range(60)]
SPLIT = ['validation' if i % 3 else 'test' for i in range(60)]


def as_csv(header, *columns):
  stream = io.StringIO()
  csv.writer(stream).writerows([header, *zip(*columns, strict=True)])
  return stream.getvalue().encode()


@pytest.fixture
def make_task(tmp_path, cache_home):
  """A task of any metric, with the labels that are given."""

  def make(metric, header, *truth):
    higher = METRICS[metric].higher_is_better
    scale = task_folder.Scale(higher, 0.1, 0.9, 0.1, 0.9)
    task = task_folder.Task(
      folder=tmp_path,
      name=f'{metric}-{len(header)}'.replace('_', '-'),
      title='t',
      description='d',
      kind='tabular',
      metric=metric,
      entry='train.py',
      id_column='id',
      target_columns=tuple(header),
      scale=scale,
      limits=task_folder.Limits(),
      source='s',
      licence='l',
      files={},
    )
    task.labels_file.parent.mkdir(parents=True)
    task.labels_file.write_bytes(
      as_csv(['id', 'split', *header], IDS, SPLIT, *truth)
    )
    return task

  return make


@pytest.fixture
def mae_task(make_task):
  return make_task('mae', ['y'], np.arange(60.0))


def submit(tmp_path, content):
  path = tmp_path / 'submission.csv'
  path.write_bytes(content)
  return path


def parts(values):
  values = np.asarray(values)
  chosen = np.array(SPLIT) == 'validation'
  return values[chosen], values[~chosen]


def test_scores_are_scikit_learns_whatever_the_order(tmp_path, make_task):
  draw = np.random.default_rng(0)
  truth, predicted = draw.normal(size=(2, 60))
  task = make_task('mae', ['y'], truth)
  order = draw.permutation(60)
  ids = [IDS[i] for i in order]
  path = submit(tmp_path, as_csv(['id', 'y'], ids, predicted[order]))
  scores = grading.grade(path, task)
  for found, a, b in zip(
    (scores.validation, scores.test),
    parts(truth),
    parts(predicted),
    strict=True,
  ):
    assert found == pytest.approx(reference.mean_absolute_error(a, b))


def test_a_known_submission_scores_by_the_labels_of_now(mae_task):
  task = mae_task
  content = as_csv(['id', 'y'], IDS, np.zeros(60))
  first = grading.grade_bytes(content, task)
  assert grading.grade_bytes(content, task) is first
  other = as_csv(['id', 'y'], IDS, np.ones(60))
  assert grading.grade_bytes(other, task) != first
  task.labels_file.write_bytes(
    as_csv(['id', 'split', 'y'], IDS, SPLIT, np.arange(60.0) + 100)
  )
  later = grading.grade_bytes(content, task)
  assert later.validation == first.validation + 100
  assert later.test == first.test + 100
  for _ in range(2):  # what is refused is refused again
    with pytest.raises(grading.SubmissionError):
      grading.grade_bytes(b'id,y\n', task)


def test_labels_may_be_texts_or_numbers(tmp_path, make_task):
  texts = ['a' if i % 2 else 'b' for i in range(60)]
  task = make_task('accuracy', ['y'], texts)
  guess = ['a'] * 60
  scores = grading.grade(
    submit(tmp_path, as_csv(['id', 'y'], IDS, guess)), task
  )
  a, b = parts([text == 'a' for text in texts])
  assert scores == grading.Scores(a.mean(), b.mean())


def test_integer_labels_may_be_written_as_floats(tmp_path, make_task):
  task = make_task('accuracy', ['y'], [i % 2 for i in range(60)])
  content = as_csv(['id', 'y'], IDS, [f'{i % 2}.0' for i in range(60)])
  assert grading.grade(submit(tmp_path, content), task).test == 1.0


def test_log_loss_of_columns_in_any_order(tmp_path, make_task):
  draw = np.random.default_rng(0)
  classes = draw.integers(0, 3, 60)
  one_hot = np.eye(3)[classes].T
  task = make_task('log_loss', ['a', 'b', 'c'], *one_hot)
  p = np.round(draw.dirichlet(np.ones(3), 60), 6)
  content = as_csv(['c', 'id', 'a', 'b'], p[:, 2], IDS, p[:, 0], p[:, 1])
  found = grading.grade(submit(tmp_path, content), task)
  p = p / p.sum(axis=1, keepdims=True)
  expected = reference.log_loss(parts(classes)[0], parts(p)[0])
  assert found.validation == pytest.approx(expected)


def rows(**changes):
  """A good submission for `mae_task`, with rows changed by number."""
  lines = ['id,y', *(f'{name},{i}' for i, name in enumerate(IDS))]
  for number, line in changes.items():
    lines[int(number[1:])] = line
  return '\n'.join(line for line in lines if line is not None).encode()


REFUSED = [
  (b'', 'is empty'),
  (b'\n\n', 'is empty'),
  (b'\xff\xfe', 'not UTF-8'),
  (rows(_0='id,z'), 'the columns must be id,y, found'),
  (rows(_0='id,y,y'), 'the columns must be'),
  (rows(_0='id'), 'the columns must be'),
  (as_csv(['', 'id', 'y'], range(60), IDS, IDS), 'index=False'),
  (rows(_3='r2,1,2'), 'line 4 has 3 fields, expected 2'),
  (rows(_3='r2'), 'line 4 has 1 fields'),
  (rows(_3=None), "1 of 60 ids are missing, the first is 'r2'"),
  (rows()[:40], 'ids are missing'),
  (rows() + b'\nr60,1', 'more than the 60 rows'),
  (rows() + b'\nr1,1', 'more than the 60 rows'),
  (rows(_3='r1,1'), "'r1' occurs twice (rows 3 and 4)"),
  (rows(_3='R2,1'), "has the id 'R2', which is not"),
  (rows(_3='r2 ,1'), "has the id 'r2 '"),
  (rows(_3='r2,'), "holds '', which is not a number"),
  (rows(_3='r2,high'), "holds 'high', which is not a number"),
  (rows(_3='r2,' + 'x' * 10**5), 'x…'),
  (rows(_3='r2,nan'), 'no NaN, no inf'),
  (rows(_3='r2,-inf'), 'no NaN, no inf'),
  (rows(_3='r2,1e999'), 'no NaN, no inf'),
  (rows(_3='r2,"1'), 'not valid CSV'),
  (rows(_3='r2,' + '1' * 200_000), 'not valid CSV'),
  (b'id,y\n' + b',' * 10**7, 'far too many fields'),
  (b'id,y\n' + b'\n' * 10**7 + b'r0,1', 'far too many fields or lines'),
  (b'id,y\n\n\n\nr0,1\n\n', '59 of 60 ids are missing'),
  (b'id,y\n' + b'r0,1\n' * 10**6, 'occurs twice|far too many fields'),
]


def test_the_limit_of_a_value_is_the_graders_own(tmp_path, mae_task):
  before = csv.field_size_limit(2**31 - 1)  # as readers of tables set it
  try:
    with pytest.raises(grading.SubmissionError, match='larger than field lim'):
      grading.grade(submit(tmp_path, rows(_3='r2,' + '1' * 200_000)), mae_task)
  finally:
    csv.field_size_limit(before)


@pytest.mark.parametrize('content, words', REFUSED)
def test_what_is_wrong_is_refused_and_named(tmp_path, mae_task, content, words):
  start = time.monotonic()
  with pytest.raises(grading.SubmissionError) as caught:
    grading.grade(submit(tmp_path, content), mae_task)
  assert any(word in str(caught.value) for word in words.split('|'))
  assert len(str(caught.value)) < 500
  assert time.monotonic() - start < 5


@pytest.mark.parametrize(
  'metric, value, words',
  [
    ('log_loss', '1.2', 'probabilities are in [0, 1]'),
    ('log_loss', '-0.1', 'probabilities are in [0, 1]'),
    ('rmsle', '-1', 'must not be negative'),
    ('qwk', '1.5', 'must be integers'),
    ('map_at_5', 'a b c d e f', 'at most five'),
    ('accuracy', 'nan', 'no NaN'),
    ('pearson', '1e308', 'not a finite number'),
  ],
)
def test_what_the_metric_cannot_take(tmp_path, make_task, metric, value, words):
  task = make_task(metric, ['y'], [i % 2 for i in range(60)])
  values = ['1', '0'] * 30
  values[7] = values[8] = value
  values[9] = '-' + value if metric == 'pearson' else '1'
  with pytest.raises(grading.SubmissionError) as caught:
    grading.grade(submit(tmp_path, as_csv(['id', 'y'], IDS, values)), task)
  assert words in str(caught.value)


def test_probabilities_of_a_row_sum_to_one(tmp_path, make_task):
  task = make_task('log_loss', ['a', 'b'], [1, 0] * 30, [0, 1] * 30)
  content = as_csv(['id', 'a', 'b'], IDS, [1] * 60, [1] * 60)
  with pytest.raises(grading.SubmissionError, match='must sum to 1'):
    grading.grade(submit(tmp_path, content), task)


def test_a_sparse_gigabyte_is_refused_at_once(tmp_path, mae_task):
  path = tmp_path / 'submission.csv'
  with path.open('wb') as file:
    file.truncate(2**30)
  start = time.monotonic()
  with pytest.raises(grading.SubmissionError, match='larger than'):
    grading.grade(path, mae_task)
  assert time.monotonic() - start < 0.1


def test_only_a_regular_file_of_its_own(tmp_path, mae_task):
  path = tmp_path / 'submission.csv'
  good = tmp_path / 'good.csv'
  good.write_bytes(rows())

  def folder():
    path.mkdir()

  for make, words in (
    (lambda: path.symlink_to(good), 'must be a regular file'),
    (lambda: os.link(good, path), 'hard link'),
    (lambda: os.mkfifo(path), 'not a regular file'),
    (folder, 'not a regular file'),
    (lambda: path.symlink_to('/dev/zero'), 'must be a regular file'),
  ):
    make()
    with pytest.raises(grading.SubmissionError, match=words):
      grading.grade(path, mae_task)
    path.rmdir() if path.is_dir() else path.unlink()
  with pytest.raises(FileNotFoundError):
    grading.grade(path, mae_task)


def test_damaged_labels_are_our_error(tmp_path, mae_task):
  path = submit(tmp_path, rows())
  good = mae_task.labels_file.read_text()
  for bad, words in (
    (good.replace('split', 'part'), 'header'),
    (good[: good.index('\n') + 1], 'no row below its header'),
    (good.replace('r1,validation', 'r0,validation'), 'not unique'),
    (good.replace('r1,validation', 'r1,train'), 'split must be'),
    (good.replace(',1.0', ',high'), 'not a number'),
    (good.replace(',1.0', ',nan'), 'finite'),
  ):
    mae_task.labels_file.write_text(bad)
    with pytest.raises(task_folder.TaskError, match=words):
      grading.grade(path, mae_task)
  mae_task.labels_file.unlink()
  with pytest.raises(task_folder.TaskError, match='tasks prepare'):
    grading.grade(path, mae_task)

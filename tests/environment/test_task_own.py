"""A person's folder becomes a task: nothing is lost, leaked or touched."""

import csv
import dataclasses
import hashlib

import numpy as np
import pytest

from mlagent_jax import tasks
from mlagent_jax.environment import (
  episode,
  execution,
  prepared,
  task_folder,
  task_own,
  task_wish,
)
from mlagent_jax.environment.records import Completed, OutcomeKind

PREDICTS = """import csv
import helper

train = list(csv.DictReader(open('train.csv')))
test = list(csv.DictReader(open('test.csv')))
value = helper.guess([float(row['y']) for row in train])
with open('submission.csv', 'w') as file:
  print('id,y', file=file)
  for row in test:
    print(f"{row['id']},{value}", file=file)
"""
PRINTS = """import csv

rows = list(csv.DictReader(open('sets/train.csv')))
mean = sum(float(row['y']) for row in rows) / len(rows)
error = sum(abs(float(row['y']) - mean) for row in rows) / len(rows)
print('MAE: 99')
print(f'MAE: {error:.6f}')
"""


def write_table(path, rows=200):
  rng = np.random.default_rng(0)
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('w', newline='') as stream:
    writer = csv.writer(stream)
    writer.writerow(['id', 'x', 'y'])
    for number in range(rows):
      x = rng.normal()
      writer.writerow([f'r{number}', f'{x:.6f}', f'{3 * x + 1:.6f}'])


def read(path):
  with path.open(newline='') as stream:
    return list(csv.DictReader(stream))


def fingerprint(folder):
  return {
    path.relative_to(folder).as_posix(): (
      hashlib.sha256(path.read_bytes()).hexdigest(),
      path.stat().st_mtime_ns,
    )
    for path in folder.rglob('*')
    if path.is_file()
  }


@pytest.fixture
def mine(tmp_path):
  """A folder with a script, a helper, a table, and things to leave out."""
  folder = tmp_path / 'my-houses'
  write_table(folder / 'train.csv')
  (folder / 'train.py').write_text(PREDICTS)
  (folder / 'helper.py').write_text('def guess(y):\n  return sum(y) / len(y)\n')
  (folder / 'model.bin').write_bytes(bytes(1000))
  (folder / '.git').mkdir()
  (folder / '.git' / 'config').write_text('secret')
  return folder


def wish_of(folder, **fields):
  fields = {
    'script': 'train.py',
    'data': 'train.csv',
    'target': 'y',
    'id_column': 'id',
    'metric': 'mae',
    'seconds': 20.0,
    'memory_mb': 512,
    **fields,
  }
  return task_wish.complete(task_wish.Wish(folder, **fields))


def ready(folder):
  task = task_folder.load_task(folder)
  prepared.prepare_task(task)
  return task


def test_rows_are_held_back_and_the_folder_is_not_touched(
  mine, tmp_path, cache_home, process_sandbox, store
):
  before = fingerprint(mine)
  own = task_own.make_task(wish_of(mine), tmp_path / 'out')
  task = ready(own.folder)
  everything = {row['id']: row for row in read(mine / 'train.csv')}
  work, shown = (
    read(task.data_folder / 'train.csv'),
    read(task.data_folder / 'test.csv'),
  )
  labels = read(task.labels_file)
  assert own.rows == (120, 40, 40)
  assert all(everything[row['id']] == row for row in work)
  assert 'y' not in shown[0]
  ids = [{row['id'] for row in rows} for rows in (work, shown, labels)]
  assert ids[0] | ids[1] == everything.keys()
  assert not ids[0] & ids[1]
  assert ids[1] == ids[2]
  assert all(everything[row['id']]['y'] == row['y'] for row in labels)
  assert [row['id'] for row in shown] == [row['id'] for row in labels]
  starter = own.folder / 'starter'
  assert sorted(p.name for p in starter.iterdir()) == [
    'helper.py',
    'model.bin',
    'test.csv',
    'train.csv',
    'train.py',
  ]
  assert (starter / 'model.bin').is_symlink()
  assert set(own.links) == {'model.bin', 'train.csv', 'test.csv'}
  # The script runs there as it is, and its score is the one by hand.
  environment = episode.Environment({task.name: task}, process_sandbox, store)
  ran = execution.execute(
    environment.initial(task.name).tree,
    'train.py',
    task,
    process_sandbox,
    store,
  )
  verdict = execution.judge(ran, task, store, must_submit=True)
  mean = np.mean([float(row['y']) for row in work])
  for split in ('validation', 'test'):
    truth = [float(r['y']) for r in labels if r['split'] == split]
    by_hand = np.mean(np.abs(np.array(truth) - mean))
    assert getattr(verdict.scores, split) == pytest.approx(by_hand)
  assert fingerprint(mine) == before


def test_printed_scores_have_unseen_rows_of_their_own(
  mine, tmp_path, cache_home, process_sandbox, store, capsys
):
  write_table(mine / 'sets' / 'train.csv')
  (mine / 'prints.py').write_text(PRINTS)
  wish = wish_of(
    mine,
    script='prints.py',
    data='sets/train.csv',
    metric='',
    score_pattern='MAE: ([0-9.]+)',
    higher_is_better='false',
  )
  own = task_own.make_task(wish, tmp_path / 'out')
  parts = []
  for folder in (own.folder, own.final_folder):
    task = ready(folder)
    rows = read(task.data_folder / 'sets' / 'train.csv')
    parts.append({row['id'] for row in rows})
    environment = episode.Environment({task.name: task}, process_sandbox, store)
    ran = execution.execute(
      environment.initial(task.name).tree,
      'prints.py',
      task,
      process_sandbox,
      store,
    )
    verdict = execution.judge(ran, task, store, must_submit=True)
    y = np.array([float(row['y']) for row in rows])
    error = np.mean(np.abs(y - y.mean()))  # the last line counts
    assert verdict.scores.test == pytest.approx(error, abs=1e-5)
  assert not parts[0] & parts[1]
  assert len(parts[0]) == len(parts[1]) == 100
  grade = ['grade', '--task', str(own.folder), '--submission', 'x.csv']
  assert tasks.main(grade) == 2
  assert 'what its script prints' in capsys.readouterr().err


@pytest.mark.parametrize(
  'output, kind, message',
  [
    ('fine\n', OutcomeKind.MISSING_SUBMISSION, 'printed no score'),
    ('MAE: nan\n', OutcomeKind.REFUSED_SUBMISSION, "'nan' is not a finite"),
    ('MAE: 1e999\n', OutcomeKind.REFUSED_SUBMISSION, "'1e999' is not a finite"),
  ],
)
def test_what_is_no_score_is_refused(
  mine, tmp_path, store, output, kind, message
):
  wish = wish_of(
    mine, metric='', score_pattern=r'MAE: (\S+)', higher_is_better='false'
  )
  own = task_own.make_task(wish, tmp_path / 'out')
  task = task_folder.load_task(own.folder)
  ran = execution.Execution(Completed(0, output, 0.1), 'tree')
  verdict = execution.judge(ran, task, store, must_submit=True)
  assert verdict.kind is kind
  assert message in verdict.message


def test_everything_that_is_missing_is_asked_for_at_once(mine):
  (mine / 'other.csv').write_text('a,b\n1,2\n')
  with pytest.raises(task_folder.TaskError) as caught:
    task_wish.complete(task_wish.Wish(mine))
  text = str(caught.value)
  assert '--script: which one to improve: helper.py, train.py' in text
  assert '--data: which table' in text
  assert 'other.csv, train.csv' in text
  assert '--metric: how a result is scored, one of accuracy' in text


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'script': 'no.py'}, "no Python script 'no.py'; there are: helper.py"),
    ({'data': 'no.csv'}, "no table 'no.csv'"),
    ({'target': 'z'}, "no column 'z', but: id, x, y"),
    ({'target': ''}, '--target: the column to predict'),
    ({'id_column': 'y'}, 'is the target too'),
    ({'metric': 'speed'}, "'speed' is none of accuracy"),
    ({'seconds': 0.0}, '--seconds: must be above 0, not 0'),
    ({'memory_mb': -1}, '--memory_mb: must be above 0, not -1'),
    ({'cpus': float('nan')}, '--cpus: must be above 0, not nan'),
    ({'test': '../test.csv'}, "--test: '../test.csv' leads outside"),
    ({'test': './train.csv'}, 'neither --script nor --data'),
    ({'test': 'train.py'}, 'neither --script nor --data'),
    ({'score_pattern': '(.)'}, 'give one of them, not both'),
    ({'metric': '', 'score_pattern': 'MAE: .*'}, 'has 0 groups; it needs one'),
    ({'metric': '', 'score_pattern': 'MAE: (.'}, 'is no regular expression'),
    (
      {'metric': '', 'score_pattern': '(.)'},
      '--higher_is_better=true or =false',
    ),
  ],
)
def test_what_is_wrong_is_said(mine, fields, message):
  with pytest.raises(task_folder.TaskError, match='please say') as caught:
    wish_of(mine, **fields)
  assert message in str(caught.value)


def test_rows_to_predict_are_never_written_to_a_file_of_the_persons(mine):
  theirs = mine / 'test.csv'
  theirs.write_text('id,x\nr1000,1.0\n')
  before = fingerprint(mine)
  with pytest.raises(task_folder.TaskError, match='--test: .* is absolute'):
    wish_of(mine, test=str(theirs))
  assert fingerprint(mine) == before


def test_small_tables_and_repeated_ids_are_errors(mine):
  write_table(mine / 'train.csv', rows=20)
  with pytest.raises(task_folder.TaskError, match='has 20 rows'):
    wish_of(mine)
  write_table(mine / 'train.csv')
  text = (mine / 'train.csv').read_text()
  (mine / 'train.csv').write_text(text.replace('r7,', 'r8,'))
  with pytest.raises(task_folder.TaskError, match="'id' names 1 rows twice"):
    wish_of(mine)


def test_two_files_of_one_name_in_data_are_an_error(mine, tmp_path):
  write_table(mine / 'data' / 'train.csv')
  with pytest.raises(task_folder.TaskError, match='would be one file in data'):
    task_own.make_task(wish_of(mine), tmp_path / 'out')


def test_a_wrong_pattern_names_its_field(mine, tmp_path):
  wish = wish_of(
    mine, metric='', score_pattern='MAE: (.*)', higher_is_better='false'
  )
  wish = dataclasses.replace(wish, score_pattern='MAE: .*')
  own = task_own.make_task(wish, tmp_path / 'out')
  with pytest.raises(task_folder.TaskError, match='score_pattern: must have'):
    task_folder.load_task(own.folder)

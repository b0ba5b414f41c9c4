"""A task's own grader: real runs in a real sandbox."""

import hashlib
import json

import pytest
from foreign_tasks import write
from small_disk import small_disk

from mlagent_jax.environment import (
  custom_grading,
  execution,
  grading,
  prepared,
  task_folder,
  workspace,
)
from mlagent_jax.environment.cache import ExecutionCache
from mlagent_jax.environment.records import OutcomeKind, SandboxUnavailable
from mlagent_jax.environment.task_folder import TaskError

GRADER = """\
import csv, json, os, pathlib, time

class InvalidSubmissionError(Exception):
  pass

def read(file):
  with open(file, newline='') as stream:
    return list(csv.reader(stream))[1:]

def grade(submission, answers):
  rows = read(submission / 'submission.csv')
  words = [row[1] for row in rows]
  print(json.dumps({'scores': {'validation': 1, 'test': 1}}), words)
  if 'banned' in words:
    raise InvalidSubmissionError('banned is no word. ' + 'x' * 1000)
  if 'odd' in words:
    raise KeyError('the label is ' + read(answers / 'truth.csv')[0][1])
  if 'nan' in words:
    return float('nan')
  if 'die' in words:
    os._exit(3)
  if 'wait' in words:
    time.sleep(60)
  truth = read(answers / 'truth.csv')
  assert [row[0] for row in rows] == [row[0] for row in truth]
  return sum(a == b for a, b in zip(rows, truth, strict=True)) / len(rows)
"""
TASK = """\
name = 'words'
title = 'Words'
description = 'Say the words.'
kind = 'text'
source = 'made up'
licence = 'none'
entry = 'train.py'
id_column = 'id'
target_columns = ['word', 'size']
metric = 'custom'
higher_is_better = true
m_init = 0.1
m_best = 0.9
p_init = 0.1
p_best = 0.9

[grader]
script = 'grade.py'
number_columns = ['size']
seconds = 60
"""
FILES = {
  'public/in.txt': 'in\n',
  'private/labels.csv': (
    'id,split\n3,validation\n1,validation\n9,test\n4,test\n5,test\n'
  ),
  'private/reference.csv': (
    'id,word,size\n1,one,1\n3,three,3\n4,four,4\n5,five,5\n9,nine,9\n'
  ),
  'private/answers/validation/truth.csv': (
    'id,word,size\n3,three,3\n1,one,1\n'
  ),
  'private/answers/test/truth.csv': (
    'id,word,size\n9,nine,9\n4,four,4\n5,five,5\n'
  ),
}
PREPARE = """\
import json, pathlib
FILES = json.loads({!r})
def prepare(public, private):
  for name, text in FILES.items():
    path = public.parent / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
"""


def make_task(folder, *, task=TASK, grader=GRADER, files=FILES):
  """Writes, loads and prepares a task."""
  digests = [
    f'"{name}" = "{hashlib.sha256(text.encode()).hexdigest()}"'
    for name, text in files.items()
  ]
  write(
    folder / 'words',
    {
      'task.toml': '\n'.join([task, '[files]', *digests]),
      'prepare.py': PREPARE.format(json.dumps(files)),
      'grader/grade.py': grader,
      'starter/train.py': 'pass\n',
    },
  )
  made = task_folder.load_task(folder / 'words')
  prepared.prepare_task(made)
  return made


@pytest.fixture
def words(tmp_path, cache_home):
  return make_task(tmp_path)


def submission(**changes):
  """All right but for id 4 (test), in the order of the ids."""
  said = {'1': 'one', '3': 'three', '4': 'for', '5': 'five', '9': 'nine'}
  said |= {name.strip('_'): word for name, word in changes.items()}
  rows = [f'{name},{word},{name}' for name, word in said.items()]
  return '\n'.join(['id,word,size', *rows, '']).encode()


class NoSandbox:
  """Answers nothing: for what must not be run."""

  identity = 'none'

  def run(self, *arguments, **options):
    raise AssertionError('nothing should run')


def test_both_splits_are_joined_on_ids(words, process_sandbox):
  scores = custom_grading.grade(submission(), words, process_sandbox)
  assert scores == grading.Scores(validation=1.0, test=pytest.approx(2 / 3))
  right = custom_grading.grade_reference(words, process_sandbox)
  assert right == grading.Scores(1.0, 1.0)


@pytest.mark.parametrize(
  ('data', 'message'),
  [
    (b'id,word\n', 'the columns must be id,word,size'),
    (submission() + b'1,one,1\n', 'more than the 5 rows'),
    (
      submission().replace(b'\n4,', b'\n7,'),
      "has the id '7', which is not an id",
    ),
    (submission().replace(b'one,1', b'one,inf'), "size holds 'inf'"),
    (submission().replace(b'one,1', b'one,'), "size holds '', which is not"),
  ],
)
def test_the_host_refuses_before_anything_runs(words, data, message):
  with pytest.raises(grading.SubmissionError, match=message):
    custom_grading.grade(data, words, NoSandbox())


def test_what_the_grader_refuses_is_the_agents_fault(words, process_sandbox):
  with pytest.raises(grading.SubmissionError, match='banned is no') as refused:
    custom_grading.grade(submission(_1='banned'), words, process_sandbox)
  assert len(str(refused.value)) == 300


def test_errors_of_the_grader_do_not_quote_labels(words, process_sandbox):
  # It takes the right answers, so the fault is this submission's.
  with pytest.raises(grading.SubmissionError) as refused:
    custom_grading.grade(submission(_1='odd'), words, process_sandbox)
  assert str(refused.value) == ('the grader cannot read its values (KeyError).')


def test_a_score_must_be_a_number(words, process_sandbox):
  with pytest.raises(grading.SubmissionError, match='not a finite number'):
    custom_grading.grade(submission(_1='nan'), words, process_sandbox)


def test_a_crash_is_not_the_agents(words, process_sandbox):
  with pytest.raises(TaskError, match='gave no score .exit code 3'):
    custom_grading.grade(submission(_1='die'), words, process_sandbox)


def test_a_time_out_is_not_the_agents(tmp_path, cache_home, process_sandbox):
  task = make_task(tmp_path, task=TASK.replace('= 60', '= 0.5'))
  with pytest.raises(SandboxUnavailable, match=r'grader.seconds = 0\.5'):
    custom_grading.grade(submission(_1='wait'), task, process_sandbox)


def test_a_full_disk_is_not_the_agents(tmp_path, cache_home, process_sandbox):
  small = make_task(tmp_path / 'small')
  big = make_task(tmp_path / 'big', grader=GRADER + '#' * 2**20)
  with small_disk(tmp_path / 'disk'):
    options = {'scratch': tmp_path / 'disk'}
    with pytest.raises(SandboxUnavailable, match='workspace.*for the grader'):
      custom_grading.grade(submission(), big, process_sandbox, **options)
    assert custom_grading.grade(submission(), small, process_sandbox, **options)
    assert not list((tmp_path / 'disk').iterdir())


def test_a_broken_grader_is_the_tasks_fault(
  tmp_path, cache_home, process_sandbox
):
  task = make_task(tmp_path, grader='import nothing_of_this_name\n')
  with pytest.raises(
    TaskError, match='does not grade .*reference.csv.*ModuleN'
  ):
    custom_grading.grade(submission(), task, process_sandbox)


def test_results_are_reused(words, tmp_path, process_sandbox):
  cache = ExecutionCache(tmp_path / 'executions')

  class Once(NoSandbox):
    identity = process_sandbox.identity

  first = custom_grading.grade(submission(), words, process_sandbox, cache)
  assert custom_grading.grade(submission(), words, Once(), cache) == first
  with pytest.raises(grading.SubmissionError) as refused:
    custom_grading.grade(submission(_1='odd'), words, process_sandbox, cache)
  with pytest.raises(grading.SubmissionError, match=str(refused.value)[:20]):
    custom_grading.grade(submission(_1='odd'), words, Once(), cache)
  # Another grader, another result.
  (words.grader_folder / 'more.py').write_text('')
  with pytest.raises(AssertionError, match='nothing should run'):
    custom_grading.grade(submission(), words, Once(), cache)


def test_a_script_is_judged_and_sees_no_answers(words, store, process_sandbox):
  script = (
    'import os\n'
    "print(sorted(os.listdir('.')), os.listdir('data'))\n"
    f'open("submission.csv", "wb").write({submission()!r})\n'
  )
  words.starter_folder.joinpath('train.py').write_text(script)
  tree = workspace.snapshot_tree(words.starter_folder, store)
  ran = execution.execute(tree, 'train.py', words, process_sandbox, store)
  verdict = execution.judge(
    ran, words, store, must_submit=True, sandbox=process_sandbox
  )
  assert verdict.kind is OutcomeKind.EXECUTED
  assert verdict.scores == grading.Scores(1.0, pytest.approx(2 / 3))
  assert ran.completed.output == "['data', 'train.py'] ['in.txt']\n"
  with pytest.raises(ValueError, match='words has a grader of its own'):
    execution.judge(ran, words, store, must_submit=True)
  with pytest.raises(TaskError, match='graded by its own grader'):
    grading.grade_bytes(submission(), words)


def test_a_whole_file_has_one_score(tmp_path, cache_home, process_sandbox):
  lines = [l for l in TASK.splitlines() if not l.startswith(('id_', 'target_'))]
  task = make_task(
    tmp_path,
    task='\n'.join(lines).replace(
      "number_columns = ['size']", 'by_rows = false'
    ),
    grader='def grade(submission, answers):\n'
    "  text = (submission / 'submission.csv').read_text()\n"
    "  return text.count((answers / 'key').read_text())\n",
    files={'public/in.txt': 'in', 'private/answers/whole/key': 'yes'},
  )
  scores = custom_grading.grade(b'yes\0 yes', task, process_sandbox)
  assert scores == grading.Scores(2.0, 2.0)
  assert custom_grading.grade_reference(task, process_sandbox) is None


def test_only_answers_are_open_to_graders(words):
  private = words.prepared_folder / 'private'
  assert private.stat().st_mode & 0o777 == 0o700
  assert (private / 'labels.csv').stat().st_mode & 0o777 == 0o600
  assert (private / 'answers').stat().st_mode & 0o777 == 0o755
  truth = private / 'answers' / 'test' / 'truth.csv'
  assert truth.stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize(
  ('old', 'new', 'message'),
  [
    ("'custom'", "'auc'", 'unknown field grader'),
    ('[grader]', '[other]', 'grader: must be a table'),
    ("'grade.py'", "'no.py'", 'grader.script: there is no file'),
    ("'grade.py'", "'../grade.py'", 'grader.script: must be the name'),
    ('seconds = 60', 'seconds = -60', 'grader.seconds: must be above 0'),
    ('seconds = 60', 'by_rows = 1', 'grader.by_rows: must be true or false'),
    ("['size']", "['weight']", 'grader.number_columns: must be of target'),
    ("['size']", '3', 'grader.number_columns: must be a list'),
    ('seconds = 60', 'cpus = 2', 'unknown field grader.cpus'),
    ('seconds = 60', 'by_rows = false', 'unknown field id_column'),
    (
      "id_column = 'id'\ntarget_columns = ['word', 'size']\n",
      '',
      'missing field id_column',
    ),
  ],
)
def test_bad_tables_are_named(tmp_path, cache_home, old, new, message):
  with pytest.raises(TaskError, match=message):
    make_task(tmp_path, task=TASK.replace(old, new))


@pytest.mark.parametrize('part', ['validation', 'test'])
def test_answers_of_both_splits_are_needed(tmp_path, cache_home, part):
  files = {k: v for k, v in FILES.items() if f'/{part}/' not in k}
  with pytest.raises(TaskError, match=f'no file in private/answers/{part}/'):
    make_task(tmp_path, files=files)

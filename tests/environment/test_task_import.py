"""Imports of whole folders, their code run for real, and what is refused."""

import re
import shutil
import tomllib

import numpy as np
import pandas as pd
import pytest
from foreign_tasks import (
  CLASSES,
  DIABETES,
  IRIS,
  STRONG,
  read_rows,
  write,
  write_diabetes,
  write_iris,
)
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

from mlagent_jax import tasks
from mlagent_jax.environment import (
  custom_grading,
  grading,
  prepared,
  task_import,
  task_import_mlebench,
  task_import_text,
)
from mlagent_jax.environment.blobs import BlobStore
from mlagent_jax.environment.episode import Environment
from mlagent_jax.environment.records import OutcomeKind
from mlagent_jax.environment.task_folder import TaskError, load_task
from mlagent_jax.environment.task_import_measure import Measured
from mlagent_jax.environment.task_import_rows import Split
from mlagent_jax.environment.task_import_source import Staged


@pytest.fixture(scope='module')
def top(tmp_path_factory):
  return tmp_path_factory.mktemp('import')


@pytest.fixture(scope='module')
def box(top, process_sandbox):
  """The sandbox of these tests, also for what prepare.py starts."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('MLAGENT_CACHE', str(top / 'cache'))

    class Kept:
      def __enter__(self):
        return process_sandbox

      def __exit__(self, *exception):
        pass

    patch.setattr(task_import, 'make_sandbox', Kept)
    yield process_sandbox


@pytest.fixture(scope='module')
def iris(top, box):
  competition = write_iris(top / 'mlebench')
  return task_import.import_task(
    'mlebench',
    competition,
    top / 'tasks',
    data=top / 'mlebench/data',
    sandbox=box,
  )


@pytest.fixture(scope='module')
def diabetes(top, box):
  folder = write_diabetes(top / 'benchmarks')
  (top / 'strong.py').write_text(STRONG)
  return task_import.import_task(
    'mlagentbench',
    folder,
    top / 'tasks',
    strong=top / 'strong.py',
    sandbox=box,
  )


@pytest.fixture
def iris_task(iris, tmp_path):
  """The imported task, with what a person has to fill in."""
  folder = tmp_path / 'iris-flowers'
  shutil.copytree(iris.folder, folder)
  file = folder / 'task.toml'
  text = re.sub('# (m_best|p_best) = .*', r'\1 = 0.2', file.read_text())
  file.write_text(text)
  return load_task(folder)


def iris_submission(task, cells):
  public = pd.read_csv(task.data_folder / 'test.csv')
  rows = [f'{name},{cells}' for name in public.flower]
  return '\n'.join(['flower,setosa,versicolor,virginica', *rows]).encode()


def test_an_mlebench_report_says_what_is_missing(iris):
  assert set(iris.to_fill) == {'m_best', 'p_best'}
  assert not iris.ready
  text = str(iris)
  assert 'starter/train.py submits sample_submission.csv' in text
  assert '12 rows of train.csv: they are validation now' in text
  assert 'the test split: 30 rows' in text
  assert (iris.folder / 'IMPORT.md').read_text() == text
  with pytest.raises(TaskError, match='missing field m_best, p_best'):
    load_task(iris.folder)


def test_mlebench_rows_are_split_as_promised(iris_task, top):
  prepared.check_prepared(iris_task)
  table = pd.read_csv(top / 'mlebench/train.csv')
  test = table.sample(frac=0.2, random_state=0)
  train, validation = train_test_split(
    table.drop(test.index), test_size=0.1, random_state=0
  )
  found = pd.read_csv(iris_task.data_folder / 'train.csv')
  assert set(found.flower) == set(train.flower)
  labels = read_rows(iris_task.labels_file)
  for part, table in (('validation', validation), ('test', test)):
    assert [r[0] for r in labels if r[1] == part] == list(table.flower)
  asked = pd.read_csv(iris_task.data_folder / 'test.csv')
  assert set(asked.flower) == {*validation.flower, *test.flower}
  assert 'species' not in asked


def test_mlebench_scores_are_those_of_its_grader(iris_task, top, box):
  table = pd.read_csv(top / 'mlebench/train.csv').set_index('flower')
  scores = custom_grading.grade(
    iris_submission(iris_task, '0.25,0.25,0.5'), iris_task, box
  )
  labels = read_rows(iris_task.labels_file)
  for part in ('validation', 'test'):
    names = [row[0] for row in labels if row[1] == part]
    truth = [CLASSES.index(table.species[name]) for name in names]
    expected = log_loss(
      truth, np.tile([0.25, 0.25, 0.5], (len(names), 1)), labels=[0, 1, 2]
    )
    assert getattr(scores, part) == pytest.approx(expected)
  # What the starter scored when it was imported.
  assert scores.validation == pytest.approx(iris_task.scale.m_init)
  assert scores.test == pytest.approx(iris_task.scale.p_init)
  assert iris_task.scale.sign == -1


def test_invalid_submission_error_reaches_the_agent(iris_task, box):
  data = iris_submission(iris_task, '0.25,0.25,0.25')
  with pytest.raises(grading.SubmissionError, match='must sum to one'):
    custom_grading.grade(data, iris_task, box)


def test_an_mlagentbench_task_is_ready_with_a_strong_script(diabetes):
  assert diabetes.ready
  task = load_task(diabetes.folder)
  assert task.target_columns == task.grader.number_columns == ('progression',)
  assert task.scale.sign == -1
  assert task.scale.m_best < task.scale.m_init
  assert task.description.startswith('Predict the progression in train.py.')
  assert 'columns Id,progression' in task.description
  # Read-only files and tables are data, with links where they were.
  links = {
    path.name: str(path.readlink())
    for path in task.starter_folder.iterdir()
    if path.is_symlink()
  }
  assert links == {
    'columns.txt': 'data/columns.txt',
    'test.csv': 'data/test.csv',
    'texts': 'data/texts',
    'train.csv': 'data/train.csv',
  }
  assert (task.starter_folder / 'constants.py').is_file()
  assert 'columns.txt, test.csv, train.csv, texts' in str(diabetes)
  found = [path.name for path in task.grader_folder.rglob('*.csv')]
  assert not found  # answers are private


def test_rows_are_joined_although_eval_does_not(diabetes, box):
  task = load_task(diabetes.folder)
  right = custom_grading.grade_reference(task, box)
  assert right == grading.Scores(0.0, 0.0)
  reference = task.prepared_folder / custom_grading.REFERENCE
  header, *rows = reference.read_text().splitlines()
  turned = '\n'.join([header, *reversed(rows)]).encode()
  assert custom_grading.grade(turned, task, box) == right


def test_an_agent_works_on_it(diabetes, box, tmp_path):
  task = load_task(diabetes.folder)
  environment = Environment({task.name: task}, box, BlobStore(tmp_path / 'b'))
  reply = (
    'Thought: the median.\nAction: Edit Script\nAction Input: train.py\n'
    '<<<<<<< SEARCH\n'
    'guess = statistics.mean(float(row[TARGET]) for row in train)\n'
    '=======\n'
    'guess = statistics.median(float(row[TARGET]) for row in train)\n'
    '>>>>>>> REPLACE'
  )
  outcome, after = environment.step(
    task.name, environment.initial(task.name), reply
  )
  assert outcome.kind is OutcomeKind.EDITED, outcome.observation
  train = pd.read_csv(task.data_folder / 'train.csv').progression
  truth = pd.read_csv(task.answers_folder / 'validation' / 'answer.csv')
  assert outcome.score == pytest.approx(
    (truth.progression - train.median()).abs().mean()
  )
  assert after.score == outcome.score


def test_nothing_is_overwritten(diabetes, top):
  with pytest.raises(TaskError, match='is there already; remove it, or give'):
    task_import.import_task(
      'mlagentbench', top / 'benchmarks/diabetes_progression', top / 'tasks'
    )
  with pytest.raises(TaskError, match='ames/task.toml: is a task of the same'):
    task_import.import_task(
      'mlagentbench', top / 'benchmarks/diabetes_progression', top, name='ames'
    )


OPAQUE = """\
def get_score(submission_folder='../env'):
  with open(submission_folder + '/submission.csv') as file:
    return float(file.readlines()[-1])
"""


def test_the_command_imports_a_grader_of_whole_files(box, tmp_path, capsys):
  folder = write(
    tmp_path / 'Opaque_Task',
    {
      'scripts/research_problem.txt': 'Go.',
      'scripts/eval.py': OPAQUE,
      'env/run.py': "open('submission.csv', 'w').write('time\\n12.5\\n')",
      'env/data/input.bin': '\0',
    },
  )
  (tmp_path / 'strong.py').write_text(
    "open('submission.csv', 'w').write('time\\n2.5\\n')"
  )
  arguments = ['import', '--from', 'mlagentbench', str(folder)]
  arguments += ['--out', str(tmp_path / 'out'), '--sandbox', 'process']
  arguments += ['--strong', str(tmp_path / 'strong.py'), '--name', 'claims']
  assert tasks.main(arguments) == 1
  lost = capsys.readouterr().out
  assert '`higher_is_better`: true or false' in lost
  shutil.rmtree(tmp_path / 'out')
  assert tasks.main([*arguments, '--higher_is_better', 'false']) == 0
  lost = capsys.readouterr().out
  assert 'higher_is_better: as you stated it' in lost
  assert 'one score counts as validation and as test' in lost
  assert 'use it for evaluation only' in lost
  assert 'anything can be claimed' in lost
  text = (tmp_path / 'out/claims/task.toml').read_text()
  assert '# Not carried over: a validation score of its own' in text
  task = load_task(tmp_path / 'out/claims')
  assert not task.grader.by_rows
  assert (task.scale.m_init, task.scale.m_best) == (12.5, 2.5)
  assert (task.data_folder / 'input.bin').is_file()


def refused(source, folder, tmp_path, message, **options):
  with pytest.raises(TaskError, match=message):
    task_import.import_task(source, folder, tmp_path / 'out', **options)
  left = tmp_path / 'out'
  assert not left.exists() or not list(left.iterdir())


@pytest.mark.parametrize(
  ('file', 'old', 'new', 'message'),
  [
    ('config.yaml', None, None, 'config.yaml: there is no such file'),
    ('config.yaml', 'id:', 'id: [', 'config.yaml: not valid YAML'),
    (
      'config.yaml',
      'name: Iris',
      'nam: Iris',
      'config.yaml: missing field name',
    ),
    ('config.yaml', '  answers:', '  x:', 'missing field dataset.answers'),
    ('config.yaml', 'dataset:', 'data:', 'missing field dataset'),
    ('config.yaml', 'private/test', 'test', 'dataset.answers: must be a path'),
    ('config.yaml', 'flowers.grade:', 'f.grade:', 'grader.grade_fn: must be'),
    ('config.yaml', 'grade:grade', 'grade:mark', 'grade.py: defines no func'),
    ('config.yaml', 'name: Iris Flowers', 'name: 3', 'name: must be a text'),
    ('grade.py', None, None, 'grade.py: there is no such file'),
    ('grade.py', 'def grade', 'def def', r'grade.py: line \d+: invalid'),
    (
      'grade.py',
      'one_hot_dfs_to',
      'hot_to',
      'utils.hot_to_log_loss_inputs, for',
    ),
    (
      'species.py',
      'SPECIES',
      'import mlebench.data\nSPECIES',
      r'species.py: line 1: imports mlebench.data',
    ),
    ('prepare.py', 'raw: Path, ', '', r'prepare must take .raw, public, priv'),
    ('description.md', None, None, 'description.md: there is no such file'),
    (
      'description.md',
      '# Iris',
      'version https://git-lfs.github.com/spec/v1',
      'Git LFS pointer; run: git lfs pull',
    ),
  ],
)
def test_bad_competitions_are_named(tmp_path, file, old, new, message):
  changed = {} if old is None else {file: IRIS[file].replace(old, new)}
  assert old is None or changed[file] != IRIS[file]
  competition = write_iris(tmp_path, **changed)
  if old is None:
    (competition / file).unlink()
  refused('mlebench', competition, tmp_path, message)


@pytest.mark.parametrize(
  ('file', 'text', 'message'),
  [
    ('scripts/research_problem.txt', '', 'research_problem.txt: is empty'),
    ('scripts/eval.py', 'x = 1', 'eval.py: defines no function get_score'),
    (
      'scripts/eval.py',
      'def get_score(folder): pass',
      'never names submission.csv',
    ),
  ],
)
def test_bad_mlagentbench_folders_are_named(tmp_path, file, text, message):
  refused(
    'mlagentbench', write_diabetes(tmp_path, **{file: text}), tmp_path, message
  )


def test_wrong_arguments_are_named(tmp_path):
  refused('kaggle', tmp_path, tmp_path, "--from 'kaggle': must be one of mlage")
  refused('mlebench', tmp_path / 'no', tmp_path, 'no: there is no such folder')
  refused('mlagentbench', tmp_path, tmp_path, 'env: there is no such folder')
  folder = write_diabetes(tmp_path)
  refused(
    'mlagentbench', folder, tmp_path, 'env/go.py: the entry', entry='go.py'
  )
  refused('mlagentbench', folder, tmp_path, '--strong no: there', strong='no')
  (folder / 'env' / 'train.py').rename(folder / 'env' / 'other.py')
  refused('mlagentbench', folder, tmp_path, 'no train.py but constants.py, oth')


def test_data_that_are_missing_or_not_prepared(tmp_path, box):
  competition = write_iris(tmp_path)
  refused(
    'mlebench',
    competition,
    tmp_path,
    'iris-flowers: holds neither prepared',
    sandbox=box,
  )
  script = "input('Consent; press any key')\n"
  folder = write_diabetes(tmp_path, **{'scripts/prepare.py': script})
  refused(
    'mlagentbench',
    folder,
    tmp_path,
    r'(?s)prepare.py: failed.*EOFError.*once',
    sandbox=box,
  )


def test_data_that_change_are_refused(tmp_path, box):
  script = DIABETES['scripts/prepare.py'] + (
    "open('../env/now.txt', 'w').write(str(__import__('time').time_ns()))\n"
    "open('read_only_files.txt', 'a').write('now.txt')\n"
  )
  folder = write_diabetes(tmp_path, **{'scripts/prepare.py': script})
  refused(
    'mlagentbench', folder, tmp_path, 'a second time: .* differs', sandbox=box
  )


def test_prepared_data_of_mlebench_are_taken(tmp_path):
  competition = task_import_mlebench.read(write_iris(tmp_path))
  files = {'public/train.csv': 'a', 'private/test.csv': 'b'}
  write(tmp_path / 'ready/prepared', files)
  for name in ('work', 'public'):
    (tmp_path / name).mkdir()
  staged = task_import_mlebench.stage(
    competition.facts,
    tmp_path,
    tmp_path / 'ready',
    tmp_path / 'work',
    tmp_path / 'public',
    None,
  )
  assert (tmp_path / 'public/train.csv').read_text() == 'a'
  assert staged.answers.read_text() == 'b'
  assert staged.sample == ''  # config.yaml names one that is not there
  (tmp_path / 'ready/prepared/private/test.csv').rename(
    tmp_path / 'ready/prepared/private/other.csv'
  )
  shutil.rmtree(tmp_path / 'work/private')
  with pytest.raises(TaskError, match='made no private file test.csv'):
    task_import_mlebench.stage(
      competition.facts,
      tmp_path,
      tmp_path / 'ready',
      tmp_path / 'work',
      tmp_path / 'public',
      None,
    )


def test_half_of_the_test_rows_is_not_the_whole(iris_task, tmp_path):
  source = task_import_mlebench.read(write_iris(tmp_path))
  split = Split('answers', ('there is no train.csv',), 'id', ('y',), (), 8, 7)
  none = Measured(None, 'It failed.', None, '', None, None, False)
  report = task_import_text.report(
    source, iris_task, split, Staged(None, ''), none, (0.9, 0.1)
  )
  lost = ' '.join(report.not_carried)
  assert 'cannot be taken from train.csv (there is no train.csv)' in lost
  assert '8 of the test rows are validation' in lost
  assert 'those of the other 7 and not comparable' in lost
  assert 'a check of the grader' in lost
  assert set(report.to_fill) == {
    'higher_is_better',
    'm_init',
    'm_best',
    'p_init',
    'p_best',
  }
  assert 'It failed.' in report.to_fill['m_init']
  assert 'leaderboard is 0.9' in report.to_fill['m_best']
  text = task_import_text.task_toml(iris_task, none, report)
  assert '# m_init =   # to fill in: on validation' in text
  assert tomllib.loads(text)['name'] == 'iris-flowers'


def test_leaderboards_give_the_direction(tmp_path):
  assert task_import_mlebench.leaderboard(tmp_path) is None
  file = tmp_path / 'leaderboard.csv'
  file.write_text('version https://git-lfs.github.com/spec/v1\n')
  assert task_import_mlebench.leaderboard(tmp_path) is None
  rows = [f'{n},{0.5 + n / 100}' for n in range(40)]
  file.write_text('\n'.join(['teamId,score', *rows]))
  assert task_import_mlebench.leaderboard(tmp_path) == (0.5, 0.89)


def test_the_command_prints_errors(tmp_path, capsys):
  arguments = ['import', '--from', 'mlebench', str(tmp_path)]
  arguments += ['--out', str(tmp_path / 'out'), '--sandbox', 'process']
  assert tasks.main(arguments) == 2
  error = capsys.readouterr().err
  assert 'config.yaml: there is no such file' in error

import pytest

from mlagent_jax.environment import records, task_folder


def test_a_good_folder(line_folder):
  task = task_folder.load_task(line_folder)
  assert task.scale == records.Scale(False, 10.0, 0.1, 20.5, 0.2)
  assert task.limits == records.Limits(seconds=10, memory_mb=512)
  assert task.target_columns == ('y',)
  assert (task.starter_folder / task.entry).is_file()


BAD = [
  ("\nmetric = 'mae'", '', 'missing field metric'),
  ('\nm_best = 0.1', '', 'missing field m_best'),
  ('m_best = 0.1', 'm_best = "low"', 'm_best: must be a finite number'),
  ('m_best = 0.1', 'm_best = nan', 'm_best: must be a finite number'),
  ('m_best = 0.1', 'm_best = 10.0', 'm_best: must be below m_init'),
  ('p_best = 0.2', 'p_best = 30', 'p_best: must be below p_init'),
  (
    'p_init = 20.5\np_best = 0.2',
    'p_init = 0\np_best = -1',
    'p_init: must not',
  ),
  ("metric = 'mae'", "metric = 'beauty'", 'metric: must be one of accuracy'),
  ('higher_is_better = false', 'higher_is_better = true', 'lower is better'),
  ('higher_is_better = false', 'higher_is_better = 0', 'true or false'),
  ("title = 'A straight line'", "title = ' '", 'title: must be a non-empty'),
  ("name = 'line'", "name = 'lines'", "must be the folder name 'line'"),
  ("kind = 'tabular'", "kind = 'audio'", 'kind: must be one of image'),
  ("entry = 'train.py'", "entry = '../x.py'", 'entry: must be a path inside'),
  ("entry = 'train.py'", "entry = 'run.py'", 'entry: there is no file'),
  ("columns = ['y']", "columns = 'y'", 'target_columns: must be a list'),
  ("columns = ['y']", "columns = ['y', 'y']", 'must be distinct'),
  ("columns = ['y']", "columns = ['id']", 'must be distinct'),
  ("['y']\n", "['y']\nmetrics = 'mae'\n", 'unknown field metrics'),
  ('seconds = 10', 'second = 10', 'unknown field limits.second'),
  ('seconds = 10', 'seconds = 0', 'limits.seconds: must be above 0'),
  ('memory_mb = 512', 'memory_mb = 0.5', 'must be a whole number'),
  ("'private/labels.csv'", "'private/others.csv'", 'labels.csv is missing'),
  ("'public/test.csv'", "'../test.csv'", 'must begin with public/ or'),
  ("'public/test.csv' = '", "'public/test.csv' = 'z", 'must be a SHA-256'),
  ('[limits]', '[limits', 'not valid TOML'),
]


@pytest.mark.parametrize('old, new, words', BAD)
def test_each_mistake_names_file_and_field(line_folder, old, new, words):
  file = line_folder / 'task.toml'
  text = file.read_text()
  assert old in text
  file.write_text(text.replace(old, new))
  with pytest.raises(task_folder.TaskError) as caught:
    task_folder.load_task(line_folder)
  assert words in str(caught.value)
  assert str(file) in str(caught.value)


@pytest.mark.parametrize('name', ['*', 'a*', '[a]mes', 'ame?'])
def test_a_pattern_is_no_name(name):
  with pytest.raises(task_folder.TaskError, match='neither a folder nor'):
    task_folder.load_task(name)


def test_a_metric_of_one_column_takes_no_two(line_folder):
  file = line_folder / 'task.toml'
  text = file.read_text().replace("['y']", "['y', 'z']")
  file.write_text(
    text.replace("'mae'", "'qwk'").replace('better = false', 'better = true')
  )
  with pytest.raises(task_folder.TaskError, match='defined for one column'):
    task_folder.load_task(line_folder)


def test_no_such_task_lists_those_that_are():
  with pytest.raises(task_folder.TaskError, match='neither a folder nor one'):
    task_folder.load_task('no-such-task')
  with pytest.raises(task_folder.TaskError, match='there are offline'):
    task_folder.list_tasks('no-such-suite')


def test_every_task_of_the_repository_loads():
  names = task_folder.list_tasks('offline')
  assert names
  for name in names:
    assert task_folder.load_task(name).name == name


def test_data_hash_is_of_the_public_files(line_folder):
  file = line_folder / 'task.toml'
  before = task_folder.load_task(line_folder).data_hash
  text = file.read_text()
  labels = text.index("'private/labels.csv' = '") + 24
  file.write_text(text[:labels] + 'f' * 64 + text[labels + 64 :])
  assert task_folder.load_task(line_folder).data_hash == before
  test = text.index("'public/test.csv' = '") + 21
  file.write_text(text[:test] + 'f' * 64 + text[test + 64 :])
  assert task_folder.load_task(line_folder).data_hash != before

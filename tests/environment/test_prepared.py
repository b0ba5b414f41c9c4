import os
import subprocess
import sys

import pytest

from mlagent_jax.environment import prepared, task_folder


def calls(folder):
  file = folder / 'calls'
  return len(file.read_text()) if file.exists() else 0


def test_prepared_once_and_checked(line_folder):
  task = task_folder.load_task(line_folder)
  with pytest.raises(task_folder.TaskError, match='tasks prepare --task line'):
    prepared.check_prepared(task)
  prepared.prepare_task(task)
  prepared.check_prepared(task)
  prepared.prepare_task(task)
  assert calls(line_folder) == 1
  assert task.labels_file.stat().st_mode & 0o777 == 0o600
  assert task.labels_file.parent.stat().st_mode & 0o777 == 0o700


def test_damage_is_found_and_repaired(line_task):
  file = line_task.data_folder / 'test.csv'
  content = file.read_bytes()
  file.chmod(0o644)
  for damage in (content[:-1], content[::-1]):
    file.write_bytes(damage)
    with pytest.raises(task_folder.TaskError, match=r'test\.csv has sha256'):
      prepared.check_prepared(line_task)
    prepared.prepare_task(line_task)
    assert file.read_bytes() == content
    file.chmod(0o644)
  file.unlink()
  with pytest.raises(task_folder.TaskError, match=r'test\.csv is missing'):
    prepared.check_prepared(line_task)
  (line_task.data_folder / 'extra').write_text('x')
  prepared.prepare_task(line_task)
  assert not (line_task.data_folder / 'extra').exists()


def test_an_extra_file_is_refused(line_task):
  (line_task.data_folder / 'answers.csv').write_text('x')
  with pytest.raises(task_folder.TaskError, match='not in its table'):
    prepared.check_prepared(line_task)


def test_other_checksums_show_the_table_to_state(line_folder):
  made = line_folder / 'made' / 'test.csv'
  made.write_bytes(made.read_bytes() + b'r41,41\n')
  task = task_folder.load_task(line_folder)
  with pytest.raises(task_folder.TaskError) as caught:
    prepared.prepare_task(task)
  assert "[files]\n'private/labels.csv' = '" in str(caught.value)
  assert not task.prepared_folder.exists()


def test_prepare_py_must_define_prepare(line_folder):
  task = task_folder.load_task(line_folder)
  (line_folder / 'prepare.py').write_text('x = 1\n')
  with pytest.raises(task_folder.TaskError, match='defines no function'):
    prepared.prepare_task(task)
  (line_folder / 'prepare.py').unlink()
  with pytest.raises(task_folder.TaskError, match='no such file'):
    prepared.prepare_task(task)


def test_two_processes_at_once_prepare_once(line_folder):
  file = line_folder / 'prepare.py'
  file.write_text('import time; time.sleep(0.5)\n' + file.read_text())
  code = (
    'import sys; from mlagent_jax.environment import prepared, task_folder;'
    'prepared.prepare_task(task_folder.load_task(sys.argv[1]))'
  )
  command = [sys.executable, '-c', code, str(line_folder)]
  both = [subprocess.Popen(command, env=os.environ) for _ in range(2)]
  assert [process.wait() for process in both] == [0, 0]
  assert calls(line_folder) == 1
  prepared.check_prepared(task_folder.load_task(line_folder))


def test_what_a_killed_process_left_is_removed(line_folder):
  task = task_folder.load_task(line_folder)
  left = task.prepared_folder.with_name('.line.making') / 'public'
  left.mkdir(parents=True)
  (left / 'half.csv').write_text('x')
  prepared.prepare_task(task)
  assert not left.exists()

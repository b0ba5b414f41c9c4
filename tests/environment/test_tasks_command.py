import json
import shutil
import subprocess
import sys
import tempfile

import pytest

from mlagent_jax import paths, tasks, trajectories
from mlagent_jax.environment import scratch, task_folder, trace
from mlagent_jax.environment.records import (
  Outcome,
  OutcomeKind,
  Snapshot,
  Step,
  Trajectory,
)


@pytest.fixture
def command(capsys, cache_home):
  """Runs a command; its exit code, what it printed, and its errors."""

  def run(*arguments):
    code = tasks.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err

  return run


def test_list_shows_every_task(command):
  code, out, _ = command('list')
  assert code == 0
  for name in task_folder.list_tasks():
    assert name in out
  assert 'missing' in out


def test_imported_tasks_are_tasks(command, line_folder, monkeypatch, tmp_path):
  top = tmp_path / 'top'
  shutil.copytree(line_folder, top / 'imported' / 'line')
  monkeypatch.setattr(paths, 'top_folder', lambda name: top)
  code, out, _ = command('list')
  assert code == 0
  assert 'line' in out
  assert command('prepare', '--all')[0] == 0


def test_traces_of_a_store(command, line_folder, line_task, tmp_path):
  store = trajectories.TrajectoryStore(tmp_path / 'store')
  state = Snapshot('0' * 64)
  reply = 'Thought: t\nAction: List Files\nAction Input: {"dir_path": "."}'
  looked = Step(state, reply, Outcome(OutcomeKind.LOOKED, 'train.py'), state)
  for number in (1, 2):
    store.append(
      Trajectory(f't{number}', 'line', 'me', 0, (), (looked,), 'steps', 1.0)
    )
  arguments = ('trace', '--from', tmp_path / 'store', '--out', tmp_path / 'out')
  code, out, _ = command(*arguments, '--task', line_folder)
  assert (code, '2 trajectories' in out) == (0, True)
  for trajectory in store:
    file = tmp_path / 'out' / 'line' / trajectory.trajectory_id / 'env_log'
    found = json.loads((file / 'trace.json').read_text())
    assert found == trace.to_mlagentbench_trace(trajectory, line_task)
  # A task that is not one of ours is named by its folder.
  code, _, err = command(*arguments)
  assert (code, "no task 'line'" in err) == (2, True)
  code, _, err = command('trace', '--from', tmp_path, '--out', tmp_path / 'o')
  assert (code, 'trajectories.jsonl' in err) == (2, True)


def test_prepare_check_and_grade(command, line_folder, tmp_path):
  code, _, err = command('check', '--task', line_folder, '--sandbox', 'process')
  assert code == 2
  assert 'tasks prepare --task line' in err
  assert command('prepare', '--task', line_folder)[0] == 0
  code, out, _ = command('check', '--task', line_folder, '--sandbox', 'process')
  assert code == 1  # task.toml states 20.5 for the starter's 30 on test
  assert 'WRONG' in out
  file = line_folder / 'task.toml'
  file.write_text(file.read_text().replace('p_init = 20.5', 'p_init = 30.0'))
  code, out, _ = command('check', '--task', line_folder, '--sandbox', 'process')
  assert (code, 'right' in out, '10' in out) == (0, True, True)
  submission = tmp_path / 'mine.csv'
  submission.write_text('id,y\n' + ''.join(f'r{i},{i}\n' for i in range(1, 41)))
  code, out, _ = command(
    'grade', '--task', line_folder, '--submission', submission
  )
  assert (code, json.loads(out)) == (0, {'validation': 10.0, 'test': 30.0})
  submission.write_text('id,y\n')
  code, out, _ = command(
    'grade', '--task', line_folder, '--submission', submission
  )
  assert code == 1
  assert '40 of 40 ids are missing' in json.loads(out)['error']


@pytest.mark.parametrize(
  'script, kind, score, exit_code, output',
  [
    (None, 'executed', 10.0, 0, 'done\n'),
    ('print("é")\n1 / 0', 'script_failed', None, 1, 'é\nTraceback'),
    ('print("on", flush=True)\nwhile True: pass', 'time_limit', None, -9, 'on'),
    ('print(1)', 'missing_submission', None, 0, '1\n'),
  ],
)
def test_exec_prints_one_line_of_json(
  line_task, tmp_path, script, kind, score, exit_code, output
):
  file = tmp_path / 'script.py'
  starter = line_task.starter_folder / 'train.py'
  file.write_text(script or starter.read_text())
  command = [sys.executable, '-m', 'mlagent_jax.tasks', 'exec']
  command += ['--task', line_task.folder, '--script', file]
  command += ['--sandbox', 'process', '--time_limit', '2']
  ran = subprocess.run(command, capture_output=True, text=True)
  assert ran.returncode == 0, ran.stderr
  (line,) = ran.stdout.splitlines()
  found = json.loads(line)
  assert list(found) == ['kind', 'score', 'exit_code', 'seconds', 'output']
  assert (found['kind'], found['score']) == (kind, score)
  assert found['exit_code'] == exit_code
  assert found['output'].startswith(output)
  assert 0 < found['seconds'] < 4


@pytest.mark.parametrize(
  'arguments, words',
  [
    (['--task', 'no-such-task', '--script', 'x.py'], 'neither a folder nor'),
    (['--script', 'no-such-script.py'], 'no-such-script.py'),
    (['--script', __file__, '--time_limit', '0'], 'must be above 0'),
    (['--script', __file__, '--sandbox', 'jail'], 'jail'),
  ],
)
def test_bad_input_is_told_in_a_line(command, line_task, arguments, words):
  if '--task' not in arguments:
    arguments = ['--task', line_task.folder, *arguments]
  code, out, err = command('exec', *arguments)
  assert (code, out) == (2, '')
  assert words in err


def test_what_cannot_be_downloaded_is_told_in_a_line(command, monkeypatch):
  monkeypatch.setenv('PIP_NO_INDEX', '1')
  monkeypatch.setenv('PIP_CONFIG_FILE', '/dev/null')
  monkeypatch.delenv('PIP_FIND_LINKS', raising=False)
  code, out, err = command('prepare', '--task', 'cells')
  assert (code, out) == (2, '')
  assert err.startswith('FetchError: ')


def test_import_names_a_sandbox_that_does_not_exist(command, tmp_path):
  code, out, err = command(
    'import', '--from', 'mlebench', tmp_path, '--sandbox', 'jail'
  )
  assert (code, out) == (2, '')
  assert err.startswith("TaskError: --sandbox: there is no sandbox 'jail'")


NOISY = """
import random
print('a starter')
rows = [f'r{i},{2 * i + random.random()}' for i in range(1, 41)]
open('submission.csv', 'w').write('\\n'.join(['id,y', *rows]))
"""


@pytest.fixture
def right_folder(line_folder, command):
  """The task `line`, prepared, with a scale that is its starter's."""
  file = line_folder / 'task.toml'
  text = file.read_text().replace('p_init = 20.5', 'p_init = 30.0')
  file.write_text(text.replace('m_best = 0.1', 'm_best = 0.5'))
  assert command('prepare', '--task', line_folder)[0] == 0
  return line_folder


def test_check_runs_a_stronger_script_too(command, right_folder, tmp_path):
  strong = tmp_path / 'strong'
  strong.mkdir()
  check = ['check', '--task', right_folder, '--sandbox', 'process', '--json']
  starter = (right_folder / 'starter' / 'train.py').read_text()
  for slope, code, score, words in (
    (1.9, 0, 1.0, ''),
    (0.5, 1, 15.0, 'is no better than m_init 10'),
    (2.0, 1, 0.0, 'is better than m_best 0.5'),
  ):
    script = starter.replace('SLOPE = 1.0', f'SLOPE = {slope}')
    (strong / 'line.py').write_text(script)
    found, out, err = command(*check, '--strong', strong)
    assert found == code, err
    assert words in err
    (row,) = json.loads(out)['tasks']
    assert row['strong']['score'] == pytest.approx(score)
    assert (row['m_init'], row['m_best'], row['data']) == (10.0, 0.5, 'right')
    assert row['runs'][0]['score'] == 10.0
    assert row['spread'] is None


def test_check_shows_how_scores_spread(command, right_folder, tmp_path):
  check = ['check', '--task', right_folder, '--sandbox', 'process']
  code, out, _ = command(*check, '--repeat', 3, '--json')
  (row,) = json.loads(out)['tasks']
  assert (code, len(row['runs']), row['spread']) == (0, 3, 0.0)
  (tmp_path / 'noisy.py').write_text(NOISY)
  noisy = [*check, '--script', tmp_path / 'noisy.py', '--repeat', 3]
  code, out, _ = command(*noisy, '--json')
  (row,) = json.loads(out)['tasks']
  scores = [run['score'] for run in row['runs']]
  assert code == 0
  assert row['spread'] == max(scores) - min(scores) > 0
  code, out, _ = command(*noisy)
  assert 'of the gap' in out


def test_check_tells_of_data_that_is_not_right(
  command, right_folder, line_task
):
  file = line_task.data_folder / 'train.csv'
  file.unlink()
  check = ['check', '--task', right_folder, '--sandbox', 'process']
  code, out, err = command(*check)
  assert code == 2
  assert 'damaged' in out
  assert 'train.csv is missing' in err


def test_prepare_takes_the_tasks_of_a_config(command, line_folder, tmp_path):
  file = tmp_path / 'mine.py'
  file.write_text(
    'from configs import base\n'
    'def get_config():\n'
    '  config = base.get_config()\n'
    f'  config.tasks.train = ({str(line_folder)!r},)\n'
    '  config.tasks.held_out = ()\n'
    '  return config\n'
  )
  code, out, _ = command('prepare', '--config', file)
  assert code == 0
  assert [line.split(':')[0] for line in out.splitlines()] == ['line']
  code, _, err = command('prepare', '--config', tmp_path / 'none.py')
  assert (code, 'is no config file' in err) == (2, True)


def test_reap_removes_what_killed_runs_left(command, tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  monkeypatch.setattr(scratch, '_FRESH_SECONDS', -1)
  (tmp_path / 'mlagent_jax-run-dead' / 'x').mkdir(parents=True)
  with scratch.make_folder('run') as used:
    code, out, _ = command('reap')
    assert used.is_dir()
  assert code == 0
  assert f'{tmp_path}/mlagent_jax-run-dead\n' in out
  assert not (tmp_path / 'mlagent_jax-run-dead').exists()


def test_help_teaches(capsys):
  for arguments in (['--help'], ['exec', '--help']):
    with pytest.raises(SystemExit) as stop:
      tasks.main(arguments)
    assert stop.value.code == 0
  assert '--time_limit SECONDS' in capsys.readouterr().out

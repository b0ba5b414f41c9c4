"""Choosing a sandbox, and failures of a sandbox itself."""

import contextlib
import dataclasses
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from mlagent_jax.environment import sandbox as sandboxes
from mlagent_jax.environment.records import Limits, SandboxUnavailable
from mlagent_jax.environment.sandbox import accounts, cgroups, keeper
from mlagent_jax.environment.sandbox import process as process_module

# A process that runs an endless script in a sandbox.
HOST = """
import pathlib, sys, tempfile
from mlagent_jax.environment.records import Limits
from mlagent_jax.environment.sandbox import make_sandbox
kind, folder, mark = sys.argv[1:]
kind, _, preload = kind.partition('_')
tempfile.tempdir = folder
workspace = pathlib.Path(folder) / 'workspace'
workspace.mkdir()
(workspace / 'train.py').write_text(
  'import os, time; open("started", "a").write("x");'
  ' os.fork() or os.setsid(); time.sleep(600)'
)
with make_sandbox(kind, preload=['json'] if preload else []) as made:
  made.run(['python', 'train.py', mark], workspace, Limits(seconds=60))
"""


# The sandboxes whose processes are the host's own.
LOCAL = ['process', pytest.param('bubblewrap', marks=pytest.mark.bwrap)]


@pytest.fixture
def run_local(kind, make_runner):
  with sandboxes.make_sandbox(kind) as made:
    yield make_runner(made)


@pytest.mark.docker
def test_auto_takes_the_strongest():
  with sandboxes.make_sandbox('auto') as made:
    assert made.kind == 'docker'


@pytest.mark.bwrap
def test_auto_skips_an_engine_that_does_not_answer(monkeypatch, tmp_path):
  monkeypatch.setenv('DOCKER_HOST', f'unix://{tmp_path}/docker.sock')
  with sandboxes.make_sandbox('auto') as made:
    assert made.kind == 'bubblewrap'


def test_auto_skips_what_is_not_ready(monkeypatch, tmp_path):
  monkeypatch.setenv('DOCKER_HOST', f'unix://{tmp_path}/docker.sock')
  monkeypatch.setenv('PATH', str(tmp_path))
  with sandboxes.make_sandbox('auto') as made:
    assert made.kind == 'process'


def test_an_explicit_choice_that_is_not_ready(monkeypatch, tmp_path):
  monkeypatch.setenv('PATH', str(tmp_path))
  assert 'apt-get install bubblewrap' in sandboxes.readiness('bubblewrap')
  with pytest.raises(SandboxUnavailable, match='bubblewrap.*not ready.*apt'):
    sandboxes.make_sandbox('bubblewrap')


def test_no_such_kind():
  for ask in (sandboxes.readiness, sandboxes.make_sandbox):
    with pytest.raises(ValueError, match="no sandbox 'chroot'.*process"):
      ask('chroot')
  with pytest.raises(ValueError, match='takes no options'):
    sandboxes.make_sandbox('auto', image='x')


@pytest.mark.bwrap
def test_bubblewrap_vanishes(monkeypatch, tmp_path, bubblewrap, make_runner):
  run = make_runner(bubblewrap)
  monkeypatch.setenv('PATH', str(tmp_path))
  with pytest.raises(SandboxUnavailable, match='bwrap'):
    run('pass')


@pytest.mark.bwrap
def test_bubblewrap_fails(monkeypatch, tmp_path, bubblewrap, make_runner):
  run = make_runner(bubblewrap)
  for name, script in (
    ('refuses', 'echo "bwrap: No permissions" >&2; exit 1'),
    ('lies', 'exit 0'),
  ):
    folder = tmp_path / name
    folder.mkdir()
    (folder / 'bwrap').write_text(f'#!/bin/sh\n{script}\n')
    (folder / 'bwrap').chmod(0o755)
    monkeypatch.setenv('PATH', f'{folder}:/usr/bin:/bin')
    with pytest.raises(SandboxUnavailable, match='bwrap'):
      run('pass')
    assert not os.path.lexists(run.workspace / 'data')


@pytest.mark.parametrize('kind', LOCAL)
def test_control_groups_go_away(run_local, monkeypatch):
  run = run_local
  nowhere = pathlib.Path('/sys/fs/cgroup/mlagent_jax-no-such-folder')
  place = cgroups.Place(1, {'memory': nowhere, 'pids': nowhere})
  monkeypatch.setattr(run.sandbox, '_place', place)
  with pytest.raises(SandboxUnavailable, match='control group'):
    run('pass')


@pytest.mark.parametrize('kind', LOCAL)
def test_no_descriptors_left(run_local):
  run = run_local
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  run('pass')
  kept = []
  resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
  try:
    while True:
      kept.append(os.open('/dev/null', os.O_RDONLY))
  except OSError:
    with pytest.raises(SandboxUnavailable):
      run.sandbox.run(['python', '-c', 'pass'], run.workspace, Limits())
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for descriptor in kept:
      os.close(descriptor)
  assert run('print(1)').output == '1\n'


def test_the_helper_of_process_is_started_again(process, make_runner):
  run = make_runner(process)
  assert run('print(1)').output == '1\n'
  (helper,) = process._helpers._helpers.values()
  os.kill(helper._process.pid, signal.SIGKILL)
  time.sleep(0.05)
  assert run('print(2)').output == '2\n'


def test_a_killed_keeper_is_no_outcome(process, make_runner, alive):
  run = make_runner(process)
  mark = f'keeper-{os.getpid()}'
  source = """
    import os, signal, time
    print(os.getppid(), flush=True)
    time.sleep(600)
    """

  def strike():
    while not (found := alive(mark)):
      time.sleep(0.01)
    time.sleep(0.3)
    for process_id in found:
      text = pathlib.Path(f'/proc/{process_id}/stat').read_text()
      os.kill(int(text.rpartition(')')[2].split()[1]), signal.SIGKILL)

  thread = threading.Thread(target=strike)
  thread.start()
  with pytest.raises(SandboxUnavailable, match='keeper'):
    run(source, mark)
  thread.join()
  assert alive(mark) == []


@pytest.mark.parametrize(
  'kind',
  [
    *LOCAL,
    'process_preload',
    pytest.param('bubblewrap_preload', marks=pytest.mark.bwrap),
  ],
)
def test_a_killed_host_leaves_nothing(kind, folder, alive):
  mark = f'orphan-{os.getpid()}-{kind}'
  host = subprocess.Popen(
    [sys.executable, '-c', HOST, kind, folder, mark],
    stderr=subprocess.DEVNULL,
  )
  deadline = time.monotonic() + 60
  while not (folder / 'workspace' / 'started').exists():
    assert host.poll() is None
    assert time.monotonic() < deadline
    time.sleep(0.01)
  host.kill()
  host.wait()
  while alive(mark):
    assert time.monotonic() < deadline
    time.sleep(0.01)
  # Nor is it started again.
  time.sleep(0.5)
  assert alive(mark) == []
  assert (folder / 'workspace' / 'started').read_text() == 'x'
  place = cgroups.find_place()
  if place is not None:
    cgroups._sweep(place)
    for parent in place.parents.values():
      assert list(parent.glob(f'mlagent_jax-{host.pid}-*')) == []


def test_a_killed_host_lends_no_account_while_its_keeper_lives(folder, alive):
  """For the keeper will kill all that this account has."""
  if os.geteuid() != 0:
    pytest.skip('only root lends accounts')
  mark = f'lender-{os.getpid()}'
  host = subprocess.Popen(
    [sys.executable, '-c', HOST, 'process', folder, mark],
    stderr=subprocess.DEVNULL,
  )
  deadline = time.monotonic() + 60
  while not (folder / 'workspace' / 'started').exists():
    assert host.poll() is None
    assert time.monotonic() < deadline
    time.sleep(0.01)
  (script, *_) = [
    process
    for process in alive(mark)
    if os.stat(f'/proc/{process}').st_uid != 0
  ]
  account = os.stat(f'/proc/{script}').st_uid
  text = pathlib.Path(f'/proc/{script}/stat').read_text()
  keeper = int(text.rpartition(')')[2].split()[1])
  os.kill(keeper, signal.SIGSTOP)
  host.kill()
  host.wait()

  def lent(count):
    with contextlib.ExitStack() as stack:
      return [stack.enter_context(accounts.lend()).number for _ in range(count)]

  assert account not in lent(40)
  os.kill(keeper, signal.SIGCONT)
  while alive(mark) or account not in lent(40):
    assert time.monotonic() < deadline
    time.sleep(0.01)


def test_a_script_that_never_began_ends_too(folder):
  """The host dies, or fails, between the script's fork and its start."""
  if os.geteuid() != 0:
    pytest.skip('only root has accounts to lend')
  with contextlib.closing(keeper.Helper()) as helper:
    with contextlib.ExitStack() as stack:
      account = stack.enter_context(accounts.lend())
      request = {
        'command': ['python', '-c', 'pass'],
        'environment': {},
        'cwd': str(folder),
        'user': account.number,
        'rlimits': [],
        'covers': [],
        'shown': [],
      }
      _, status, _ = keeper.start(stack, helper, request, [account.lock])
      processes = status.wait_for_start()
      # And now the end, without a word to the script.
    assert status.done
  # Dead is not yet reaped: their parent takes a moment for that.
  deadline = time.monotonic() + 10
  while any(os.path.exists(f'/proc/{number}') for number in processes):
    assert time.monotonic() < deadline
    time.sleep(0.01)


def test_homes_of_killed_hosts_are_swept(folder, monkeypatch):
  monkeypatch.setattr(tempfile, 'tempdir', str(folder))
  monkeypatch.setattr(process_module, '_FRESH_SECONDS', -1)
  (folder / 'mlagent_jax-home-dead' / 'cache').mkdir(parents=True)
  with process_module._home(None) as home:
    dead = str(folder / 'mlagent_jax-home-dead')
    assert process_module.sweep_homes() == [dead]
    assert os.listdir(folder) == [home.name]
  assert os.listdir(folder) == []


def test_a_closed_sandbox_runs_nothing(sandbox, make_runner):
  with sandboxes.make_sandbox(sandbox.kind) as made:
    run = make_runner(made)
    assert run('pass').exit_code == 0
  with pytest.raises(SandboxUnavailable, match='closed'):
    run('pass')


@pytest.mark.parametrize('kind', LOCAL)
def test_data_that_scripts_cannot_read(run_local):
  run = run_local
  if os.geteuid() != 0:
    pytest.skip('scripts run as the owner of the data')
  run.data.chmod(0o700)
  with pytest.raises(PermissionError, match='chmod -R a[+]rX'):
    run('pass', with_data=True)


def test_groups_of_a_killed_host_are_swept():
  place = cgroups.find_place()
  if place is None:
    pytest.skip('no control group can be made here')
  # A host that has ended: this process at another start time.
  name = f'mlagent_jax-{os.getpid()}-1-0'
  for folder in set(place.folders(name).values()):
    folder.mkdir()
  child = os.posix_spawn('/bin/sleep', ['sleep', '600'], {})
  for folder in set(place.folders(name).values()):
    (folder / 'cgroup.procs').write_text(str(child))
  cgroups._sweep(place)
  assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
  assert not any(folder.exists() for folder in place.folders(name).values())


def test_accounts_are_lent_once():
  if os.geteuid() != 0:
    pytest.skip('only root lends accounts')
  with accounts.lend() as one, accounts.lend() as another:
    assert one.number != another.number
    pid = os.fork()
    if pid == 0:
      with accounts.lend() as third:
        taken = (one.number, another.number)
        os._exit(int(third.number in taken))
    assert os.waitpid(pid, 0)[1] == 0


def test_limits_hold_a_fractional_cpu():
  limits = dataclasses.replace(Limits(), cpus=0.5)
  place = cgroups.Place(2, {'memory': pathlib.Path('/'), 'cpu': pathlib.Path()})
  settings = cgroups._settings(place, limits, 0)
  assert ('cpu', 'cpu.max', '50000 100000') in settings
  assert ('memory', 'memory.max', 2048 << 20) in settings

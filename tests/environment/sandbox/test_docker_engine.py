"""The engine dies in the middle of a run: an engine of the test's own."""

import concurrent.futures
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

import pytest

from mlagent_jax.environment.records import Limits, SandboxUnavailable
from mlagent_jax.environment.sandbox.docker import IMAGE, DockerSandbox
from mlagent_jax.environment.sandbox.docker_engine import Engine

pytestmark = [pytest.mark.docker, pytest.mark.slow]


class OwnEngine:
  """A Docker engine beside the machine's, with the task image."""

  def __init__(self, folder):
    self.host = f'unix://{folder}/docker.sock'
    self._folder = folder
    self._process = None

  def start(self):
    with open(self._folder / 'log', 'ab') as log:
      self._process = subprocess.Popen(
        [
          *('dockerd', '--host', self.host, '--pidfile', self._folder / 'pid'),
          *('--data-root', self._folder / 'data'),
          *('--exec-root', self._folder / 'exec'),
          *('--bridge', 'none', '--iptables=false'),
        ],
        stdout=log,
        stderr=log,
        start_new_session=True,
      )
    deadline = time.monotonic() + 60
    while self.client('version', check=False).returncode:
      assert time.monotonic() < deadline, (self._folder / 'log').read_text()
      time.sleep(0.1)

  def client(self, *arguments, check=True):
    return subprocess.run(
      ['docker', '--host', self.host, *arguments],
      check=check,
      capture_output=True,
      text=True,
    )

  def load(self):
    with subprocess.Popen(
      ['docker', 'save', IMAGE], stdout=subprocess.PIPE
    ) as save:
      subprocess.run(
        ['docker', '--host', self.host, 'load'],
        stdin=save.stdout,
        stdout=subprocess.DEVNULL,
        check=True,
      )

  def end(self, number):
    containerd = int(
      (self._folder / 'exec/containerd/containerd.pid').read_text()
    )
    self._process.send_signal(number)
    self._process.wait()
    # A new engine would take this one, which is about to end, for its own.
    deadline = time.monotonic() + 30
    while pathlib.Path(f'/proc/{containerd}').exists():
      assert time.monotonic() < deadline
      time.sleep(0.02)

  def remove(self):
    if self._process.poll() is not None:
      self.start()  # only an engine can end the containers of another one
    self.end(signal.SIGTERM)
    # One that was killed leaves its folder mounted on itself.
    subprocess.run(['umount', self._folder / 'data'], capture_output=True)
    shutil.rmtree(self._folder)


@pytest.fixture(scope='module')
def own_engine():
  if os.geteuid() != 0:
    pytest.skip('only root can start an engine')
  folder = pathlib.Path(tempfile.mkdtemp(prefix='mlagent_jax-engine-'))
  engine = OwnEngine(folder)
  engine.start()
  try:
    engine.load()
    yield engine
  finally:
    engine.remove()


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_the_engine_ends_during_a_run(
  own_engine, number, monkeypatch, folder, alive
):
  monkeypatch.setenv('DOCKER_HOST', own_engine.host)
  mark = f'engine-{os.getpid()}-{number}'
  workspace = folder / 'workspace'
  workspace.mkdir()

  def run(source):
    command = ['python', '-c', source, mark]
    return made.run(command, workspace, Limits(seconds=120))

  with DockerSandbox() as made:
    assert run('print(1)').output == '1\n'
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
      running = pool.submit(run, 'import time; time.sleep(100)')
      deadline = time.monotonic() + 30
      while not alive(mark):
        assert time.monotonic() < deadline
        time.sleep(0.05)
      own_engine.end(number)
      # Nobody waits for the time limit.
      with pytest.raises(SandboxUnavailable):
        running.result(timeout=30)
    with pytest.raises(SandboxUnavailable):
      run('print(2)')
    own_engine.start()
    assert run('print(3)').output == '3\n'
    assert not alive(mark)
    with contextlib.closing(Engine()) as engine:
      assert len(engine.containers(made._pool.label)) == 1
      place = made._pool._folder
      assert len(os.listdir(place)) == 1
  with contextlib.closing(Engine()) as engine:
    assert engine.containers('mlagent_jax.owner') == []
  assert not place.exists()

"""The engine dies in the middle of a run: an engine of the test's own."""

import concurrent.futures
import contextlib
import os
import pathlib
import signal
import tempfile
import time

import pytest

from benchmarks.soak.own_engine import OwnEngine
from mlagent_jax.environment.records import Limits, SandboxUnavailable
from mlagent_jax.environment.sandbox.docker import IMAGE, DockerSandbox
from mlagent_jax.environment.sandbox.docker_engine import Engine

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.fixture(scope='module')
def own_engine():
  if os.geteuid() != 0:
    pytest.skip('only root can start an engine')
  folder = pathlib.Path(tempfile.mkdtemp(prefix='mlagent_jax-engine-'))
  engine = OwnEngine(folder)
  engine.start()
  try:
    engine.load(IMAGE)
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

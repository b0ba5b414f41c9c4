"""Several processes as one: the same figures, one end."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from mlagent_jax.model.sharding import make_mesh
from mlagent_jax.stages import processes
from tests import together

ROOT = pathlib.Path(__file__).resolve().parent.parent


def free_port():
  with socket.socket() as listener:
    listener.bind(('127.0.0.1', 0))
    return listener.getsockname()[1]


def launch(folder, *extra, count=2):
  """`count` processes with 8 devices together."""
  port = free_port()
  flags = os.environ['XLA_FLAGS']
  count_flag = '--xla_force_host_platform_device_count='
  environment = os.environ | {
    'XLA_FLAGS': re.sub(rf'{count_flag}\d+', f'{count_flag}{8 // count}', flags)
  }
  arguments = [[port, count, index, folder, *extra] for index in range(count)]
  return [
    subprocess.Popen(
      [sys.executable, '-m', 'tests.together', *map(str, each)],
      env=environment,
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for each in arguments
  ]


def outputs(running, seconds):
  """[(exit code, stdout, stderr)] of all, which end within `seconds`."""
  deadline = time.monotonic() + seconds
  try:
    ended = []
    for process in running:
      left = max(0.1, deadline - time.monotonic())
      out, err = process.communicate(timeout=left)
      ended.append((process.returncode, out, err))
    return ended
  finally:
    for process in running:
      process.kill()


@pytest.mark.timeout(300)
def test_two_processes_equal_one_and_another_mesh_resumes(tmp_path):
  ended = outputs(launch(tmp_path / 'two'), 240)
  for code, out, err in ended:
    assert code == 0, out + err
  two = json.loads(ended[0][1].splitlines()[-1])
  losses, graphdef, params = together.train(
    make_mesh(1, 8, 1), tmp_path / 'one'
  )
  assert two['losses'].keys() == {str(number) for number in losses}
  for number, loss in losses.items():
    assert two['losses'][str(number)] == pytest.approx(loss, rel=0, abs=1e-5)
  alone = processes.Processes()
  assert two['sampled'] == together.sample(alone, graphdef, params)
  resumed, *_ = together.train(
    make_mesh(1, 8, 1), tmp_path / 'two', together.SAVED
  )
  assert list(resumed) == [3, 4, 5]
  for number, loss in resumed.items():
    assert two['losses'][str(number)] == pytest.approx(loss, rel=0, abs=1e-5)


@pytest.mark.parametrize('victim', [0, 1])
def test_a_killed_process_stops_the_others(tmp_path, victim):
  running = launch(tmp_path, 'wait')
  for process in running:
    while 'waiting' not in (line := process.stdout.readline()):
      assert line, process.stderr.read()
  running[victim].send_signal(signal.SIGKILL)
  start = time.monotonic()
  ended = outputs(running, 60)
  assert time.monotonic() - start < 60
  code, _, err = ended[1 - victim]
  assert code != 0
  assert 'another task died' in err
  assert f'process {1 - victim} of 2 has ended' in err
  assert 'the run resumes from its last checkpoint' in err


def test_a_process_that_was_given_half_is_refused(monkeypatch):
  monkeypatch.delenv('JAX_PROCESS_ID', raising=False)
  with pytest.raises(processes.StartError, match='process_id'):
    processes.start('127.0.0.1:1', 2)
  monkeypatch.setenv('JAX_PROCESS_ID', '2')
  with pytest.raises(
    processes.StartError, match='process_id 2 is not one of 2'
  ):
    processes.start('127.0.0.1:1', 2)


def test_without_a_cluster_there_is_one_process():
  code = (
    'from mlagent_jax.stages import processes\n'
    'here = processes.start()\n'
    'assert (here.index, here.count) == (0, 1)\n'
    'assert here.leader_does(lambda: 3) == 3 and here.gather(4) == [4]\n'
  )
  subprocess.run([sys.executable, '-c', code], check=True, timeout=120)

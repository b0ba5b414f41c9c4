"""The training entry in two processes of four devices: one run, as in one.

Real processes, collectives over gloo, real scripts in the process sandbox.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from test_processes import free_port
from test_train import ROOT, SMALL, losses, losses_so_far

pytestmark = pytest.mark.timeout(1800)

LENGTH = (
  'sft.batch_size=8',
  'rl.states_per_batch=8',
  'rl.batch_size=8',
  'rl.max_staleness=0',
  'rl.epochs=1',
  'mesh.data=2',
  'mesh.fsdp=4',
)
SHORT = (*LENGTH, 'sft.steps=3', 'rl.steps=1')
# Until the policy speaks the protocol, so that rewards differ in a group.
LEARNS = (
  *LENGTH,
  'sft.steps=60',
  'sft.learning_rate=1e-2',
  'sft.checkpoint_every=20',
  'rl.steps=3',
  'rl.checkpoint_every=1',
  'rl.entropy_coef=0.0',
)


@pytest.fixture(scope='module')
def environment(tmp_path_factory):
  # What is started again does not compile again.
  folder = tmp_path_factory.mktemp('compiled')
  return os.environ | {
    'JAX_COMPILATION_CACHE_DIR': str(folder),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '0',
  }


def start(environment, workdir, *overrides, count):
  """`count` processes with 8 devices together, each with a log."""
  option = '--xla_force_host_platform_device_count='
  flags = re.sub(
    rf'{option}\d+', f'{option}{8 // count}', environment['XLA_FLAGS']
  )
  command = [
    sys.executable,
    '-m',
    'mlagent_jax.train',
    f'--config={ROOT / "configs" / "toy.py"}',
    f'--workdir={workdir}',
    *(f'--config.{item}' for item in (*SMALL, *overrides)),
  ]
  if count > 1:
    address = f'127.0.0.1:{free_port()}'
    command += [f'--coordinator_address={address}', f'--num_processes={count}']
  started = []
  for index in range(count):
    log = workdir.parent / f'{workdir.name}-{time.monotonic_ns()}.log'
    with log.open('w') as stream:
      process = subprocess.Popen(
        command + [f'--process_id={index}'] * (count > 1),
        env=environment | {'XLA_FLAGS': flags},
        cwd=ROOT,
        stdout=stream,
        stderr=subprocess.STDOUT,
      )
    started.append((process, log))
  return started


def end(started, seconds=900):
  """[(exit code, log)] of all, which end within `seconds`."""
  deadline = time.monotonic() + seconds
  try:
    for process, _ in started:
      process.wait(timeout=max(0.1, deadline - time.monotonic()))
  finally:
    for process, _ in started:
      process.kill()
  return [(process.returncode, log.read_text()) for process, log in started]


def complete(environment, workdir, *overrides, count):
  ended = end(start(environment, workdir, *overrides, count=count))
  for code, text in ended:
    assert code == 0, text
  return ended


def wait_for(started, workdir, stage, step):
  """Until the metrics have this step."""
  deadline = time.monotonic() + 900
  metrics = workdir / 'metrics.jsonl'
  while not metrics.exists() or step not in losses_so_far(metrics, stage):
    for process, log in started:
      assert process.poll() is None, log.read_text()
    assert time.monotonic() < deadline
    time.sleep(0.01)


def assert_same_losses(workdir, reference, steps):
  for stage, count in steps.items():
    ours, theirs = losses(workdir, stage), losses(reference, stage)
    assert list(theirs) == list(range(1, count + 1))
    assert ours == pytest.approx(theirs, rel=0, abs=1e-5)
    assert all(theirs.values())


def collected(environment, folder, *overrides):
  """A work directory with trajectories alone, and their tokenizer."""
  complete(environment, folder, *overrides, 'stages=("collect",)', count=1)
  (folder / 'metrics.jsonl').unlink()
  return folder


def test_two_processes_train_as_one(environment, tmp_path):
  one = collected(environment, tmp_path / 'one', *SHORT)
  two = shutil.copytree(one, tmp_path / 'two')
  training = (*SHORT, 'stages=("sft","rl")')
  complete(environment, one, *training, count=1)
  complete(environment, two, *training, count=2)
  assert_same_losses(two, one, {'sft': 3, 'rl': 1})
  ours, theirs = (
    json.loads((folder / 'results.json').read_text()) for folder in (two, one)
  )
  assert ours['rl'] == theirs['rl']


@pytest.fixture(scope='module')
def undisturbed(environment, tmp_path_factory):
  """(trajectories alone, a whole run in one process that nobody disturbed)."""
  folder = tmp_path_factory.mktemp('undisturbed')
  begun = collected(environment, folder / 'begun', *LEARNS)
  whole = shutil.copytree(begun, folder / 'whole')
  complete(environment, whole, *LEARNS, count=1)
  return begun, whole


@pytest.mark.slow
def test_two_processes_stopped_killed_and_moved(
  environment, undisturbed, tmp_path
):
  begun, whole = undisturbed
  steps = {'sft': 60, 'rl': 3}
  two = shutil.copytree(begun, tmp_path / 'two')

  # SIGTERM to one of them saves, and both end well.
  started = start(environment, two, *LEARNS, count=2)
  wait_for(started, two, 'sft', 23)
  started[1][0].send_signal(signal.SIGTERM)
  for code, text in end(started):
    assert code == 0, text
    assert 'stopped by SIGTERM: sft: saved step' in text
  last = max(losses(two, 'sft'))
  assert 23 < last < 60

  # One process with all eight devices on another mesh goes on from there.
  moved = shutil.copytree(two, tmp_path / 'moved')
  [(_, text)] = complete(
    environment, moved, *LEARNS, 'mesh.data=1', 'mesh.fsdp=8', count=1
  )
  assert f'sft: resumed at step {last}' in text
  assert_same_losses(moved, whole, steps)

  # So do the two, until one of them is killed.
  started = start(environment, two, *LEARNS, count=2)
  wait_for(started, two, 'rl', 1)
  started[1][0].kill()
  killed_at = time.monotonic()
  code, text = end(started, 60)[0]
  assert time.monotonic() - killed_at < 60
  assert code != 0
  assert 'process 0 of 2 has ended' in text
  assert 'the run resumes from its last checkpoint' in text

  ended = complete(environment, two, *LEARNS, count=2)
  assert 'rl: resumed at step' in ended[0][1]
  assert_same_losses(two, whole, steps)
  ours, theirs = (
    json.loads((folder / 'results.json').read_text()) for folder in (two, whole)
  )
  assert ours['evaluate'] == theirs['evaluate']

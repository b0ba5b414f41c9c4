"""RL that is killed again and again is the run that nobody touched.

Real processes, real scripts, SIGKILL: 20 times, while scripts run, while the
policy is updated or sampled, and while a checkpoint is written.
"""

import collections
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import time

import pytest
import test_train
from test_train import command

from mlagent_jax.stages import journal

pytestmark = [pytest.mark.slow, pytest.mark.timeout(10_800)]

KILLS = 20
# Trained until most actions are valid, so that scripts run; every step is
# slow enough to be hit in each of its parts.
LEARNS = (
  'sft.steps=150',
  'sft.batch_size=4',
  'sft.checkpoint_every=150',
  'rl.steps=36',
  'rl.states_per_batch=4',
  'rl.checkpoint_every=3',
  'rl.entropy_coef=0.01',
)


# No run may hang, however busy the machine is.
run = functools.partial(test_train.run, timeout=3600)


@pytest.fixture(scope='module')
def environment(tmp_path_factory):
  folder = tmp_path_factory.mktemp('compiled')
  return os.environ | {
    'JAX_COMPILATION_CACHE_DIR': str(folder),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '0',
    'XLA_FLAGS': '',
    'JAX_PLATFORMS': 'cpu',
  }


@pytest.fixture(scope='module', params=[0, 1])
def staleness(request):
  return request.param


@pytest.fixture(scope='module')
def options(staleness):
  return (*LEARNS, f'rl.max_staleness={staleness}')


@pytest.fixture(scope='module')
def tuned(tmp_path_factory, environment, options):
  """A work directory in which fine-tuning is complete."""
  workdir = tmp_path_factory.mktemp('tuned') / 'run'
  done = run(environment, workdir, *options, 'stages=("collect","sft")')
  assert done.returncode == 0, done.stdout + done.stderr
  return workdir


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory, environment, options, tuned):
  workdir = tmp_path_factory.mktemp('undisturbed') / 'run'
  shutil.copytree(tuned, workdir)
  done = run(environment, workdir, *options, 'stages=("rl",)')
  assert done.returncode == 0, done.stdout + done.stderr
  return workdir


def rows_of(workdir):
  """The lines of RL in metrics.jsonl; a torn last one is left out."""
  rows = []
  for line in (workdir / 'metrics.jsonl').read_text().split('\n')[:-1]:
    row = json.loads(line)
    if row['stage'] == 'rl':
      rows.append(row)
  return rows


class Watch:
  """What a run is doing, told by the files that it has written.

  Args:
    workdir: of the run.
    ahead: batches that are executed while the policy is updated.
  """

  def __init__(self, workdir, ahead):
    self._ahead = ahead
    self._rollouts = workdir / 'rl' / 'rollouts'
    self._checkpoints = workdir / 'rl' / 'checkpoints'

  def newest(self, kind):
    files = self._rollouts.glob(f'*.{kind}.json')
    return max((int(path.name.split('.')[0]) for path in files), default=0)

  def phase(self):
    if list(self._checkpoints.glob('*tmp*')):
      return 'checkpoint'
    if self.newest('sampled') - self.newest('trained') > self._ahead:
      return 'execution'
    return 'update or sampling'


def wait_for(watch, process, phase, rng):
  """Until it does that in a step after the next; then a moment longer."""
  first = watch.newest('trained') + rng.randint(1, 2)
  deadline = time.monotonic() + 900
  while watch.newest('trained') < first or watch.phase() != phase:
    if process.poll() is not None:
      return False
    assert time.monotonic() < deadline, f'no {phase} for 15 minutes'
    time.sleep(0.001)
  time.sleep(rng.uniform(0, 0.05))
  return True


def test_killed_at_any_moment(
  tuned, undisturbed, environment, options, staleness, tmp_path
):
  workdir = tmp_path / 'run'
  shutil.copytree(tuned, workdir)
  (workdir / 'metrics.jsonl').unlink()
  watch = Watch(workdir, staleness)
  rng = random.Random(5)
  wanted = ['execution', 'update or sampling', 'checkpoint']
  hit = collections.Counter()
  for number in range(KILLS):
    with subprocess.Popen(
      command(workdir, *options, 'stages=("rl",)'),
      env=environment,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
      start_new_session=True,
    ) as process:
      alive = wait_for(watch, process, wanted[number % len(wanted)], rng)
      if alive:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert alive, f'all steps were done after {number} kills'
    hit[watch.phase()] += 1
  done = run(environment, workdir, *options, 'stages=("rl",)')
  assert done.returncode == 0, done.stdout + done.stderr
  print(f'killed {sum(hit.values())} times: {dict(hit)}')
  assert sum(hit.values()) == KILLS
  assert len(hit) == 3

  # Every time that a step was done it gave the same figures.
  expected = {row['step']: row for row in rows_of(undisturbed)}
  repeated = rows_of(workdir)
  assert {row['step'] for row in repeated} == expected.keys()
  assert len(repeated) > len(expected)
  same = ('loss', 'entropy', 'grad_norm', 'reward', 'samples', 'staleness')
  for row in repeated:
    for figure in same:
      assert row[figure] == expected[row['step']][figure], (row['step'], figure)
  assert len({row['loss'] for row in expected.values()}) > 12
  assert any(row['share/edited'] > 0 for row in expected.values())

  # And every sample was trained on once.
  rollouts = journal.Journal(workdir / 'rl' / 'rollouts')
  counts = collections.Counter()
  for step in expected:
    trained = rollouts.trained(step)
    assert not trained.dropped
    counts.update(trained.results.keys())
  assert set(counts.values()) == {1}
  assert len(counts) == len(expected) * 4 * 4

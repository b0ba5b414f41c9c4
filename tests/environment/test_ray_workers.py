import contextlib
import dataclasses
import itertools
import os
import pickle
import re
import subprocess
import sys
import time

import pytest
from line_task import SLOPE_LINE

from mlagent_jax.environment import episode, sandbox
from mlagent_jax.environment.cache import ExecutionCache
from mlagent_jax.environment.records import OutcomeKind, SandboxUnavailable
from mlagent_jax.environment.workers import LocalPool, make_pool

pytestmark = pytest.mark.ray

LOOK = 'Thought: t\nAction: List Files\nAction Input: {"dir_path": "."}'
NODE = {
  'num_cpus': 2,
  'memory': 4 * 2**30,
  'object_store_memory': 80 * 2**20,
  'include_dashboard': False,
}


def edit(line, text):
  return (
    'Thought: t\nAction: Edit Script Lines\n'
    f'Action Input: train.py {line}-{line}\n{text}'
  )


def slope(value):
  return edit(SLOPE_LINE, f'SLOPE = {value}')


@pytest.fixture(scope='module')
def cluster():
  """Two nodes that work, and a head that does not."""
  os.environ['RAY_USAGE_STATS_ENABLED'] = '0'
  # The machine may be busy.
  os.environ['RAY_raylet_start_wait_time_s'] = '180'  # noqa: SIM112
  import ray
  from ray.cluster_utils import Cluster

  head = {**NODE, 'num_cpus': 0}
  found = Cluster(initialize_head=True, head_node_args=head)
  try:
    ray.init(address=found.address, log_to_driver=False)
    for _ in range(2):
      found.add_node(**NODE)
    yield found
  finally:
    ray.shutdown()
    found.shutdown()


@pytest.fixture
def environment(line_task, process_sandbox, store, tmp_path):
  return episode.Environment(
    {'line': line_task},
    process_sandbox,
    store,
    cache=ExecutionCache(tmp_path / 'executions'),
  )


@contextlib.contextmanager
def another_node(cluster, **options):
  node = cluster.add_node(**{**NODE, **options})
  try:
    yield node
  finally:
    if node in cluster.worker_nodes:
      cluster.remove_node(node)


def test_ray_gives_what_threads_give(cluster, environment, store):
  replies = [LOOK, slope(1.5), 'Action: none', edit(SLOPE_LINE, '1 / 0')]
  with LocalPool(environment) as local:
    start = environment.initial('line')
    expected = local.map([('line', start, reply) for reply in replies])
  with make_pool(environment, kind='ray') as pool:
    futures = [pool.submit('line', start, reply) for reply in replies]
    found = [future.result(timeout=120) for future in futures]
  for (outcome, after), (wanted, wanted_after) in zip(found, expected):
    assert after == wanted_after
    assert dataclasses.replace(outcome, cached=False) == wanted
  # The cache is one for all: what ran here does not run there.
  assert (pool.counts.runs, pool.counts.hit_rate) == (2, 1.0)
  assert len(pickle.dumps(found)) < 10_000


class Improver:
  """Edits twice, then ends; never leaves this process."""

  name = 'improver'

  def __init__(self):
    self.here = open(os.devnull)  # noqa: SIM115 - cannot be pickled

  def reply(self, task, snapshot, script, steps):
    if len(steps) == 2:
      return (
        'Thought: t\nAction: Final Answer\nAction Input: {"final_answer": ""}'
      )
    return slope(1.6 + len(steps) / 10)


def test_episodes_are_played(cluster, environment):
  with make_pool(environment, kind='ray', workers=1) as pool:
    played = pool.play('line', Improver(), seed=3).result(timeout=120)
  assert played.ended_by == 'final_answer'
  scores = [step.outcome.score for step in played.steps]
  assert scores == pytest.approx([4.0, 3.0, None])


def test_no_more_runs_than_there_are_cpus_or_workers(cluster, environment):
  text = 'import time; SLOPE = {}; t = time.time(); time.sleep(0.5)'
  text += '; print("ran", t, time.time())'
  environment.cache = None

  def most_at_once(workers):
    with make_pool(environment, kind='ray', workers=workers) as pool:
      start = environment.initial('line')
      replies = [edit(SLOPE_LINE, text.format(n)) for n in range(10)]
      results = pool.map([('line', start, reply) for reply in replies])
    changes = []
    for outcome, _ in results:
      begin, end = re.search(r'ran (\S+) (\S+)', outcome.observation).groups()
      changes += [(float(begin), 1), (float(end), -1)]
    return max(itertools.accumulate(change for _, change in sorted(changes)))

  assert most_at_once(12) <= 4  # two nodes of two CPUs
  assert most_at_once(2) <= 2


def test_a_node_that_dies_loses_no_step_and_doubles_none(cluster, environment):
  slopes = [1 + number / 1000 for number in range(1, 101)]
  replies = [reply for value in slopes for reply in (slope(value), LOOK)]
  with another_node(cluster) as node:
    with make_pool(environment, kind='ray', workers=12) as pool:
      start = environment.initial('line')
      futures = [pool.submit('line', start, reply) for reply in replies]
      while pool.counts.steps < 50:
        time.sleep(0.02)
      cluster.remove_node(node, allow_graceful=False)
      at = pool.counts.steps
      results = [future.result(timeout=240) for future in futures]
      assert at < 150  # the node died in the middle
      assert pool.counts.steps == 200
  for value, edited, looked in zip(slopes, results[::2], results[1::2]):
    assert edited[0].kind is OutcomeKind.EDITED
    assert edited[0].score == pytest.approx((2 - value) * 10)
    assert (
      environment.script('line', edited[1]).count(f'SLOPE = {value}\n') == 1
    )
    assert looked[0].kind is OutcomeKind.LOOKED
  assert len(list(environment.cache.folder.glob('records/??/*'))) == 100


def test_a_node_that_has_just_died_is_left_out(cluster, environment):
  with another_node(cluster) as node:
    cluster.remove_node(node, allow_graceful=False)
    # Ray does not know it yet.
    with make_pool(environment, kind='ray', workers=2) as pool:
      start = environment.initial('line')
      outcome, _ = pool.submit('line', start, slope(1.9)).result(timeout=120)
  assert outcome.kind is OutcomeKind.EDITED


@pytest.fixture
def small_disk(tmp_path):
  folder = tmp_path / 'disk'
  folder.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', str(folder)]
  if subprocess.run(mount, capture_output=True).returncode:
    pytest.skip('only root may mount a small disk')
  yield folder
  subprocess.run(['umount', '--lazy', str(folder)], check=True)


def test_a_step_goes_elsewhere_if_a_sandbox_fails(
  cluster, environment, small_disk
):
  """One node's disk is too small for what a script may write."""
  with another_node(cluster, env_vars={'TMPDIR': str(small_disk)}) as node:
    with make_pool(environment, kind='ray', workers=6, pause=0.01) as pool:
      start = environment.initial('line')
      replies = [slope(1 + number / 100) for number in range(1, 13)]
      results = pool.map([('line', start, reply) for reply in replies])
      assert pool.counts.retries >= 1
      assert pool._avoided == {node.node_id}
  assert [outcome.kind for outcome, _ in results] == [OutcomeKind.EDITED] * 12


def test_what_cannot_work_is_told_at_once(cluster, environment, line_task):
  limits = dataclasses.replace(line_task.limits, cpus=64)
  environment.tasks['line'] = dataclasses.replace(line_task, limits=limits)
  with pytest.raises(ValueError, match='task line needs: CPUs 64.*2 nodes'):
    make_pool(environment, kind='ray')
  with pytest.raises(ValueError, match="no workers 'slurm'"):
    make_pool(environment, kind='slurm')


@pytest.mark.bwrap
def test_a_node_without_the_sandbox_is_told_at_once(cluster, line_task, store):
  with (
    another_node(cluster, env_vars={'PATH': '/nowhere'}) as node,
    sandbox.make_sandbox('bubblewrap') as box,
  ):
    environment = episode.Environment({'line': line_task}, box, store)
    with pytest.raises(SandboxUnavailable, match=f'{node.node_id}.*not ready'):
      make_pool(environment, kind='ray')


def test_ray_is_an_extra():
  code = (
    'import sys; sys.modules["ray"] = None\n'
    'from mlagent_jax.environment import workers\n'
    'try: workers.make_pool(None, kind="ray")\n'
    'except ValueError as error: print(error)\n'
  )
  ran = subprocess.run([sys.executable, '-c', code], capture_output=True)
  assert b"pip install 'mlagent_jax[ray]'" in ran.stdout

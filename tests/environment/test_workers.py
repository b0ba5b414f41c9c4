import os
import subprocess
import sys
import threading

import pytest

from mlagent_jax.environment import episode
from mlagent_jax.environment.cache import ExecutionCache
from mlagent_jax.environment.records import OutcomeKind, SandboxUnavailable
from mlagent_jax.environment.workers import Counts, LocalPool

LOOK = 'Thought: t\nAction: List Files\nAction Input: {"dir_path": "."}'
RUN = (
  'Thought: t\nAction: Execute Script\n'
  'Action Input: {"script_name": "train.py"}'
)


class FailingSandbox:
  """The real sandbox behind a daemon that dies now and then."""

  def __init__(self, sandbox, failures):
    self.kind, self.identity = sandbox.kind, sandbox.identity
    self._sandbox = sandbox
    self._failures = failures
    self._lock = threading.Lock()

  def run(self, *arguments, **options):
    with self._lock:
      self._failures -= 1
      if self._failures >= 0:
        raise SandboxUnavailable('the daemon died')
    return self._sandbox.run(*arguments, **options)


def make_pool(line_task, sandbox, store, **options):
  environment = episode.Environment({'line': line_task}, sandbox, store)
  return LocalPool(environment, pause=0.01, **options)


def test_results_come_in_order(line_task, process_sandbox, store):
  with make_pool(line_task, process_sandbox, store, workers=2) as pool:
    start = pool.environment.initial('line')
    results = pool.map([('line', start, r) for r in (RUN, LOOK, '', RUN)])
  assert [outcome.kind for outcome, _ in results] == [
    OutcomeKind.EXECUTED,
    OutcomeKind.LOOKED,
    OutcomeKind.UNPARSED,
    OutcomeKind.EXECUTED,
  ]


def test_a_failing_sandbox_is_tried_again(line_task, process_sandbox, store):
  flaky = FailingSandbox(process_sandbox, 3)
  with make_pool(line_task, flaky, store, attempts=4) as pool:
    start = pool.environment.initial('line')
    outcome, _ = pool.submit('line', start, RUN).result()
    assert outcome.kind is OutcomeKind.EXECUTED
    assert pool.counts == Counts(steps=1, runs=1, retries=3)


def test_the_number_of_tries_is_bounded_and_told(
  line_task, process_sandbox, store
):
  flaky = FailingSandbox(process_sandbox, 100)
  with make_pool(line_task, flaky, store, attempts=3) as pool:
    start = pool.environment.initial('line')
    with pytest.raises(SandboxUnavailable, match='3 of 3 tries.*daemon died'):
      pool.submit('line', start, RUN).result()
    assert pool.submit('line', start, LOOK).result()[0]


class Runner:
  """Runs the script, for ever."""

  name = 'runner'

  def reply(self, *_):
    return RUN


def test_episodes_try_their_steps_again(line_task, process_sandbox, store):
  flaky = FailingSandbox(process_sandbox, 2)
  with make_pool(line_task, flaky, store) as pool:
    played = pool.play('line', Runner(), max_steps=2, seed=1).result()
  kinds = [step.outcome.kind for step in played.steps]
  assert kinds == [OutcomeKind.EXECUTED] * 2


def test_a_new_pool_removes_what_killed_runs_left(
  line_task, process_sandbox, store, tmp_path
):
  executions = ExecutionCache(tmp_path / 'executions')
  (executions.folder / 'tmp' / '0a').write_text('x')
  new = store.folder / 'tmp' / '0b'
  new.write_text('x')
  environment = episode.Environment(
    {'line': line_task}, process_sandbox, store, cache=executions
  )
  with LocalPool(environment):
    assert not os.listdir(executions.folder / 'tmp')
    assert new.exists()  # it may be under way


def test_a_pool_needs_workers(line_task, process_sandbox, store):
  with pytest.raises(ValueError, match=r'workers \(0\)'):
    make_pool(line_task, process_sandbox, store, workers=0)


def test_workers_do_not_import_jax():
  code = (
    'import sys; import mlagent_jax.environment.workers;'
    'sys.exit(" ".join({"jax", "jaxlib", "flax", "torch", "transformers",'
    ' "sklearn"} & set(sys.modules)) or 0)'
  )
  found = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True
  )
  assert (found.returncode, found.stderr) == (0, '')

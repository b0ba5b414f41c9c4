"""A pool of threads that take steps; their scripts run in sandboxes."""

import concurrent.futures
import dataclasses
import logging
import threading
import time
from collections.abc import Iterable
from typing import Self

from mlagent_jax.environment import scratch
from mlagent_jax.environment.episode import Agent, Environment
from mlagent_jax.environment.records import (
  Outcome,
  SandboxUnavailable,
  Snapshot,
  Trajectory,
)

Result = tuple[Outcome, Snapshot]
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Counts:
  """What a pool has done so far; for the metrics.

  Attributes:
    steps: outcomes given.
    runs: of them, those that needed a script's result.
    reused: of these, how many came from the cache.
    retries: tries that failed, and were followed by another.
  """

  steps: int = 0
  runs: int = 0
  reused: int = 0
  retries: int = 0

  @property
  def hit_rate(self) -> float:
    """Reused of all runs; 0 if there was none."""
    return self.reused / max(1, self.runs)


class LocalPool:
  """Takes steps in `workers` threads.

  A step whose sandbox fails is tried again after a pause, each twice as long
  as the one before; no outcome is recorded for the failures. A new pool
  removes what killed runs left: folders on this machine, and unfinished files
  in the store and the cache.

  Args:
    environment: takes the steps.
    workers: steps at once; each runs one script at a time.
    attempts: tries of one step before `SandboxUnavailable` is raised.
    pause: seconds before the second try.

  Attributes:
    counts: what it has done so far.

  Raises:
    ValueError: if there would be no worker, or no try.
  """

  def __init__(
    self,
    environment: Environment,
    *,
    workers: int = 2,
    attempts: int = 4,
    pause: float = 0.5,
  ):
    if workers < 1 or attempts < 1:
      raise ValueError(
        f'workers ({workers}) and attempts ({attempts}) must be at least 1'
      )
    self.environment = environment
    self.counts = Counts()
    self._counting = threading.Lock()
    self._attempts = attempts
    self._pause = pause
    self._threads = concurrent.futures.ThreadPoolExecutor(
      workers, thread_name_prefix='worker'
    )
    scratch.reap(environment.scratch)
    environment.store.sweep()
    if environment.cache is not None:
      environment.cache.sweep()

  def submit(
    self, task: str, snapshot: Snapshot, reply: str
  ) -> 'concurrent.futures.Future[Result]':
    """Begins a step; the future gives its outcome and the state that follows.

    The future raises `SandboxUnavailable`, with the number of tries, if the
    sandbox failed in each of them.
    """
    return self._threads.submit(self._step, task, snapshot, reply)

  def map(self, requests: Iterable[tuple[str, Snapshot, str]]) -> list[Result]:
    """Takes many steps (task, state, reply); results in their order."""
    futures = [self.submit(*request) for request in requests]
    return [future.result() for future in futures]

  def play(
    self, task: str, agent: Agent, **options
  ) -> 'concurrent.futures.Future[Trajectory]':
    """Begins an episode in one of the threads; its steps are tried again.

    Args:
      task: its name.
      agent: replies; nobody else uses it meanwhile.
      **options: of `Environment.play`.
    """
    return self._threads.submit(
      self.environment.play, task, agent, step=self._step, **options
    )

  def close(self) -> None:
    """Drops steps that have not begun, waits for the others."""
    self._threads.shutdown(wait=True, cancel_futures=True)

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception) -> None:
    self.close()

  def _step(self, task: str, snapshot: Snapshot, reply: str) -> Result:
    for attempt in range(1, self._attempts + 1):
      try:
        outcome, after = self._try(task, snapshot, reply)
      except SandboxUnavailable as error:
        if attempt == self._attempts:
          raise SandboxUnavailable(
            f'the sandbox failed in {attempt} of {attempt} tries of a step of'
            f' {task}; the last time: {error}'
          ) from error
        _log.warning('try %d of a step of %s: %s', attempt, task, error)
        self._count(retries=1)
        time.sleep(self._pause * 2 ** (attempt - 1))
        continue
      ran = outcome.exit_code is not None
      self._count(steps=1, runs=int(ran), reused=int(ran and outcome.cached))
      return outcome, after
    raise AssertionError('unreachable: attempts is at least 1')

  def _try(self, task: str, snapshot: Snapshot, reply: str) -> Result:
    return self.environment.step(task, snapshot, reply)

  def _count(self, **more: int) -> None:
    with self._counting:
      fields = {k: getattr(self.counts, k) + v for k, v in more.items()}
      self.counts = dataclasses.replace(self.counts, **fields)

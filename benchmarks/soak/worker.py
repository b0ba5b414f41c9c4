"""A worker of the soak: a process that takes steps until it is killed."""

import dataclasses
import multiprocessing.connection
import pathlib
from collections.abc import Sequence

from mlagent_jax.environment import episode, prepared, task_folder
from mlagent_jax.environment.blobs import BlobStore
from mlagent_jax.environment.cache import ExecutionCache
from mlagent_jax.environment.records import (
  Outcome,
  SandboxUnavailable,
  Snapshot,
)
from mlagent_jax.environment.sandbox import make_sandbox
from mlagent_jax.environment.workers import LocalPool

# The walk's scripts need less; a machine that does other work needs patience.
_LIMITS = {'seconds': 90.0, 'memory_mb': 1024, 'workspace_mb': 64}
CACHE_BYTES = 2 * 10**9


def load_tasks(names: Sequence[str]) -> dict[str, task_folder.Task]:
  """The tasks by name, prepared, with the soak's limits."""
  tasks = {}
  for name in names:
    task = task_folder.load_task(name)
    prepared.prepare_task(task)
    limits = dataclasses.replace(task.limits, **_LIMITS)
    tasks[name] = dataclasses.replace(task, limits=limits)
  return tasks


def open_environment(
  tasks, sandbox, folder: pathlib.Path, *, cached: bool
) -> episode.Environment:
  """The environment of one worker; all share the store and the cache."""
  cache = None
  if cached:
    cache = ExecutionCache(folder / 'executions', max_bytes=CACHE_BYTES)
  return episode.Environment(
    tasks, sandbox, BlobStore(folder / 'blobs'), cache=cache
  )


@dataclasses.dataclass(frozen=True)
class Request:
  """A step to take."""

  task: str
  snapshot: Snapshot
  reply: str


@dataclasses.dataclass(frozen=True)
class Answer:
  """What came of it: an outcome and a state, or why there is none.

  Attributes:
    retries: tries of this step that the pool had to repeat.
  """

  outcome: Outcome | None = None
  after: Snapshot | None = None
  error: str = ''
  retries: int = 0


def serve(
  connection: multiprocessing.connection.Connection,
  names: Sequence[str],
  folder: pathlib.Path,
) -> None:
  """Takes the steps that it is sent, until None comes."""
  tasks = load_tasks(names)
  try:
    with make_sandbox('docker') as sandbox:
      environment = open_environment(tasks, sandbox, folder, cached=True)
      with LocalPool(environment, workers=1, attempts=3) as pool:
        connection.send(Answer())
        while (request := connection.recv()) is not None:
          connection.send(_answer(pool, request))
  except SandboxUnavailable as error:
    connection.send(Answer(error=str(error)))


def _answer(pool: LocalPool, request: Request) -> Answer:
  before = pool.counts.retries
  step = pool.submit(request.task, request.snapshot, request.reply)
  try:
    outcome, after = step.result()
  except SandboxUnavailable as error:
    return Answer(error=str(error), retries=pool.counts.retries - before)
  return Answer(outcome, after, retries=pool.counts.retries - before)

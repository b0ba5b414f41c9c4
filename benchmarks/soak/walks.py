"""The walks of a soak, their journal, and the workers that carry them out."""

import dataclasses
import json
import multiprocessing
import pathlib
import random
import threading
from collections.abc import Iterator

from benchmarks.soak import replies, worker
from mlagent_jax import trajectories
from mlagent_jax.environment.blobs import BlobStore
from mlagent_jax.environment.records import Outcome, OutcomeKind, Snapshot
from mlagent_jax.environment.workspace import read_tree

_WALK_STEPS = 5
# Of one step, by all workers together: more is no reported error any more.
_MOST_TRIES = 50
_GOES_ON = (
  OutcomeKind.EDITED,
  OutcomeKind.EXECUTED,
  OutcomeKind.LOOKED,
  OutcomeKind.UNDONE,
)


@dataclasses.dataclass(frozen=True)
class Done:
  """A step that was taken, as it is in the journal.

  Attributes:
    walk, index: its place.
    tag, right: what it was, and whether it came to what it must.
    errors: reported infrastructure errors before it.
    retries: tries that a worker's own pool had to repeat.
  """

  walk: int
  index: int
  task: str
  tag: str
  reply: str
  leads_on: bool
  before: Snapshot
  outcome: Outcome
  after: Snapshot
  right: bool
  errors: tuple[str, ...]
  retries: int

  @property
  def next(self) -> Snapshot:
    """The state from which the walk goes on."""
    goes_on = self.leads_on and self.outcome.kind in _GOES_ON
    return self.after if goes_on else self.before


class Journal:
  """Steps on disk, one line of JSON each; read again when it is opened."""

  def __init__(self, file: pathlib.Path):
    self.steps: dict[tuple[int, int], Done] = {}
    self._lock = threading.Lock()
    if file.exists():
      whole = file.read_bytes()
      whole = whole[: whole.rfind(b'\n') + 1]  # a torn line was never told
      file.write_bytes(whole)
      for line in whole.splitlines():
        self._keep(_read(json.loads(line)))
    self._file = file.open('a')

  def write(self, done: Done) -> None:
    """Adds a step; it is on disk when this returns."""
    with self._lock:
      self._file.write(json.dumps(dataclasses.asdict(done)) + '\n')
      self._file.flush()
      self._keep(done)

  def close(self) -> None:
    """Closes the file."""
    self._file.close()

  def _keep(self, done: Done) -> None:
    place = done.walk, done.index
    if place in self.steps:
      raise ValueError(f'step {place} was taken twice')
    self.steps[place] = done


def _read(values: dict) -> Done:
  return Done(
    **{
      **values,
      'before': trajectories.snapshot_from_dict(values['before']),
      'after': trajectories.snapshot_from_dict(values['after']),
      'outcome': trajectories.outcome_from_dict(values['outcome']),
      'errors': tuple(values['errors']),
    }
  )


class Worker:
  """One worker process after the other, as they are killed."""

  def __init__(self, names, folder: pathlib.Path):
    self._arguments = (tuple(names), folder)
    self._process = None
    self._connection = None

  def kill(self) -> bool:
    """Kills the process, if there is one."""
    process = self._process
    if process is None or not process.is_alive():
      return False
    process.kill()
    return True

  def take(self, request: worker.Request) -> worker.Answer:
    """Takes a step; an answer with an error if the worker died on it."""
    try:
      if self._process is None:
        started = self._start()
        if started.error:
          self._drop()
          return started
      self._connection.send(request)
      return self._connection.recv()
    except (EOFError, OSError):
      self._drop()
      return worker.Answer(error='the worker was killed')

  def close(self) -> None:
    """Lets the process end by itself."""
    if self._process is not None:
      try:
        self._connection.send(None)
      except OSError:
        pass  # killed meanwhile
      self._drop()

  def _start(self) -> worker.Answer:
    context = multiprocessing.get_context('spawn')
    self._connection, theirs = context.Pipe()
    self._process = context.Process(
      target=worker.serve, args=(theirs, *self._arguments)
    )
    self._process.start()
    theirs.close()
    return self._connection.recv()

  def _drop(self) -> None:
    self._process.join()
    self._connection.close()
    self._process = None


class Walks:
  """Takes all steps of all walks, each exactly once.

  Args:
    tasks: that the walks are on, in turn.
    folder: of the journal, the store and the cache.
    steps: how many there are.
    seed: decides all of them.
  """

  def __init__(self, tasks, folder: pathlib.Path, *, steps: int, seed: int):
    self.journal = Journal(folder / 'steps.jsonl')
    self.steps = steps
    self._tasks = tasks
    self._seed = seed
    self._store = BlobStore(folder / 'blobs')
    self._lock = threading.Lock()
    self._free = iter(range(-(-steps // _WALK_STEPS)))
    environment = worker.open_environment(tasks, None, folder, cached=False)
    self._initial = {name: environment.initial(name) for name in tasks}

  def carry_out(self, worker_: Worker, stop: threading.Event) -> None:
    """Takes whole walks by one worker, until none is left or `stop`."""
    for walk in self._mine():
      for index in range(self._length(walk)):
        if (walk, index) not in self.journal.steps:
          done = None
          if not stop.is_set():
            done = self._step(worker_, walk, index, stop)
          if done is None:
            return
          self.journal.write(done)

  def _mine(self) -> Iterator[int]:
    while True:
      with self._lock:
        walk = next(self._free, None)
      if walk is None:
        return
      yield walk

  def _length(self, walk: int) -> int:
    return min(_WALK_STEPS, self.steps - walk * _WALK_STEPS)

  def _step(
    self, worker_: Worker, walk: int, index: int, stop: threading.Event
  ) -> Done | None:
    """Tries until there is an outcome; None if `stop` came before."""
    names = sorted(self._tasks)
    name = names[walk % len(names)]
    before = self._initial[name]
    if index:
      before = self.journal.steps[walk, index - 1].next
    entry = self._tasks[name].entry
    tree = read_tree(before.tree, self._store)
    planned = replies.draw(
      random.Random(f'{self._seed}-{walk}-{index}'),
      self._store.get(tree[entry].content).decode(),
      entry=entry,
      can_undo=bool(before.undo),
    )
    errors, retries = [], 0
    while True:
      answer = worker_.take(worker.Request(name, before, planned.text))
      retries += answer.retries
      if answer.outcome is not None:
        break
      errors.append(answer.error)
      if len(errors) == _MOST_TRIES:
        raise RuntimeError(f'step {walk}, {index} cannot be taken: {errors}')
      if stop.wait(min(5.0, 0.2 * 2 ** len(errors))):
        return None
    return Done(
      walk,
      index,
      name,
      planned.tag,
      planned.text,
      planned.leads_on,
      before,
      answer.outcome,
      answer.after,
      answer.outcome.kind in planned.expect,
      tuple(errors),
      retries,
    )

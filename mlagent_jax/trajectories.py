"""The trajectory store on disk, and the pool of states drawn from it.

A store is one append-only file of JSON lines. Every line carries the SHA-256
of its record and is on disk (fsync) before `append` returns. A process that is
killed in the middle of an append leaves at most one line without its newline:
that torn line was never acknowledged, so it is dropped and reported. Damage
anywhere else is an error that names file and line.
"""

import collections
import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import logging
import os
import pathlib
from collections.abc import (
  Callable,
  Hashable,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)
from typing import Any, TypeVar

import numpy as np

from mlagent_jax.environment.records import (
  Outcome,
  OutcomeKind,
  Snapshot,
  Step,
  Trajectory,
  Version,
)

FILE_NAME = 'trajectories.jsonl'

_T = TypeVar('_T')


class TrajectoryError(RuntimeError):
  """A trajectory file is damaged: the message says where and what to do."""


def to_dict(trajectory: Trajectory) -> dict[str, Any]:
  """The trajectory as plain JSON values; `from_dict` gives it back exactly."""
  return dataclasses.asdict(trajectory)


def from_dict(values: Mapping[str, Any]) -> Trajectory:
  """The inverse of `to_dict`.

  Raises:
    TypeError, ValueError, KeyError: if fields are missing, unknown or odd.
  """
  values = dict(values)
  values['ideas'] = tuple(values['ideas'])
  values['steps'] = tuple(_step(step) for step in values['steps'])
  return Trajectory(**values)


def outcome_from_dict(values: Mapping[str, Any]) -> Outcome:
  """An outcome from `dataclasses.asdict` of it; errors as `from_dict`."""
  return Outcome(**{**values, 'kind': OutcomeKind(values['kind'])})


def snapshot_from_dict(values: Mapping[str, Any]) -> Snapshot:
  """A snapshot from `dataclasses.asdict` of it; errors as `from_dict`."""
  undo = tuple(Version(**version) for version in values['undo'])
  return Snapshot(**{**values, 'undo': undo})


def _step(values: Mapping[str, Any]) -> Step:
  return Step(
    **{
      **values,
      'before': snapshot_from_dict(values['before']),
      'outcome': outcome_from_dict(values['outcome']),
      'after': snapshot_from_dict(values['after']),
      'token_ids': tuple(values['token_ids']),
      'logps': tuple(values['logps']),
    }
  )


def _canonical(record: Any) -> str:
  # Python writes floats so that they are read back bit for bit; NaN has no
  # place in JSON and no score or log-probability may be one.
  return json.dumps(
    record, sort_keys=True, separators=(',', ':'), allow_nan=False
  )


def _checksum(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()


class TrajectoryStore:
  """Append-only, crash-safe store of trajectories in one folder.

  One process writes; any number may read. `torn_bytes` is the size of the
  torn last line that was found when the store was opened, 0 if there was none.
  """

  def __init__(self, folder: str | os.PathLike):
    self.folder = pathlib.Path(folder)
    self.file = self.folder / FILE_NAME
    self.folder.mkdir(parents=True, exist_ok=True)
    self.torn_bytes = 0
    with self._locked() as stream:
      self._drop_torn_line(stream)
    self._ids = {trajectory.trajectory_id for trajectory in self}

  @contextlib.contextmanager
  def _locked(self):
    with open(self.file, 'ab+') as stream:
      fcntl.flock(stream, fcntl.LOCK_EX)  # released by close
      yield stream

  def _drop_torn_line(self, stream) -> None:
    """Cuts off what follows the last newline, and says so."""
    end = stream.seek(0, os.SEEK_END)
    keep, block = end, 1 << 16
    while keep:
      start = max(0, keep - block)
      stream.seek(start)
      newline = stream.read(keep - start).rfind(b'\n')
      if newline >= 0:
        keep = start + newline + 1
        break
      keep = start
    if keep < end:
      self.torn_bytes = end - keep
      logging.warning(
        '%s: dropped a torn last line of %d bytes (a writer was stopped in the'
        ' middle of an append; that trajectory was never acknowledged)',
        self.file,
        end - keep,
      )
      stream.truncate(keep)
      os.fsync(stream.fileno())

  def append(self, trajectory: Trajectory) -> None:
    """Writes one trajectory; it is on disk when this returns.

    Raises:
      ValueError: if its id is in the store already, or a number is NaN.
    """
    if trajectory.trajectory_id in self._ids:
      raise ValueError(
        f'trajectory {trajectory.trajectory_id!r} is in {self.file} already'
      )
    text = _canonical(to_dict(trajectory))
    line = f'{{"sha256":"{_checksum(text)}","trajectory":{text}}}\n'
    with self._locked() as stream:
      self._drop_torn_line(stream)  # of another writer that was killed
      stream.write(line.encode())
      stream.flush()
      os.fsync(stream.fileno())
    self._ids.add(trajectory.trajectory_id)

  def __iter__(self) -> Iterator[Trajectory]:
    """The trajectories in the order in which they were appended.

    Raises:
      TrajectoryError: if a line is damaged.
    """
    with open(self.file, 'rb') as stream:
      for number, line in enumerate(stream, 1):
        if line.endswith(b'\n'):  # else another process is writing it now
          yield self._read(line, number)

  def _read(self, line: bytes, number: int) -> Trajectory:
    try:
      values = json.loads(line)
      stored, record = values['sha256'], values['trajectory']
      found = _checksum(_canonical(record))
      if stored != found:
        raise ValueError(f'checksum {found[:12]}, stored is {stored[:12]}')
      return from_dict(record)
    except (ValueError, KeyError, TypeError) as error:
      raise TrajectoryError(
        f'{self.file}:{number}: damaged trajectory ({error}): restore the file'
        ' from a copy, or delete this line to go on without it'
      ) from error

  def __len__(self) -> int:
    return len(self._ids)

  def __contains__(self, trajectory_id: str) -> bool:
    return trajectory_id in self._ids


@dataclasses.dataclass(frozen=True)
class State:
  """A point of a trajectory from which an action can be taken.

  Attributes:
    task: the task's name.
    trajectory_id: where it comes from.
    step_index: how many steps were taken before it, 0 at the start.
    snapshot: the workspace and its scores.
    history: the steps that led here, `step_index` of them.
  """

  task: str
  trajectory_id: str
  step_index: int
  snapshot: Snapshot
  history: tuple[Step, ...]

  @property
  def name(self) -> str:
    """TRAJECTORY_ID/STEP_INDEX: unique in a pool."""
    return f'{self.trajectory_id}/{self.step_index}'

  @functools.cached_property
  def key(self) -> str:
    """Equal for states that an agent cannot tell apart (SHA-256, hex)."""
    seen = [[step.reply, step.outcome.observation] for step in self.history]
    scores = [self.snapshot.score, self.snapshot.best_score]
    return _checksum(_canonical([self.task, self.snapshot.tree, scores, seen]))


def states_of(trajectory: Trajectory) -> list[State]:
  """Every prefix, the empty one first; none after a final answer."""
  steps = trajectory.steps
  snapshots = [step.before for step in steps]
  if steps and steps[-1].outcome.kind is not OutcomeKind.FINAL_ANSWER:
    snapshots.append(steps[-1].after)
  return [
    State(trajectory.task, trajectory.trajectory_id, i, snapshot, steps[:i])
    for i, snapshot in enumerate(snapshots)
  ]


def pairs_of(trajectory: Trajectory) -> list[tuple[State, Step]]:
  """(state, the step that was taken in it) for every step."""
  return list(zip(states_of(trajectory), trajectory.steps, strict=False))


class StatePool:
  """States to draw from; a draw is a pure function of seed and cursor."""

  def __init__(self, states: Iterable[State]):
    """Args: states: in a fixed order; raises ValueError if there is none."""
    self.states = tuple(states)
    if not self.states:
      raise ValueError('the state pool is empty: collect trajectories first')
    self._by_task = collections.defaultdict(list)
    for i, state in enumerate(self.states):
      self._by_task[state.task].append(i)

  @classmethod
  def of(cls, trajectories: Iterable[Trajectory]) -> 'StatePool':
    """The pool of every prefix of every trajectory."""
    return cls(s for t in trajectories for s in states_of(t))

  def __len__(self) -> int:
    return len(self.states)

  @property
  def tasks(self) -> tuple[str, ...]:
    """Names of the tasks, sorted."""
    return tuple(sorted(self._by_task))

  def draw(
    self, count: int, *, seed: int, cursor: int = 0, balanced: bool = True
  ) -> tuple[list[State], int]:
    """The `count` states from `cursor` on, and the cursor after them.

    Every state comes once before any comes again (within its task, if
    `balanced`, where the tasks take turns and so have equal shares). Draws of
    2 and 3 equal one draw of 5, and the cursor is all there is to save.
    """
    indices = [
      self._balanced_index(seed, position)
      if balanced
      else _shuffled(range(len(self.states)), position, seed)
      for position in range(cursor, cursor + count)
    ]
    return [self.states[i] for i in indices], cursor + count

  def _balanced_index(self, seed: int, position: int) -> int:
    tasks = self.tasks
    task_number = _shuffled(range(len(tasks)), position, seed, 1)
    members = self._by_task[tasks[task_number]]
    # Each task comes once a round, so the round counts its draws.
    return _shuffled(members, position // len(tasks), seed, 2, task_number)

  def hold_out(
    self,
    count: int,
    *,
    seed: int,
    key: Callable[[State], Hashable] = lambda state: state.key,
  ) -> tuple[list[State], 'StatePool']:
    """A fixed evaluation set and the pool without anything like it.

    The set is drawn as the pool is, with distinct keys, balanced over the
    tasks as far as they have states, and leaves the starts of episodes to the
    pool (there is one a task, and training needs it). No state of the returned
    pool has a key of the set.

    Args:
      count: size of the set.
      seed: of the choice.
      key: what makes two states the same; give the prompt's text to hold out
        what a policy sees.

    Raises:
      ValueError: if there are not enough distinct states.
    """
    keys = [key(state) for state in self.states]
    starts = {
      k for k, s in zip(keys, self.states, strict=True) if not s.history
    }
    queues = []
    for number, task in enumerate(self.tasks):
      members = self._by_task[task]
      order = np.random.default_rng([seed, 3, number]).permutation(len(members))
      # The first of each key in a random order of all prefixes: what was met
      # often is held out as often as it is drawn.
      first = {}
      for i in order:
        first.setdefault(keys[members[i]], members[i])
      queues.append([i for k, i in first.items() if k not in starts])
    # At least one state of a task stays for training beside its start.
    room = sum(max(0, len(queue) - 1) for queue in queues)
    if count > room:
      raise ValueError(
        f'{count} states to hold out, but only {room} distinct ones can be'
        f' spared of {len(self.states)} in the pool: collect more, or ask for'
        ' fewer'
      )
    chosen: list[int] = []
    rounds = 0
    while len(chosen) < count:
      for queue in queues:
        if rounds < len(queue) - 1 and len(chosen) < count:
          chosen.append(queue[rounds])
      rounds += 1
    held = {keys[i] for i in chosen}
    rest = [s for k, s in zip(keys, self.states, strict=True) if k not in held]
    return [self.states[i] for i in chosen], StatePool(rest)


def _shuffled(items: Sequence[_T], position: int, *seed: int) -> _T:
  """Item `position` of the endless sequence of shuffled passes over items."""
  epoch, offset = divmod(position, len(items))
  return items[_permutation(len(items), (*seed, epoch))[offset]]


@functools.lru_cache(maxsize=256)
def _permutation(length: int, seed: tuple[int, ...]) -> tuple[int, ...]:
  return tuple(np.random.default_rng(list(seed)).permutation(length).tolist())

"""The trajectory store on disk, and the states of its trajectories.

A store is one append-only file of JSON lines. Every line carries the SHA-256
of its record and is on disk (fsync) before `append` returns. A process that is
killed in the middle of an append leaves at most one line without its newline:
that torn line was never acknowledged, so it is dropped and reported. Damage
anywhere else is an error that names file and line.
"""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import logging
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from mlagent_jax.environment.records import (
  Outcome,
  OutcomeKind,
  Snapshot,
  Step,
  Trajectory,
  Version,
)

FILE_NAME = 'trajectories.jsonl'


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
  values['steps'] = tuple(step_from_dict(step) for step in values['steps'])
  return Trajectory(**values)


def outcome_from_dict(values: Mapping[str, Any]) -> Outcome:
  """An outcome from `dataclasses.asdict` of it; errors as `from_dict`."""
  return Outcome(**{**values, 'kind': OutcomeKind(values['kind'])})


def snapshot_from_dict(values: Mapping[str, Any]) -> Snapshot:
  """A snapshot from `dataclasses.asdict` of it; errors as `from_dict`."""
  undo = tuple(Version(**version) for version in values['undo'])
  return Snapshot(**{**values, 'undo': undo})


def step_from_dict(values: Mapping[str, Any]) -> Step:
  """A step from `dataclasses.asdict` of it; errors as `from_dict`."""
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

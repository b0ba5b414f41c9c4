"""What RL sampled and what became of it, on disk before it is used.

For every batch of single actions two files: NNNNNN.sampled.json when it was
sampled, before anything is executed, and NNNNNN.trained.json before the update
with that number: which samples it trains on, with their outcomes and rewards,
and which were given up. A sample is (batch, row, slot); over a whole run each
is named by exactly one NNNNNN.trained.json. Whole episodes (`rl.mode`
'episode') are in NNNNNN.episodes.json.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence

from mlagent_jax import rollout, trajectories
from mlagent_jax.environment import records
from mlagent_jax.stages import workdir


class JournalError(RuntimeError):
  """A rollout file is damaged; says which and what to do."""


@dataclasses.dataclass(frozen=True)
class Row:
  """One state and the replies that were sampled for it.

  Attributes:
    task: its name.
    trajectory_id, step_index: where in the pool the state is from.
    snapshot: the workspace that every reply is executed in a copy of.
    prompt_ids: token ids of its prompt.
    replies: G of them, each with its token ids and log-probabilities.
    neutral_before: `reward.neutral_run` of the steps that led there.
  """

  task: str
  trajectory_id: str
  step_index: int
  snapshot: records.Snapshot
  prompt_ids: tuple[int, ...]
  replies: tuple[rollout.Reply, ...]
  neutral_before: int = 0

  @property
  def name(self) -> str:
    """As `trajectories.State.name`."""
    return f'{self.trajectory_id}/{self.step_index}'


@dataclasses.dataclass(frozen=True)
class Sampled:
  """A batch as it was sampled.

  Attributes:
    number: of the batch, which is that of the update it is meant for.
    version: updates that the policy had seen when it sampled.
    rows: S of them.
  """

  number: int
  version: int
  rows: tuple[Row, ...]


@dataclasses.dataclass(frozen=True, order=True)
class SampleId:
  """Which sample: its batch, the row in it, the slot in that."""

  batch: int
  row: int
  slot: int


@dataclasses.dataclass(frozen=True)
class Result:
  """What became of a sample: the outcome, the state after it, the reward."""

  outcome: records.Outcome
  after: records.Snapshot
  reward: float


@dataclasses.dataclass(frozen=True)
class Trained:
  """What one update trains on.

  Attributes:
    results: of the samples that it trains on.
    dropped: samples that are given up, for they came too late.
  """

  results: dict[SampleId, Result]
  dropped: tuple[SampleId, ...]


class Journal:
  """The rollout files of one run.

  Args:
    folder: made if it is not there.
  """

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    folder.mkdir(parents=True, exist_ok=True)

  def write_sampled(self, sampled: Sampled) -> None:
    """Writes a batch; the whole file is there or none."""
    self._write(f'{sampled.number:06d}.sampled', sampled)

  def write_trained(self, number: int, trained: Trained) -> None:
    """Writes what update `number` trains on; the whole file or none."""
    content = {
      'results': [
        [_identity(sample), result]
        for sample, result in sorted(trained.results.items())
      ],
      'dropped': [_identity(sample) for sample in trained.dropped],
    }
    self._write(f'{number:06d}.trained', content)

  def write_episodes(
    self, number: int, played: Sequence[records.Trajectory]
  ) -> None:
    """Writes the episodes of update `number`; the whole file or none."""
    content = {'episodes': [trajectories.to_dict(one) for one in played]}
    self._write(f'{number:06d}.episodes', content)

  def sampled(self, number: int) -> Sampled | None:
    """What `write_sampled` wrote, float for float; None if there is none.

    Raises:
      JournalError: if the file is damaged.
    """
    return self._read(f'{number:06d}.sampled', _sampled)

  def trained(self, number: int) -> Trained | None:
    """What `write_trained` wrote, float for float; None if there is none.

    Raises:
      JournalError: if the file is damaged.
    """
    return self._read(f'{number:06d}.trained', _trained)

  def episodes(self, number: int) -> list[records.Trajectory] | None:
    """What `write_episodes` wrote, float for float; None if there is none.

    Raises:
      JournalError: if the file is damaged.
    """
    return self._read(f'{number:06d}.episodes', _episodes)

  def _write(self, name: str, content: Sampled | dict) -> None:
    text = _canonical(content)
    digest = hashlib.sha256(text.encode()).hexdigest()
    workdir.write_text(
      self._folder / f'{name}.json',
      f'{{"sha256": "{digest}", "content": {text}}}\n',
    )

  def _read(self, name: str, build: Callable):
    path = self._folder / f'{name}.json'
    if not path.exists():
      return None
    try:
      stored = json.loads(path.read_text(encoding='utf-8'))
      text = _canonical(stored['content'])
      if hashlib.sha256(text.encode()).hexdigest() != stored['sha256']:
        raise ValueError('its checksum differs')
      return build(stored['content'])
    except (ValueError, KeyError, TypeError) as error:
      raise JournalError(
        f'{path} is damaged ({error}); delete it, and that is'
        f' {"executed" if name.endswith("trained") else "sampled"} again'
      ) from error


def _canonical(content) -> str:
  """One text for equal contents; records in them are dicts of their fields."""
  return json.dumps(content, sort_keys=True, default=vars)


def _identity(sample: SampleId) -> tuple[int, int, int]:
  return sample.batch, sample.row, sample.slot


def _sampled(content: dict) -> Sampled:
  rows = tuple(
    Row(
      **{
        **row,
        'snapshot': trajectories.snapshot_from_dict(row['snapshot']),
        'prompt_ids': tuple(row['prompt_ids']),
        'replies': tuple(_reply(reply) for reply in row['replies']),
      }
    )
    for row in content['rows']
  )
  return Sampled(content['number'], content['version'], rows)


def _reply(values: dict) -> rollout.Reply:
  return rollout.Reply(
    **{
      **values,
      'token_ids': tuple(values['token_ids']),
      'logps': tuple(values['logps']),
    }
  )


def _episodes(content: dict) -> list[records.Trajectory]:
  return [trajectories.from_dict(one) for one in content['episodes']]


def _trained(content: dict) -> Trained:
  results = {
    SampleId(*sample): Result(
      trajectories.outcome_from_dict(result['outcome']),
      trajectories.snapshot_from_dict(result['after']),
      result['reward'],
    )
    for sample, result in content['results']
  }
  dropped = tuple(SampleId(*sample) for sample in content['dropped'])
  return Trained(results, dropped)

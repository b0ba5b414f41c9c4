"""What one RL step sampled and what became of it, on disk before its use."""

import dataclasses
import hashlib
import json
import pathlib

from mlagent_jax import rollout, trajectories
from mlagent_jax.stages import workdir


class JournalError(RuntimeError):
  """A rollout file is damaged; says which and what to do."""


def write(path: pathlib.Path, groups: list[list[rollout.Executed]]) -> None:
  """Writes groups[S][G]; the whole file is there or none."""
  path.parent.mkdir(parents=True, exist_ok=True)
  rows = [[dataclasses.asdict(done) for done in group] for group in groups]
  text = json.dumps(rows, sort_keys=True)
  digest = hashlib.sha256(text.encode()).hexdigest()
  workdir.write_json(path, {'sha256': digest, 'groups': rows})


def read(path: pathlib.Path) -> list[list[rollout.Executed]] | None:
  """What `write` wrote, float for float; None if there is no such file.

  Raises:
    JournalError: if the file is damaged.
  """
  if not path.exists():
    return None
  try:
    content = json.loads(path.read_text())
    text = json.dumps(content['groups'], sort_keys=True)
    if hashlib.sha256(text.encode()).hexdigest() != content['sha256']:
      raise ValueError('its checksum differs')
    return [[_executed(row) for row in group] for group in content['groups']]
  except (ValueError, KeyError, TypeError) as error:
    raise JournalError(
      f'{path} is damaged ({error}); delete it, and the step is sampled and'
      ' executed again'
    ) from error


def _executed(row: dict) -> rollout.Executed:
  reply = row['reply']
  return rollout.Executed(
    rollout.Reply(
      reply['text'],
      tuple(reply['token_ids']),
      tuple(reply['logps']),
      reply['finished'],
    ),
    trajectories.outcome_from_dict(row['outcome']),
    trajectories.snapshot_from_dict(row['after']),
    row['reward'],
  )

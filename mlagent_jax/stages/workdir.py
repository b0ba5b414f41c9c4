"""The work directory: which config made it, and which stages are complete.

A stage that ended writes STAGE/done.json (atomically, last). At the next
start it is skipped; a stage without it is resumed from what it has on disk.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable

from etils import epath
from ml_collections import config_dict

from mlagent_jax.environment import blobs

# Keys that may differ between two starts in one work directory: they change
# how a run is carried out, not what it computes.
FREE_KEYS = (
  'stages',
  'environment.pool',
  'environment.ray_address',
  'environment.workers',
  'environment.executions',
  'environment.executions_gb',
  'environment.max_outage_minutes',
  'endpoint.api_key_variable',
  'endpoint.base_url',
  'endpoint.cached_price',
  'endpoint.completion_price',
  'endpoint.max_cost',
  'endpoint.max_retries',
  'endpoint.prompt_price',
  'endpoint.requests_per_minute',
  'endpoint.timeout_seconds',
  'endpoint.tokens_per_minute',
  'mesh',
  'rl.micro_batches',
  'rl.timeline_steps',
  'sampler_mesh',
  'sft.micro_batches',
)


class WorkdirError(RuntimeError):
  """The work directory does not fit what was asked for."""


@dataclasses.dataclass(frozen=True)
class Workdir:
  """A folder of one run. Make it with `open_workdir`.

  Attributes:
    folder: of this host's disk, or of one that all hosts see.
    url: where the run lives, if `folder` is the mirror of that place.
    push: returns when all that is in `folder` is there too.
  """

  folder: pathlib.Path
  url: str = ''
  push: Callable[[], None] = lambda: None

  def __str__(self):
    return self.url or str(self.folder)

  def stage(self, name: str) -> pathlib.Path:
    """The folder of a stage; made if missing."""
    path = self.folder / name
    path.mkdir(parents=True, exist_ok=True)
    return path

  def checkpoints(self, name: str) -> epath.Path:
    """The folder of a stage's checkpoints, which every process writes to."""
    return epath.Path(self.url or self.folder) / name / 'checkpoints'

  def has_checkpoint(self, name: str) -> bool:
    """Whether a stage has one."""
    folder = self.checkpoints(name)
    return folder.is_dir() and any(
      path.name.isdigit() for path in folder.iterdir()
    )

  def result(self, name: str) -> dict | None:
    """What the stage reported when it ended; None if it has not."""
    return read_json(self.folder / name / 'done.json')

  def finish(self, name: str, result: dict) -> None:
    """Marks the stage complete."""
    write_json(self.stage(name) / 'done.json', result)
    self.push()


def write_json(path: pathlib.Path, value, indent: int | None = 2) -> None:
  """Writes JSON as `write_text` writes."""
  write_text(path, json.dumps(value, indent=indent) + '\n')


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file so that a reader sees the old one or the whole new one.

  Raises:
    DiskFullError: if there is no room; the old file stays.
  """
  partial = path.with_suffix(path.suffix + '.partial')
  with blobs.telling_of_a_full_disk(path.parent):
    with partial.open('w', encoding='utf-8') as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    partial.replace(path)


def read_json(path: pathlib.Path):
  """What `write_json` wrote; None if there is no such file.

  Raises:
    WorkdirError: if it is damaged.
  """
  if not path.exists():
    return None
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:
    raise WorkdirError(
      f'{path} is damaged ({error}); delete it, and it is made again'
    ) from error


def flatten(config) -> dict[str, object]:
  """{'rl.steps': 24, …}, JSON values only."""
  flat = {}
  for key, value in json.loads(config.to_json_best_effort()).items():
    pending = [(key, value)]
    while pending:
      name, item = pending.pop()
      if isinstance(item, dict):
        pending += [(f'{name}.{sub}', leaf) for sub, leaf in item.items()]
      else:
        flat[name] = item
  return flat


def is_free(key: str) -> bool:
  """True if two starts in one work directory may differ in `key`."""
  return any(key == free or key.startswith(free + '.') for free in FREE_KEYS)


def fingerprint(config: config_dict.ConfigDict) -> str:
  """SHA-256 (hex) of everything in the config that decides the result."""
  return fingerprint_of(flatten(config))


def fingerprint_of(flat: dict[str, object]) -> str:
  """The same of a flat config, as config.json holds it."""
  kept = {key: value for key, value in flat.items() if not is_free(key)}
  text = json.dumps(kept, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def open_workdir(
  folder: pathlib.Path, config: config_dict.ConfigDict
) -> Workdir:
  """Opens or makes the work directory of this config.

  Raises:
    WorkdirError: if it was made with another config (lists what differs),
      or if the folder holds something else.
  """
  path = folder / 'config.json'
  wanted = flatten(config)
  found = read_json(path)
  if found is not None:
    keys = sorted(found.keys() | wanted.keys())
    changed = [
      f'  {key}: {found.get(key, "(missing)")!r} there,'
      f' {wanted.get(key, "(missing)")!r} now'
      for key in keys
      if found.get(key) != wanted.get(key) and not is_free(key)
    ]
    if changed:
      raise WorkdirError(
        f'{folder} was made with another config ({len(changed)} keys'
        ' differ):\n' + '\n'.join(changed) + '\nUse another --workdir, or the'
        ' config that made this one.'
      )
  elif folder.exists() and any(folder.iterdir()):
    raise WorkdirError(
      f'{folder} is not empty and has no config.json: it is not a work'
      ' directory of mlagent_jax; choose another --workdir'
    )
  folder.mkdir(parents=True, exist_ok=True)
  write_json(path, wanted)
  return Workdir(folder)

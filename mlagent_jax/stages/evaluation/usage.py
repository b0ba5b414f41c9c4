"""What an episode cost, kept beside its trajectory."""

import dataclasses
import json
import os
import pathlib

FILE_NAME = 'usage.jsonl'


@dataclasses.dataclass(frozen=True)
class Usage:
  """What the replies of one episode took.

  Attributes:
    prompt_tokens, completion_tokens: read and written by the model.
    dollars: paid for them.
    accelerator_seconds: time of the devices, all of them together; of a batch
      of several episodes each has its equal share.
    refused_prompts: states whose prompt is longer than the model may read;
      the reply to each is empty, and so no action.
  """

  prompt_tokens: int = 0
  completion_tokens: int = 0
  dollars: float = 0.0
  accelerator_seconds: float = 0.0
  refused_prompts: int = 0

  def __add__(self, other: 'Usage') -> 'Usage':
    return Usage(
      *(
        getattr(self, field.name) + getattr(other, field.name)
        for field in dataclasses.fields(Usage)
      )
    )


class UsageFile:
  """Append-only file of usages; one process writes."""

  def __init__(self, folder: pathlib.Path):
    self.path = folder / FILE_NAME

  def append(self, trajectory_id: str, usage: Usage) -> None:
    """Writes one; it is on disk when this returns."""
    row = {'trajectory_id': trajectory_id, **dataclasses.asdict(usage)}
    with self.path.open('a+b') as stream:
      end = stream.seek(0, os.SEEK_END)
      if end:
        stream.seek(end - 1)
        if stream.read(1) != b'\n':
          stream.write(b'\n')  # ends the torn line of a writer that was killed
      stream.write(json.dumps(row).encode() + b'\n')
      stream.flush()
      os.fsync(stream.fileno())

  def read(self) -> dict[str, Usage]:
    """Trajectory id -> usage, the last one of each.

    A line that a killed writer left half written belongs to an episode that
    was never recorded: it is left out.
    """
    found = {}
    if not self.path.exists():
      return found
    for line in self.path.read_bytes().splitlines():
      try:
        row = json.loads(line)
      except ValueError:
        continue
      name = row.pop('trajectory_id')
      found[name] = Usage(**row)
    return found

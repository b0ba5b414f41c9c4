"""What is looked at while a script runs, besides its output and the clock."""

import dataclasses
import os
import pathlib
import re
import stat
import time
from collections.abc import Callable

from mlagent_jax.environment.records import Limits, StoppedBy
from mlagent_jax.environment.sandbox import folder

_PAGE = os.sysconf('SC_PAGE_SIZE')
_PROPORTIONAL = re.compile(rb'^Pss: +(\d+) kB', re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Stop:
  """Why a run must end.

  Attributes:
    by: the limit; NOTHING for one that has no word of its own.
    note: a line for the end of the output.
  """

  by: StoppedBy
  note: str = ''


class Watch:
  """A question that is asked from time to time.

  The next one waits at least 20 times as long as the last one took, so that
  watching costs at most 5 % of a core.
  """

  def __init__(self, ask: Callable[[], Stop | None], seconds: float):
    """Asks `ask` every `seconds`."""
    self._ask = ask
    self._seconds = seconds
    self.due = time.monotonic() + seconds

  def __call__(self) -> Stop | None:
    """Asks, and says why the run must end, if it must."""
    before = time.monotonic()
    stop = self._ask()
    after = time.monotonic()
    self.due = after + max(self._seconds, 20 * (after - before))
    return stop


def disk_watch(
  places: list[pathlib.Path],
  limits: Limits,
  members: Callable[[], list[int]],
) -> Watch:
  """Watches what a run has on disk, deleted files that it holds open too.

  Args:
    places: the folders it can write to.
    limits: `workspace_mb`.
    members: gives the process ids of the run.
  """
  limit = limits.workspace_mb << 20

  def ask() -> Stop | None:
    total = sum(folder.usage(place, limit) for place in places)
    if total <= limit:
      device = os.stat(places[0]).st_dev
      total += _deleted_bytes(members(), device)
    return Stop(StoppedBy.DISK) if total > limit else None

  return Watch(ask, 0.1)


def memory_watch(members: Callable[[], list[int]], limits: Limits) -> Watch:
  """Counts memory and processes where no control group can be had."""
  limit = limits.memory_mb << 20

  def ask() -> Stop | None:
    processes = members()
    if sum(map(_threads, processes)) > limits.processes:
      note = f'more than {limits.processes} processes and threads'
      return Stop(StoppedBy.NOTHING, note)
    # Shared pages count once for each process here: only if this is too
    # much, the dearer exact sum is taken.
    if sum(map(_resident, processes)) <= limit:
      return None
    if sum(map(_proportional, processes)) <= limit:
      return None
    return Stop(StoppedBy.MEMORY)

  return Watch(ask, 0.02)


def kernel_memory_watch(out_of_memory: Callable[[], bool]) -> Watch:
  """Ends the whole run when the kernel killed a part of it for its memory."""

  def ask() -> Stop | None:
    return Stop(StoppedBy.MEMORY) if out_of_memory() else None

  return Watch(ask, 0.05)


def start_time(process: int) -> int:
  """When a process started, in ticks since boot; 0 if there is none.

  With the id it names a process for good: ids are used again.
  """
  try:
    text = pathlib.Path(f'/proc/{process}/stat').read_text()
  except (FileNotFoundError, ProcessLookupError):
    return 0
  return int(text.rpartition(')')[2].split()[19])


def threads_of_user(user: int) -> int:
  """Threads of all processes that a user has on this machine."""
  total = 0
  for name in os.listdir('/proc'):
    if not name.isdigit():
      continue
    try:
      if os.stat(f'/proc/{name}').st_uid == user:
        total += _threads(int(name))
    except (FileNotFoundError, ProcessLookupError):
      continue
  return total


def _threads(process: int) -> int:
  try:
    with open(f'/proc/{process}/stat', 'rb') as file:
      return int(file.read().rpartition(b')')[2].split()[17])
  except (FileNotFoundError, ProcessLookupError):
    return 0


def _resident(process: int) -> int:
  try:
    with open(f'/proc/{process}/statm', 'rb') as file:
      return int(file.read().split()[1]) * _PAGE
  except (FileNotFoundError, ProcessLookupError):
    return 0


def _proportional(process: int) -> int:
  """Bytes of a process, each shared page divided by those who share it."""
  try:
    with open(f'/proc/{process}/smaps_rollup', 'rb') as file:
      match = _PROPORTIONAL.search(file.read())
      return int(match[1]) * 1024 if match else 0
  except (FileNotFoundError, ProcessLookupError):
    return 0
  except PermissionError:
    return _resident(process)  # it hides its details: count it in full


def _deleted_bytes(processes: list[int], device: int) -> int:
  """Disk space of files that have no name any more and are still open."""
  sizes = {}
  for process in processes:
    try:
      names = os.listdir(f'/proc/{process}/fd')
    except (FileNotFoundError, ProcessLookupError, PermissionError):
      continue
    for name in names:
      try:
        status = os.stat(f'/proc/{process}/fd/{name}')
      except (FileNotFoundError, ProcessLookupError, PermissionError):
        continue
      if (
        stat.S_ISREG(status.st_mode)
        and status.st_nlink == 0
        and status.st_dev == device
      ):
        sizes[status.st_ino] = status.st_blocks * 512
  return sum(sizes.values())

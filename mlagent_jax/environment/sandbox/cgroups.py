"""Control groups: limits on all processes of a run together, by the kernel.

Version 1 (a group in each controller's tree) and version 2 (one tree), for
root and for an ordinary user to whom a part of the tree was delegated. Where
none is writable, `watches.py` counts instead.
"""

import dataclasses
import functools
import itertools
import math
import os
import pathlib
import re
import signal
import time

from mlagent_jax.environment.records import Limits, SandboxUnavailable
from mlagent_jax.environment.sandbox.watches import start_time

_CONTROLLERS = ('memory', 'pids', 'cpu')
_PERIOD_MICROSECONDS = 100_000
_NAME = re.compile(r'mlagent_jax-(\d+)-(\d+)-\d+')
_WHERE_SWAP_IS_COUNTED = ('memory.memsw.limit_in_bytes', 'memory.swap.max')
_counter = itertools.count()


@dataclasses.dataclass(frozen=True)
class Place:
  """Where groups can be made: the parent folder for each controller.

  Attributes:
    version: 1 or 2.
    parents: by controller; 'cpu' may be missing.
  """

  version: int
  parents: dict[str, pathlib.Path]

  def folders(self, name: str) -> dict[str, pathlib.Path]:
    """The group's folder for each controller (version 2: the same one)."""
    return {key: parent / name for key, parent in self.parents.items()}


class Group:
  """The group of one run. Use with `with`: at the end nothing is in it."""

  def __init__(self, place: Place, limits: Limits, *, overhead: int = 0):
    """Makes the group.

    Args:
      place: from `find_place`.
      limits: memory, processes and CPU share of the group.
      overhead: processes of the sandbox itself in the group.

    Raises:
      SandboxUnavailable: if the tree is not writable any more.
    """
    owner = os.getpid()
    name = f'mlagent_jax-{owner}-{start_time(owner)}-{next(_counter)}'
    self._place = place
    self._folders = place.folders(name)
    try:
      for folder in set(self._folders.values()):
        folder.mkdir()
      for controller, file, value in _settings(place, limits, overhead):
        path = self._folders[controller] / file
        if file not in _WHERE_SWAP_IS_COUNTED or path.exists():
          _write(path, value)
    except OSError as error:
      self._remove()
      raise SandboxUnavailable(
        f'no control group for a run: {error}'
      ) from error

  def __enter__(self) -> 'Group':
    return self

  def __exit__(self, *exception) -> None:
    deadline = time.monotonic() + 5
    while not self._remove():
      # Killed processes take a moment to leave.
      _kill(self._folders['pids'])
      if time.monotonic() > deadline:
        raise SandboxUnavailable(
          f'processes in {self._folders["pids"]} do not die'
        )
      time.sleep(0.001)

  def add(self, process: int) -> None:
    """Moves a process into the group.

    Raises:
      SandboxUnavailable: if the kernel refuses.
    """
    try:
      for folder in set(self._folders.values()):
        _write(folder / 'cgroup.procs', process)
    except OSError as error:
      raise SandboxUnavailable(
        f'process {process} cannot join its control group: {error}'
      ) from error

  def out_of_memory(self) -> bool:
    """Whether the kernel killed a process of the group for its memory."""
    folder = self._folders['memory']
    name = 'memory.oom_control' if self._place.version == 1 else 'memory.events'
    counts = dict(
      line.split() for line in (folder / name).read_text().splitlines()
    )
    return int(counts.get('oom_kill', 0)) > 0

  def _remove(self) -> bool:
    for folder in set(self._folders.values()):
      try:
        folder.rmdir()
      except FileNotFoundError:
        continue
      except OSError:
        return False
    return True


@functools.cache
def find_place() -> Place | None:
  """Where this process can make groups with limits; None if nowhere.

  Groups that a killed host left there are removed.
  """
  for place in _candidates():
    if _works(place):
      _sweep(place)
      return place
  return None


def group_of(process: int, name: str) -> pathlib.Path | None:
  """The folder of a process's group; None if it cannot be seen from here.

  Args:
    process: an id that another program gave: it may count differently.
    name: a part of the group's path, to be sure that it is the right one.
  """
  try:
    lines = pathlib.Path(f'/proc/{process}/cgroup').read_text().splitlines()
  except (FileNotFoundError, ProcessLookupError):
    return None
  paths = {}
  for line in lines:
    _, controllers, path = line.split(':', 2)
    paths.update(dict.fromkeys(controllers.split(','), path))
  mounts = _mounts()
  for controller in ('pids', ''):
    path = paths.get(controller)
    if path is None or name not in path or controller not in mounts:
      continue
    top, root = mounts[controller]
    folder = pathlib.Path(os.path.normpath(top / os.path.relpath(path, root)))
    if (folder / 'cgroup.procs').is_file():
      return folder
  return None


def members(group: pathlib.Path) -> list[int]:
  """Ids of the processes in a group; none if it is gone."""
  try:
    return [int(word) for word in (group / 'cgroup.procs').read_text().split()]
  except FileNotFoundError:
    return []


def _settings(
  place: Place, limits: Limits, overhead: int
) -> list[tuple[str, str, object]]:
  """(controller, file, value) of each limit, in the order to write them."""
  size = limits.memory_mb << 20
  processes = limits.processes + overhead
  quota = max(1000, math.ceil(limits.cpus * _PERIOD_MICROSECONDS))
  if place.version == 1:
    settings = [
      ('memory', 'memory.limit_in_bytes', size),
      ('memory', 'memory.memsw.limit_in_bytes', size),
      ('pids', 'pids.max', processes),
      ('cpu', 'cpu.cfs_period_us', _PERIOD_MICROSECONDS),
      ('cpu', 'cpu.cfs_quota_us', quota),
    ]
  else:
    settings = [
      ('memory', 'memory.max', size),
      ('memory', 'memory.swap.max', 0),
      ('memory', 'memory.oom.group', 1),
      ('pids', 'pids.max', processes),
      ('cpu', 'cpu.max', f'{quota} {_PERIOD_MICROSECONDS}'),
    ]
  return [item for item in settings if item[0] in place.parents]


def _candidates() -> list[Place]:
  """Places to try, the nearest to this process first."""
  mounts = _mounts()
  found = []
  version_1: dict[str, pathlib.Path] = {}
  for line in pathlib.Path('/proc/self/cgroup').read_text().splitlines():
    _, controllers, path = line.split(':', 2)
    for controller in controllers.split(','):
      if controller not in ('', *_CONTROLLERS):
        continue
      if controller not in mounts:
        continue
      top, root = mounts[controller]
      inside = os.path.relpath(path, root) if path.startswith(root) else '.'
      own = pathlib.Path(os.path.normpath(top / inside))
      if controller:
        version_1[controller] = own
        continue
      for folder in (own, *own.parents):
        if not folder.is_relative_to(top):
          break
        enabled = _enabled(folder)
        if {'memory', 'pids'} <= enabled:
          parents = {key: folder for key in _CONTROLLERS if key in enabled}
          found.append(Place(2, parents))
  if {'memory', 'pids'} <= version_1.keys():
    found.append(Place(1, version_1))
  return found


def _mounts() -> dict[str, tuple[pathlib.Path, str]]:
  """(mount point, its root inside the tree) by controller; '' is version 2."""
  found = {}
  for line in pathlib.Path('/proc/self/mountinfo').read_text().splitlines():
    before, _, after = line.partition(' - ')
    root, point = before.split()[3:5]
    kind, _, options = after.split()[:3]
    if kind == 'cgroup2':
      found.setdefault('', (pathlib.Path(point), root))
    elif kind == 'cgroup':
      for option in options.split(','):
        if option in _CONTROLLERS:
          found.setdefault(option, (pathlib.Path(point), root))
  return found


def _enabled(folder: pathlib.Path) -> set[str]:
  """Controllers that children of a version 2 group have, once asked for."""
  control = folder / 'cgroup.subtree_control'
  try:
    enabled = set(control.read_text().split())
    available = set((folder / 'cgroup.controllers').read_text().split())
  except OSError:
    return set()
  for controller in _CONTROLLERS:
    if controller in available - enabled and os.access(control, os.W_OK):
      try:
        _write(control, f'+{controller}')
      except OSError:
        continue  # the group has processes of its own
      enabled.add(controller)
  return enabled


def _works(place: Place) -> bool:
  """Whether a group can be made there and a process moved into it."""
  if not all(os.access(parent, os.W_OK) for parent in place.parents.values()):
    return False
  child = os.posix_spawn('/bin/sh', ['sh', '-c', 'kill -STOP $$'], {})
  try:
    with Group(place, Limits()) as group:
      group.add(child)
      os.kill(child, signal.SIGKILL)
      os.waitpid(child, 0)
      child = 0
      return True
  except (SandboxUnavailable, OSError):
    return False
  finally:
    if child:
      os.kill(child, signal.SIGKILL)
      os.waitpid(child, 0)


def _sweep(place: Place) -> None:
  """Ends and removes the groups whose host died."""
  for parent in set(place.parents.values()):
    for folder in parent.iterdir():
      match = _NAME.fullmatch(folder.name)
      if match and start_time(int(match[1])) != int(match[2]):
        for _ in range(1000):
          _kill(folder)
          try:
            folder.rmdir()
          except FileNotFoundError:
            break
          except OSError:
            time.sleep(0.001)
          else:
            break


def _kill(folder: pathlib.Path) -> None:
  """Kills every process of a group; it may fork no more meanwhile."""
  try:
    if (folder / 'pids.max').exists():
      _write(folder / 'pids.max', 0)
    for process in (folder / 'cgroup.procs').read_text().split():
      os.kill(int(process), signal.SIGKILL)
  except (FileNotFoundError, ProcessLookupError):
    return


def _write(path: pathlib.Path, value: object) -> None:
  # One write call: the kernel takes each as a command.
  descriptor = os.open(path, os.O_WRONLY)
  try:
    os.write(descriptor, str(value).encode())
  finally:
    os.close(descriptor)

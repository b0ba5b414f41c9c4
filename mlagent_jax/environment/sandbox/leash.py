"""The limits on a run as a whole, by the means that this machine offers."""

import contextlib
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Self

from mlagent_jax.environment.records import Limits, StoppedBy
from mlagent_jax.environment.sandbox import cgroups, cores, watches


class Leash:
  """Memory, processes, CPU and disk of one run. Use with `with`.

  Attributes:
    watches: what has to be looked at while the run lasts; set by `hold`.
    grouped: whether the kernel counts processes and memory.
  """

  def __init__(
    self, place: cgroups.Place | None, limits: Limits, *, overhead: int = 0
  ):
    """Prepares the limits.

    Args:
      place: where control groups can be made; None if nowhere.
      limits: what the run may use.
      overhead: processes of the sandbox itself that will be counted.
    """
    self._limits = limits
    self._stack = contextlib.ExitStack()
    self._group = None
    self._share = place is None or 'cpu' not in place.parents
    if place is not None:
      self._group = cgroups.Group(place, limits, overhead=overhead)
      self._stack.enter_context(self._group)
    self.grouped = place is not None
    self.watches: list[watches.Watch] = []

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception) -> None:
    self._stack.close()

  def hold(
    self,
    process: int,
    folders: Sequence[pathlib.Path],
    members: Callable[[], list[int]],
  ) -> None:
    """Puts the limits on a process that waits to become the script.

    Args:
      process: its id; all that it starts is held too.
      folders: where the run can write, besides file systems of limited size.
      members: gives the ids of all processes of the run.

    Raises:
      SandboxUnavailable: if the process cannot be moved into its group.
    """
    self.add(process)
    if self._group is not None:
      memory = watches.kernel_memory_watch(self._group.out_of_memory)
    else:
      memory = watches.memory_watch(members, self._limits)
    self.watches = [watches.disk_watch(folders, self._limits, members), memory]
    if self._share:
      chosen = self._stack.enter_context(cores.borrow(self._limits.cpus))
      os.sched_setaffinity(process, chosen)

  def add(self, process: int) -> None:
    """Puts one more process under the limits that the kernel counts.

    Raises:
      SandboxUnavailable: if it cannot be moved into the run's group.
    """
    if self._group is not None:
      self._group.add(process)

  def verdict(self, stop: watches.Stop | None) -> watches.Stop | None:
    """Why the run ended, now that it has: the last look at every limit."""
    if stop is not None:
      return stop
    if self._group is not None and self._group.out_of_memory():
      return watches.Stop(StoppedBy.MEMORY)
    return self.watches[0]()

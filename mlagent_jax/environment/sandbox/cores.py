"""A share of the CPU where no control group can give one: chosen cores.

A script can undo this; it keeps honest ones out of each other's way.
"""

import collections
import contextlib
import math
import os
import random
import threading
from collections.abc import Iterator

_busy: collections.Counter[int] = collections.Counter()
_lock = threading.Lock()


@contextlib.contextmanager
def borrow(cpus: float) -> Iterator[set[int]]:
  """The cores that the fewest runs of this process use at the moment."""
  mine = list(os.sched_getaffinity(0))
  # Runs of other processes are not counted here: ties go by chance.
  random.shuffle(mine)
  with _lock:
    mine.sort(key=_busy.__getitem__)
    chosen = mine[: max(1, math.ceil(cpus))]
    _busy.update(chosen)
  try:
    yield set(chosen)
  finally:
    with _lock:
      _busy.subtract(chosen)

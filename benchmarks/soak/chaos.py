"""Kills workers, containers and the engine of a soak, at random moments."""

import collections
import random
import signal
import threading
import time
from collections.abc import Callable

from benchmarks.soak.own_engine import OwnEngine

_SHARES = {'worker': 10, 'container': 10, 'engine': 2}


class Chaos:
  """A thread that kills something now and then; use it with `with`.

  Args:
    engine: whose containers it kills, and itself.
    kill_worker: kills one of the workers; whether there was one.
    mean_seconds: between two faults; they are a Poisson process.
    share: of the workers that still work; faults come as much more seldom, or
      the last step would be hit by all of them.
    seed: of the moments and the choices.
    tell: is given each fault.

  Attributes:
    counts: faults so far by kind.
  """

  def __init__(
    self,
    engine: OwnEngine,
    kill_worker: Callable[[random.Random], bool],
    *,
    mean_seconds: float,
    share: Callable[[], float],
    seed: int,
    tell: Callable[[str], None],
  ):
    self.counts = collections.Counter()
    self._engine = engine
    self._kill_worker = kill_worker
    self._mean_seconds = mean_seconds
    self._share = share
    self._chance = random.Random(seed)
    self._tell = tell
    self._stop = threading.Event()
    self._thread = threading.Thread(target=self._run, name='chaos')
    self.error: BaseException | None = None

  def __enter__(self):
    self._thread.start()
    return self

  def __exit__(self, *exception) -> None:
    self._stop.set()
    self._thread.join()

  def _run(self) -> None:
    while not self._stop.wait(self._pause()):
      (kind,) = self._chance.choices(list(_SHARES), list(_SHARES.values()))
      try:
        done = {
          'worker': lambda: self._kill_worker(self._chance),
          'container': self._kill_container,
          'engine': self._kill_engine,
        }[kind]()
      except RuntimeError as error:  # the engine does not come back
        self.error = error
        return
      if done:
        self.counts[kind] += 1
        self._tell(kind)

  def _pause(self) -> float:
    share = max(0.1, self._share())
    return self._chance.expovariate(share / self._mean_seconds)

  def _kill_container(self) -> bool:
    found = self._engine.containers()
    if not found:
      return False
    chosen = self._chance.choice(found)
    return not self._engine.client('kill', chosen, check=False).returncode

  def _kill_engine(self) -> bool:
    self._engine.end(self._chance.choice([signal.SIGKILL, signal.SIGTERM]))
    time.sleep(self._chance.uniform(0, 2))
    self._engine.start()
    return True

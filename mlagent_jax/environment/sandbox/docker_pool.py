"""Warm containers, kept by shape and lent to one run at a time."""

import concurrent.futures
import itertools
import logging
import pathlib
import threading
import uuid

from mlagent_jax.environment.records import SandboxUnavailable
from mlagent_jax.environment.sandbox import docker_reaper
from mlagent_jax.environment.sandbox.docker_container import Container, Shape
from mlagent_jax.environment.sandbox.docker_engine import Engine

_log = logging.getLogger(__name__)


class Pool:
  """The containers of one sandbox; safe to use from several threads.

  Attributes:
    label: a label that is on all of them and on no others.
  """

  def __init__(
    self,
    engine: Engine,
    image: str,
    *,
    most_idle: int,
    most_runs: int,
    seconds: float,
  ):
    """Holds no container yet.

    Args:
      engine: where they run.
      image: id of their image.
      most_idle: idle ones to keep; of more, the longest idle are removed.
      most_runs: a container is replaced after so many runs.
      seconds: a container's time to live.
    """
    self.label = f'mlagent_jax.sandbox.{uuid.uuid4().hex}'
    self._engine = engine
    self._image = image
    self._most_idle = most_idle
    self._most_runs = most_runs
    self._seconds = seconds
    self._owner = docker_reaper.Owner.current()
    self._folder: pathlib.Path = docker_reaper.make_folder(self._owner)
    self._names = itertools.count()
    self._lock = threading.Lock()
    self._idle: list[Container] = []  # the longest idle first
    self._doomed: list[Container] = []  # could not be removed yet
    self._closed = False

  def take(self, shape: Shape, seconds: float, *, new: bool) -> Container:
    """A container for one run: a warm one, or a new one if `new`.

    Args:
      shape: what it must be made for.
      seconds: how long the run may take.
      new: not one that has hosted runs before.

    Raises:
      SandboxUnavailable: if the pool is closed or the engine fails.
    """
    self._remove_doomed()
    while not new:
      with self._lock:
        found = [one for one in self._idle if one.shape == shape]
        if not found:
          break
        container = found[-1]
        self._idle.remove(container)
      if container.fits(seconds):
        return container
      self.discard(container)
    with self._lock:
      if self._closed:
        raise SandboxUnavailable('the sandbox is closed')
      place = self._folder / str(next(self._names))
    life = max(self._seconds, 2 * seconds + 120)
    return Container(
      self._engine, self._image, shape, place, self._owner, self.label, life
    )

  def give_back(self, container: Container) -> None:
    """Takes a clean container back, for the next run of its shape."""
    container.runs += 1
    with self._lock:
      self._idle.append(container)
      spare = self._idle[: -self._most_idle] if self._most_idle else self._idle
      if self._closed:
        spare = [container]
      elif container.runs >= self._most_runs and container not in spare:
        spare = [*spare, container]
      self._idle = [one for one in self._idle if one not in spare]
    for one in spare:
      self.discard(one)

  def discard(self, container: Container) -> None:
    """Kills and removes a container that nobody uses any more.

    Raises:
      SandboxUnavailable: if the engine fails: it is tried again later.
    """
    try:
      container.remove()
    except SandboxUnavailable:
      with self._lock:
        self._doomed.append(container)
      raise

  def close(self) -> None:
    """Removes all idle containers; those in use go when they are back.

    What the engine refuses to remove now is left to `docker_reaper.reap`.
    """
    with self._lock:
      self._closed = True
      rest = self._idle + self._doomed
      self._idle, self._doomed = [], []

    def remove(container: Container) -> None:
      try:
        container.remove()
      except SandboxUnavailable as error:
        _log.warning('Container %s stays: %s', container.identity[:12], error)

    # The engine takes its time for each, and can remove several at once.
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
      list(threads.map(remove, rest))
    if not any(self._folder.iterdir()):
      self._folder.rmdir()

  def _remove_doomed(self) -> None:
    with self._lock:
      doomed, self._doomed = self._doomed, []
    while doomed:
      container = doomed.pop()
      try:
        container.remove()
      except SandboxUnavailable:
        with self._lock:
          self._doomed += [container, *doomed]
        raise

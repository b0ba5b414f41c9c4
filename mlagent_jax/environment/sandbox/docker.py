"""Sandbox `docker`: warm containers of a hardened image."""

import contextlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Self

from mlagent_jax.environment.records import (
  Completed,
  Limits,
  SandboxUnavailable,
)
from mlagent_jax.environment.sandbox import (
  docker_reaper,
  folder,
  interpreter,
  watches,
)
from mlagent_jax.environment.sandbox.docker_attempt import Attempt
from mlagent_jax.environment.sandbox.docker_container import Container, Shape
from mlagent_jax.environment.sandbox.docker_engine import (
  ContainerGone,
  Engine,
)
from mlagent_jax.environment.sandbox.docker_events import Events
from mlagent_jax.environment.sandbox.docker_pool import Pool
from mlagent_jax.environment.sandbox.output import Output
from mlagent_jax.environment.sandbox.supervision import completed, supervise

IMAGE = 'mlagent_jax/task:cpu'
_PATH = '/opt/venv/bin:/usr/local/bin:/usr/bin:/bin'
_COMMAND_BYTES = 128 * 1024
# Python that names what scripts meet in an image.
_VERSIONS = """
import importlib.metadata, json, platform, sys
print(json.dumps({
  'python': platform.python_version(),
  **{name: importlib.metadata.version(name) for name in sys.argv[1:]},
}))
"""


class DockerSandbox:
  """Runs scripts in containers of the task image (`launch/task_image`).

  A script sees the image, read-only; the workspace; the data, read-only; an
  empty /tmp, which is its home; no network and no other run. It has a user id
  of its own (started by root; else this process's), no capabilities, cannot
  gain any, and the engine's filter of system calls applies. The kernel
  counts its memory, processes and CPU.

  Containers stay warm between runs that have the same limits and data. After
  each run no process may be left, and before the next one /tmp, shared memory
  and System V objects must be empty; a container that is not clean, or in
  which a limit was hit, is replaced. Each carries its owner's name and a time
  to live; what a killed owner left is removed when the next sandbox starts
  (`docker_reaper.reap`).

  As in a shell, exit code 128 + n is read as death by signal n.

  Attributes: see `Sandbox`. If a run raises `SandboxUnavailable`, its
  workspace may be left empty: the engine may not let go of it.
  """

  kind = 'docker'

  def __init__(
    self,
    *,
    image: str = IMAGE,
    most_idle: int = 24,
    most_runs: int = 200,
    seconds: float = 3600.0,
  ):
    """Connects to the engine and removes what killed runs left behind.

    Args:
      image: name of the task image.
      most_idle: warm containers to keep while they host no run.
      most_runs: runs after which a container is replaced.
      seconds: time to live of a container.

    Raises:
      SandboxUnavailable: if there is no engine or no image.
    """
    self._engine = Engine()
    self._image = self._engine.image(image)['Id']
    docker_reaper.reap(self._engine)
    self.identity = _identity(self._engine, self._image)
    self._pool = Pool(
      self._engine,
      self._image,
      most_idle=most_idle,
      most_runs=most_runs,
      seconds=seconds,
    )
    self._events = Events(self._engine, self._pool.label)

  @staticmethod
  def readiness(*, image: str = IMAGE) -> str:
    """'' if it can run here, else what is missing and what to do."""
    if sys.platform != 'linux':
      return f'it needs Linux, this is {sys.platform}'
    try:
      with contextlib.closing(Engine()) as engine:
        _identity(engine, engine.image(image)['Id'])
    except SandboxUnavailable as error:
      return str(error)
    return ''

  def run(
    self,
    command: Sequence[str],
    workspace: pathlib.Path,
    limits: Limits,
    *,
    data: pathlib.Path | None = None,
  ) -> Completed:
    """Runs a command; see `Sandbox.run`."""
    if not command:
      raise ValueError('the command is empty')
    size = sum(len(os.fsencode(word)) + 1 for word in command)
    if size > _COMMAND_BYTES:
      raise ValueError(f'a command of {size} bytes is too long')
    workspace = pathlib.Path(os.path.abspath(workspace))
    data = None if data is None else pathlib.Path(data).resolve(strict=True)
    shape = Shape.of(limits, data)
    # A warm container may have died, or not be clean: a new one will do.
    for new in (False, True):
      container = self._pool.take(shape, limits.seconds, new=new)
      done = self._run_in(container, command, workspace, limits, data)
      if done is not None:
        return done
    raise SandboxUnavailable('a new container ended, or is not clean')

  def close(self) -> None:
    """Removes the containers; those in use go when their runs end."""
    self._pool.close()
    self._events.close()
    self._engine.close()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception) -> None:
    self.close()

  def _run_in(
    self,
    container: Container,
    command: Sequence[str],
    workspace: pathlib.Path,
    limits: Limits,
    data: pathlib.Path | None,
  ) -> Completed | None:
    """One run in a container; None if the container is not fit for it."""
    clean = False
    try:
      with folder.borrowed(workspace, container.user, data):
        container.move_in(workspace)
        try:
          done, clean = self._attempt(container, command, limits)
        finally:
          if not clean:
            # Before anything is taken back, all of the run must be dead.
            container.kill()
          container.move_out(workspace)
    finally:
      if clean:
        self._pool.give_back(container)
      else:
        self._pool.discard(container)
    return done

  def _attempt(
    self, container: Container, command: Sequence[str], limits: Limits
  ) -> tuple[Completed | None, bool]:
    """(what came of it, whether the container is clean)."""
    environment = {
      **interpreter.environment(limits, home='/tmp', scratch='/tmp'),
      'PATH': _PATH,
    }
    output = Output(limits.output_kb * 1024)
    try:
      attempt = Attempt(
        self._engine, self._events, container, command, environment
      )
      with attempt:
        if not attempt.ready():
          return None, False
        disk = watches.disk_watch([container.folder], limits, container.members)
        memory = watches.kernel_memory_watch(attempt.out_of_memory)
        started = time.monotonic()
        stop = supervise(
          output_pipe=attempt.output,
          output=output,
          end=attempt.end,
          ended=attempt.ended,
          kill=attempt.kill,
          watches=[disk, memory, watches.Watch(attempt.end_survivors, 0.1)],
          limits=limits,
        )
        seconds = time.monotonic() - started
        if stop is None:
          stop = attempt.late_stop() or disk()
        if stop is not None:
          return completed(stop, 0, output, seconds), False
        code = attempt.exit_code()
        clean = attempt.clean()
        return completed(None, _as_in_subprocess(code), output, seconds), clean
    except ContainerGone:
      return None, False


def _as_in_subprocess(code: int) -> int:
  return 128 - code if 128 < code <= 192 else code


_identities: dict[str, str] = {}


def _identity(engine: Engine, image: str) -> str:
  """One line: kind, versions and image. Starts the image the first time."""
  if image not in _identities:
    command = ['python', '-c', _VERSIONS, *interpreter.LIBRARIES]
    owner = docker_reaper.Owner.current()
    said = engine.once(image, command, owner.labels(60))
    try:
      versions = json.loads(said)
    except ValueError as error:
      raise SandboxUnavailable(
        f'the image {image} does not work: {said.strip()[-300:]}'
      ) from error
    words = [f'{name} {version}' for name, version in versions.items()]
    _identities[image] = f'docker: {", ".join(words)}, image {image}'
  return _identities[image]

"""The Docker engine: every call to the `docker` SDK, with errors in our words.

The SDK takes long to import and is needed only where this sandbox is used, so
it is imported when an engine is asked for.
"""

import contextlib
import dataclasses
import io
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlagent_jax.environment.records import SandboxUnavailable

_CHUNK = 1 << 16
_START = 'launch/docker_engine.sh starts one'
_BUILD = 'launch/task_image/build.sh builds it'


class ContainerGone(Exception):  # noqa: N818 - a finding, handled by the pool
  """The container does not run any more, or there is no such container."""


@dataclasses.dataclass
class Stream:
  """What a command prints, in the engine's frames.

  Attributes:
    reader: the frames.
    connection: the socket beneath.
    response: the SDK's object that owns both.
  """

  reader: io.BufferedReader
  connection: socket.socket
  response: Any

  def chunks(self) -> Iterator[bytes]:
    """What is printed, stdout and stderr together, as it comes."""
    while header := self.reader.read(8):
      left = int.from_bytes(header[4:], 'big')
      while left:
        chunk = self.reader.read1(min(left, _CHUNK))
        if not chunk:
          return
        left -= len(chunk)
        yield chunk

  def close(self) -> None:
    """Wakes whoever reads, and frees the connection."""
    with contextlib.suppress(OSError):
      self.connection.shutdown(socket.SHUT_RDWR)
    self.response.close()


class Engine:
  """A connection to the engine that DOCKER_HOST names (default: local)."""

  def __init__(self):
    """Connects.

    Raises:
      SandboxUnavailable: if no engine answers: says why, and what to do.
    """
    import docker

    self._types = docker.types
    self._errors = docker.errors
    # What reading from a stream raises when the engine goes away.
    self.stream_errors = (
      docker.errors.DockerException,
      *_transport_errors(),
      OSError,
      ValueError,
    )
    try:
      self.api = docker.from_env(timeout=60).api
      self.api.ping()
    except (docker.errors.DockerException, *_transport_errors()) as error:
      raise SandboxUnavailable(_no_engine(error)) from error

  def close(self) -> None:
    """Closes its connections."""
    self.api.close()

  def image(self, name: str) -> dict:
    """What the engine knows of an image; 'Id' is its digest.

    Raises:
      SandboxUnavailable: if there is no such image.
    """
    with self._calling('looking for the image'):
      try:
        return self.api.inspect_image(name)
      except self._errors.ImageNotFound:
        raise SandboxUnavailable(
          f'there is no image {name!r}: {_BUILD}'
        ) from None

  def start(
    self,
    *,
    image: str,
    command: Sequence[str],
    user: str,
    labels: Mapping[str, str],
    mounts: Sequence[tuple[str, str, bool]] = (),
    tmpfs: Mapping[str, str] | None = None,
    rlimits: Mapping[str, int] | None = None,
    gpus: int = 0,
    **host_options,
  ) -> str:
    """Creates and starts a hardened container; gives its id.

    Args:
      image: id of the image.
      command: of its first process, below the engine's init.
      user: 'uid:gid'.
      labels: for whoever finds it.
      mounts: (folder, path inside, read-only) of each.
      tmpfs: options by path.
      rlimits: hard and soft limit of each process by name.
      gpus: how many to pass through.
      **host_options: further arguments of the SDK's `create_host_config`.
    """
    requests = [self._types.DeviceRequest(count=gpus, capabilities=[['gpu']])]
    config = self.api.create_host_config(
      network_mode='none',
      ipc_mode='private',
      init=True,
      read_only=True,
      cap_drop=['ALL'],
      security_opt=['no-new-privileges'],
      log_config=self._types.LogConfig(type='none'),
      mounts=[
        self._types.Mount(target, source, type='bind', read_only=read_only)
        for source, target, read_only in mounts
      ],
      tmpfs=dict(tmpfs or {}),
      ulimits=[
        self._types.Ulimit(name=name, soft=value, hard=value)
        for name, value in (rlimits or {}).items()
      ],
      device_requests=requests if gpus else None,
      **host_options,
    )
    with self._calling('creating a container'):
      container = self.api.create_container(
        image,
        list(command),
        user=user,
        hostname='sandbox',
        labels=dict(labels),
        host_config=config,
      )['Id']
    try:
      with self._calling('starting a container'):
        self.api.start(container)
    except SandboxUnavailable:
      with contextlib.suppress(SandboxUnavailable):
        self.remove(container)
      raise
    return container

  def once(
    self, image: str, command: Sequence[str], labels: Mapping[str, str]
  ) -> str:
    """What a command prints in a container of its own, without any mount."""
    user = '65534:65534'
    container = self.start(
      image=image, command=['sleep', '60'], user=user, labels=labels
    )
    try:
      prepared = self.prepare(
        container, command, user=user, environment={}, folder='/'
      )
      stream = self.begin(prepared)
      try:
        return b''.join(stream.chunks()).decode(errors='replace')
      finally:
        stream.close()
    except (ContainerGone, *self.stream_errors) as error:
      raise SandboxUnavailable(
        f'the image {image} does not work: {error}'
      ) from error
    finally:
      self.remove(container)

  def prepare(
    self,
    container: str,
    command: Sequence[str],
    *,
    user: str,
    environment: Mapping[str, str],
    folder: str,
  ) -> str:
    """Prepares a command in a running container; gives its id.

    Raises:
      ContainerGone: if the container does not run.
    """
    with self._calling('preparing a run'):
      try:
        return self.api.exec_create(
          container,
          list(command),
          user=user,
          environment=dict(environment),
          workdir=folder,
        )['Id']
      except self._errors.APIError as error:
        if error.status_code in (404, 409):
          raise ContainerGone(str(error)) from error
        raise

  def begin(self, command: str) -> Stream:
    """Starts a prepared command.

    Raises:
      ContainerGone: if the container has ended meanwhile.
    """
    with self._calling('starting a run'):
      try:
        raw = self.api.exec_start(command, socket=True)
      except self._errors.APIError as error:
        if error.status_code in (404, 409):
          raise ContainerGone(str(error)) from error
        raise
      response = raw._response
      # Not the SDK's bare socket: the first frames may have been read
      # together with the answer's headers, and are in this buffer then.
      reader = response.raw._fp.fp
      connection = reader.raw._sock
      connection.settimeout(None)
      return Stream(reader, connection, response)

  def exit_code(self, command: str) -> int | None:
    """A command's exit code; None while it runs."""
    with self._calling('asking for a run'):
      state = self.api.exec_inspect(command)
    return None if state['Running'] else state['ExitCode']

  def first_process(self, container: str) -> int:
    """The host's id of a container's first process; 0 if it does not run."""
    with self._calling('asking for a container'):
      return self.api.inspect_container(container)['State']['Pid']

  def processes(self, container: str) -> int:
    """How many processes a container has; 0 if it does not run."""
    with self._calling('counting processes'):
      try:
        # One line each, and the heading apart.
        return len(self.api.top(container, '-eo pid')['Processes'] or ())
      except self._errors.APIError as error:
        if error.status_code in (404, 409):
          return 0
        # The engine fails if the last process ends while it looks.
        if error.status_code == 500 and not self.first_process(container):
          return 0
        raise

  def kill(self, container: str) -> None:
    """Kills all processes of a container; none is fine."""
    with self._calling('killing a container'):
      try:
        self.api.kill(container)
      except self._errors.APIError as error:
        if error.status_code not in (404, 409):
          raise

  def remove(self, container: str) -> None:
    """Kills and removes a container; none is fine."""
    with self._calling('removing a container'):
      try:
        self.api.remove_container(container, force=True, v=True)
      except self._errors.NotFound:
        return
      except self._errors.APIError as error:
        # Somebody else is removing it: wait until it is gone.
        if error.status_code != 409:
          raise
        with contextlib.suppress(self._errors.NotFound):
          self.api.wait(container, condition='removed')

  def containers(self, label: str) -> list[dict]:
    """All containers that carry a label, running or not."""
    with self._calling('listing containers'):
      return self.api.containers(all=True, filters={'label': label})

  def events(self, label: str, names: Sequence[str]) -> Any:
    """A stream of events of the containers with a label; `close` ends it."""
    with self._calling('listening for events'):
      return self.api.events(
        decode=True,
        filters={
          'type': ['container'],
          'label': [label],
          'event': list(names),
        },
      )

  @contextlib.contextmanager
  def _calling(self, doing: str) -> Iterator[None]:
    """Turns the SDK's errors into `SandboxUnavailable`."""
    try:
      yield
    except (self._errors.DockerException, *_transport_errors()) as error:
      raise SandboxUnavailable(
        f'the Docker engine failed at {doing}: {error}'
      ) from error


def _transport_errors() -> tuple[type[Exception], ...]:
  import requests
  import urllib3

  return (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    ConnectionError,
  )


def _no_engine(error: Exception) -> str:
  """Why there is no engine, and what to do about it."""
  host = os.environ.get('DOCKER_HOST', 'unix:///var/run/docker.sock')
  text = str(error)
  if 'PermissionError' in text or 'Permission denied' in text:
    return (
      f'no permission for the Docker engine at {host}: add this user to the'
      ' group docker (usermod -aG docker USER) and log in again'
    )
  if 'FileNotFoundError' in text or 'Connection refused' in text:
    return f'no Docker engine at {host}: {_START}'
  return f'the Docker engine at {host} does not answer ({text}): {_START}'

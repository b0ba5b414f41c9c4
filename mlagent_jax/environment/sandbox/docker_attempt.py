"""One command in a container: its start, its output, its end."""

import contextlib
import os
import select
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Self

from mlagent_jax.environment.records import SandboxUnavailable, StoppedBy
from mlagent_jax.environment.sandbox.docker_container import (
  IDLE_PROCESSES,
  READY,
  WORKSPACE,
  Container,
  launcher,
)
from mlagent_jax.environment.sandbox.docker_engine import Engine, Stream
from mlagent_jax.environment.sandbox.docker_events import Events
from mlagent_jax.environment.sandbox.watches import Stop

_START_SECONDS = 30.0
# How long the news that the kernel ran out of memory may come after the end.
_NEWS_SECONDS = 1.0
# How long processes that are about to end may take after the script's end.
_SETTLE_SECONDS = 0.3
_KILLED = 128 + 9
_ENDED = 'a container was ended by somebody else, and a run with it'


class Attempt:
  """A command under way. Use with `with`, after `Events.listen` is possible.

  Attributes:
    output: non-blocking reading end of what it prints.
    end: a descriptor that is readable when something has ended.
  """

  def __init__(
    self,
    engine: Engine,
    events: Events,
    container: Container,
    command: Sequence[str],
    environment: Mapping[str, str],
  ):
    """Prepares the command.

    Raises:
      ContainerGone: if the container does not run.
      SandboxUnavailable: if the engine does not answer.
    """
    self._engine = engine
    self._events = events
    self._container = container
    self._news = threading.Condition()
    self._out_of_memory = False
    self._died = False
    self._silent = False
    self._printed_all = False
    self._closed = False
    self._killed = False
    self._survivors = False
    self._ended_at: float | None = None
    self._exit_code: int | None = None
    self._command = engine.prepare(
      container.identity,
      launcher(command),
      user=container.account,
      environment=environment,
      folder=WORKSPACE,
    )
    self._stack = contextlib.ExitStack()

  def __enter__(self) -> Self:
    with contextlib.ExitStack() as stack:
      self.end = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
      stack.callback(self._close_end)
      identity = self._container.identity
      self._events.listen(identity, self)
      stack.callback(self._events.forget, identity)
      stream = self._engine.begin(self._command)
      self.output, writer = os.pipe()
      os.set_blocking(self.output, False)
      pump = threading.Thread(
        target=self._pump,
        args=(stream, writer),
        name='mlagent_jax docker output',
        daemon=True,
      )
      pump.start()
      stack.callback(pump.join)
      stack.callback(stream.close)
      stack.callback(os.close, self.output)
      self._stack = stack.pop_all()
    return self

  def __exit__(self, *exception) -> None:
    self._stack.close()

  def ready(self) -> bool:
    """Waits until the command starts; false if the container is not clean.

    Raises:
      SandboxUnavailable: if neither comes, or the engine fails.
    """
    deadline = time.monotonic() + _START_SECONDS
    said = b''
    while len(said) < len(READY):
      left = max(0.0, deadline - time.monotonic())
      if not select.select([self.output], [], [], left)[0]:
        raise SandboxUnavailable(
          f'a run did not start within {_START_SECONDS:.0f} s'
        )
      chunk = os.read(self.output, len(READY) - len(said))
      if not chunk:
        if self._silent:
          raise SandboxUnavailable('the Docker engine went away')
        return False
      said += chunk
    return said == READY

  def ended(self) -> bool:
    """Whether the command, or after `kill` the whole container, has ended.

    Raises:
      SandboxUnavailable: if the engine or the container went away.
    """
    with contextlib.suppress(BlockingIOError):
      os.eventfd_read(self.end)
    if self._silent:
      raise SandboxUnavailable('the Docker engine went away during a run')
    if self._killed or (self._died and self._exit_code is None):
      return self._died and self._printed_all
    if self._exit_code is None and self._printed_all:
      self._exit_code = self._engine.exit_code(self._command)
    return self._exit_code is not None and self._printed_all

  def end_survivors(self) -> None:
    """Kills what the command left behind if that holds its output open."""
    ended = self._ended_at
    if (
      ended is not None
      and not self._survivors
      and not self._printed_all
      and time.monotonic() > ended + _SETTLE_SECONDS
    ):
      self._survivors = True
      self._engine.kill(self._container.identity)

  def kill(self) -> None:
    """Kills every process in the container."""
    self._killed = True
    self._engine.kill(self._container.identity)

  def out_of_memory(self) -> bool:
    """Whether the kernel has killed a process of it for its memory."""
    return self._out_of_memory

  def exit_code(self) -> int:
    """The command's exit code; 128 + n if signal n ended it.

    Raises:
      SandboxUnavailable: if the container ended before the command.
    """
    if self._exit_code is None:
      raise SandboxUnavailable(_ENDED)
    return self._exit_code

  def late_stop(self) -> Stop | None:
    """What only shows after the end: that memory had run out."""
    if self._exit_code in (None, _KILLED):
      with self._news:
        self._news.wait_for(lambda: self._out_of_memory, _NEWS_SECONDS)
    return Stop(StoppedBy.MEMORY) if self._out_of_memory else None

  def clean(self) -> bool:
    """Whether the container may host another run: no process is left.

    Raises:
      SandboxUnavailable: if the container ended, and the command with it.
    """
    if self._survivors:
      return False
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
      count = self._container.processes()
      if count == IDLE_PROCESSES:
        return True
      if count < IDLE_PROCESSES:
        raise SandboxUnavailable(_ENDED)
      if time.monotonic() > deadline:
        return False
      time.sleep(0.005)

  def hear(self, name: str, attributes: Mapping[str, str]) -> None:
    """Takes an event of the container."""
    with self._news:
      if name == 'oom':
        self._out_of_memory = True
      elif name == 'die':
        self._died = True
      elif attributes.get('execID') == self._command:
        self._exit_code = int(attributes['exitCode'])
        self._ended_at = time.monotonic()
      self._wake()

  def lose(self) -> None:
    """Takes that the engine is silent."""
    with self._news:
      self._silent = True
      self._wake()

  def _wake(self) -> None:
    """Says that something happened; needs `_news`."""
    self._news.notify_all()
    # News may come late, when the number is a descriptor of somebody else.
    if not self._closed:
      os.eventfd_write(self.end, 1)

  def _close_end(self) -> None:
    with self._news:
      self._closed = True
      os.close(self.end)

  def _pump(self, stream: Stream, writer: int) -> None:
    """Copies what is printed into the pipe until there is no more."""
    os.set_blocking(writer, False)
    poll = select.poll()
    poll.register(writer, select.POLLOUT)
    try:
      with os.fdopen(writer, 'wb', buffering=0) as pipe:
        for chunk in stream.chunks():
          rest = memoryview(chunk)
          while rest:
            # While the supervisor waits for the engine to kill, it does not
            # read; and the engine waits until all that was printed is taken.
            killed = self._killed or self._survivors
            if poll.poll(0 if killed else 50):
              rest = rest[pipe.write(rest) or 0 :]
            elif killed:
              break
    except self._engine.stream_errors:
      pass  # nobody reads any more, or the engine went away: others tell
    with self._news:
      self._printed_all = True
      self._wake()

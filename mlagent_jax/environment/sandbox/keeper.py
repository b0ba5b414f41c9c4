"""The host's side of the helper that starts scripts (see `warden`)."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from mlagent_jax.environment.records import Limits, SandboxUnavailable
from mlagent_jax.environment.sandbox import interpreter, warden
from mlagent_jax.environment.sandbox.supervision import (
  DEATH_SECONDS,
  pipe,
  readable,
)

_PRELOAD = 'preload.py'
_START_SECONDS = 20.0
# The machine may be busy, and a disk cold.
_IMPORT_SECONDS = 300.0


class Helpers:
  """The helper process of every run; one where scripts import themselves.

  Else one for each number of threads: libraries read it when they are
  imported.
  """

  def __init__(self, preload: Sequence[str] = ()):
    """Imports nothing yet; see `of`.

    Args:
      preload: modules that scripts find imported (see `preload`).
    """
    self._preload = tuple(preload)
    self._lock = threading.Lock()
    self._helpers: dict[str, Helper] = {}
    self._closed = False

  def of(self, limits: Limits) -> 'Helper':
    """The helper of a run.

    Raises:
      SandboxUnavailable: if the helpers are closed.
    """
    threads = interpreter.threads(limits) if self._preload else ''
    with self._lock:
      if self._closed:
        raise SandboxUnavailable('the sandbox is closed')
      if threads not in self._helpers:
        self._helpers[threads] = Helper(self._preload, limits)
      return self._helpers[threads]

  def close(self) -> None:
    """Ends all; their keepers end with their runs."""
    with self._lock:
      self._closed = True
      for helper in self._helpers.values():
        helper.close()


class Helper:
  """One helper process (see `warden`); started again if it died.

  Args:
    preload: modules that it imports at its start.
    limits: the threads of such modules; needed with `preload`.
  """

  def __init__(self, preload: Sequence[str] = (), limits: Limits | None = None):
    self._preload = tuple(preload)
    self._limits = limits
    self._lock = threading.Lock()
    self._socket: socket.socket | None = None
    self._process: subprocess.Popen | None = None
    self._closed = False

  def send(self, request: dict, descriptors: list[int]) -> None:
    """Asks for a keeper.

    Raises:
      SandboxUnavailable: if the helper cannot be started.
    """
    message = json.dumps(request).encode()
    if len(message) > warden.MESSAGE_BYTES:
      raise ValueError(f'a command of {len(message)} bytes is too long')
    with self._lock:
      for last in (False, True):
        if self._closed:
          raise SandboxUnavailable('the sandbox is closed')
        try:
          if self._socket is None:
            self._start()
          socket.send_fds(self._socket, [message], descriptors)
          return
        except OSError as error:
          self._stop()
          if last:
            raise SandboxUnavailable(
              f'the helper that starts scripts is gone: {error}'
            ) from error

  def close(self) -> None:
    """Ends the helper; its keepers end with their runs."""
    self._closed = True
    process = self._process
    if process is not None:
      process.kill()  # who imports for a `send` has the lock
    with self._lock:
      self._stop()

  def _start(self) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    self._socket = ours
    flags, program, options = ['-I', '-S'], warden.__file__, {}
    if self._preload:
      flags, program = [], str(pathlib.Path(warden.__file__).parent / _PRELOAD)
      options = {
        'env': interpreter.environment(
          # No home: nothing that is imported shall write there.
          self._limits,
          home=os.devnull,
          scratch=os.devnull,
        ),
        'cwd': '/',
        'stdout': subprocess.DEVNULL,
        'stderr': subprocess.DEVNULL,
      }
    with theirs:
      socket_number = str(theirs.fileno())
      self._process = subprocess.Popen(
        [sys.executable, *flags, program, socket_number, *self._preload],
        stdin=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
        # A Ctrl-C is for the host, which ends its runs itself.
        start_new_session=True,
        **options,
      )
    if self._preload:
      self._wait_for_imports(ours)

  def _wait_for_imports(self, ours: socket.socket) -> None:
    names = ', '.join(self._preload)
    ours.settimeout(_IMPORT_SECONDS)
    try:
      said = ours.recv(1024)
    except TimeoutError:
      said = f'not imported within {_IMPORT_SECONDS:.0f} s'.encode()
    ours.settimeout(None)
    if said != b'ready':
      self._stop()
      raise SandboxUnavailable(
        f'the interpreter of scripts did not import {names}:'
        f' {said.decode(errors="replace") or "it was killed"}'
      )

  def _stop(self) -> None:
    if self._socket is not None:
      self._socket.close()
      self._socket = None
    if self._process is not None:
      # It would end by itself, unless a fork of the host holds the socket.
      self._process.kill()
      self._process.wait()
      self._process = None


class Status:
  """What a keeper says, line by line."""

  def __init__(self, pipe: int):
    self.pipe = pipe
    self.closed = False
    self.exit_code: int | None = None
    self.processes: tuple[int, int] | None = None  # keeper, script
    self.error = ''
    self.done = False
    self._rest = b''

  def read(self) -> bool:
    """Takes what is there; true once the keeper has ended."""
    try:
      chunk = os.read(self.pipe, 4096)
    except BlockingIOError:
      return False
    if not chunk:
      self.closed = True
      return True
    *lines, self._rest = (self._rest + chunk).split(b'\n')
    for line in lines:
      word, _, value = line.decode().partition(' ')
      if word == 'pid':
        keeper, script = value.split()
        self.processes = (int(keeper), int(script))
      elif word == 'exit':
        self.exit_code = int(value)
      elif word == 'error':
        self.error = value
      else:
        self.done = word == 'done'
    return False

  def wait_for_start(self) -> tuple[int, int]:
    """Process ids of keeper and script.

    Raises:
      SandboxUnavailable: if there is no script after a while.
    """
    deadline = time.monotonic() + _START_SECONDS
    while self.processes is None:
      left = deadline - time.monotonic()
      if not readable(self.pipe, left) or self.read():
        raise SandboxUnavailable(
          f'the helper that starts scripts did not: {self.error or "silence"}'
        )
    return self.processes

  def wait_for_end(self) -> None:
    """Returns when nothing of the run is left.

    Raises:
      SandboxUnavailable: if that does not happen.
    """
    deadline = time.monotonic() + DEATH_SECONDS
    while not self.closed:
      if not readable(self.pipe, deadline - time.monotonic()):
        raise SandboxUnavailable('processes of a run do not die')
      self.read()


def tell(control: int, word: bytes) -> None:
  """Says a word to a keeper; see `warden` for which there are."""
  try:
    os.write(control, word)
  except BrokenPipeError:
    pass  # the keeper has ended; its status says how


def start(
  stack: contextlib.ExitStack,
  helper: Helper,
  request: dict,
  locks: list[int],
) -> tuple[int, Status, int]:
  """Sends a request; gives the host's ends of output, status and control.

  Args:
    stack: closes what is opened here.
    helper: forks the keeper.
    request: see `warden`.
    locks: more descriptors, which the keeper holds as long as it lives; at
      most two.
  """
  with contextlib.ExitStack() as theirs:
    output, output_writer = pipe(stack, theirs)
    status, status_writer = pipe(stack, theirs)
    control_reader, control = pipe(theirs, stack)
    helper.send(request, [output_writer, status_writer, control_reader, *locks])
  os.set_blocking(output, False)
  os.set_blocking(status, False)
  # Also if the host stops in the middle: all must be dead before the
  # workspace is taken back.
  said = Status(status)
  stack.callback(said.wait_for_end)
  stack.callback(tell, control, b'k')
  return output, said, control

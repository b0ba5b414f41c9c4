"""One running `bwrap`: its start, the process inside, its end."""

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence

from mlagent_jax.environment.records import SandboxUnavailable
from mlagent_jax.environment.sandbox import warden
from mlagent_jax.environment.sandbox.supervision import (
  DEATH_SECONDS,
  pipe,
  readable,
)

_START_SECONDS = 20.0


class Wrapped:
  """A `bwrap` whose inner process waits to become the script.

  Attributes:
    first: process id of the first process inside; if it dies, all of its
      namespace does.
    inner: a descriptor of that process.
    output: non-blocking reading end of what is printed.
    end: a descriptor that is readable when a part of it has ended.
  """

  def __init__(
    self,
    outer: int,
    status: int,
    gate: int,
    output: int,
    stack: contextlib.ExitStack,
  ):
    """Waits until there is a first process.

    Args:
      outer: process id of `bwrap` outside.
      status: reading end of its --json-status-fd.
      gate: writing end of its --block-fd.
      output: reading end of the output.
      stack: closes what is opened here.

    Raises:
      SandboxUnavailable: if there is none.
    """
    self.output = output
    self._status = status
    self._gate = gate
    self._said = b''
    self._outer = os.pidfd_open(outer)
    stack.callback(os.close, self._outer)
    self.first = self._wait_for_first()
    try:
      self.inner = os.pidfd_open(self.first)
    except ProcessLookupError:
      raise self._failure() from None
    stack.callback(os.close, self.inner)
    # Also if the host stops in the middle: all must be dead before the
    # workspace is taken back.
    stack.callback(readable, self.inner, DEATH_SECONDS)
    stack.callback(self.kill)
    epoll = select.epoll()
    stack.callback(epoll.close)
    self._alive = {self._outer, self.inner}
    for handle in self._alive:
      epoll.register(handle, select.EPOLLIN)
    self._epoll = epoll
    self.end = epoll.fileno()

  def go(self) -> None:
    """Lets the first process become the script.

    Raises:
      SandboxUnavailable: if it could not be set up.
    """
    try:
      os.write(self._gate, b'g')
    except BrokenPipeError:
      raise self._failure() from None

  def wait_for_command(self, program: str) -> None:
    """Returns when the command runs and the first process is sealed.

    Sealed: it has taken the filter, the last that `bwrap` does there.

    Args:
      program: path of the command.

    Raises:
      SandboxUnavailable: if that does not happen.
    """
    deadline = time.monotonic() + _START_SECONDS
    name = os.path.basename(program)
    while not _is_sealed(self.first) or name not in _children(self.first):
      if readable(self.inner, 0.0005):
        raise self._failure()
      if time.monotonic() > deadline:
        raise SandboxUnavailable(f'bwrap does not run {program}')

  def kill(self) -> None:
    """Kills all that is inside."""
    with contextlib.suppress(ProcessLookupError):
      signal.pidfd_send_signal(self.inner, signal.SIGKILL)

  def ended(self) -> bool:
    """Whether `bwrap` and everything inside have ended."""
    for handle, _ in self._epoll.poll(0):
      self._epoll.unregister(handle)
      self._alive.discard(handle)
      if handle == self._outer:
        self.kill()  # the script has ended, and so must what it left
    return not self._alive

  def exit_code(self) -> int | None:
    """What `bwrap` reports of the script (128 + n for signal n).

    None if it never started it, or if everything inside was killed.
    """
    while chunk := os.read(self._status, 4096):
      self._said += chunk
    for line in self._said.splitlines():
      code = json.loads(line).get('exit-code')
      if code is not None:
        return code
    return None

  def _wait_for_first(self) -> int:
    deadline = time.monotonic() + _START_SECONDS
    while b'\n' not in self._said:
      if not readable(self._status, deadline - time.monotonic()):
        raise SandboxUnavailable('bwrap does not start')
      chunk = os.read(self._status, 4096)
      if not chunk:
        raise self._failure()
      self._said += chunk
    return json.loads(self._said.splitlines()[0])['child-pid']

  def _failure(self) -> SandboxUnavailable:
    """The error for a `bwrap` that gave up, in its own words."""
    readable(self._outer, _START_SECONDS)
    try:
      words = os.read(self.output, 4096).decode(errors='replace').strip()
    except BlockingIOError:
      words = 'it says nothing'
    return SandboxUnavailable(f'bwrap failed: {words}')


@contextlib.contextmanager
def start(
  arguments: Sequence[str],
  command: Sequence[str],
  environment: Mapping[str, str],
  filter_program: bytes,
  lock: int | None = None,
) -> Iterator[Wrapped]:
  """Starts `bwrap`; at the end all of it is dead.

  Args:
    arguments: `bwrap`'s path and its options.
    command: what to run inside.
    environment: of the command.
    filter_program: for its --seccomp; b'' for none.
    lock: a descriptor to hold while anything of it is alive, if any.

  Raises:
    SandboxUnavailable: if it does not start.
  """
  with contextlib.ExitStack() as stack:
    with contextlib.ExitStack() as theirs:
      output, output_writer = pipe(stack, theirs)
      status, status_writer = pipe(stack, theirs)
      gate_reader, gate = pipe(theirs, stack)
      options = {'--json-status-fd': status_writer, '--block-fd': gate_reader}
      if filter_program:
        options['--seccomp'] = _memory_file(filter_program)
        theirs.callback(os.close, options['--seccomp'])
      if lock is not None:
        options['--sync-fd'] = lock
      words = [str(word) for option in options.items() for word in option]
      # A host that ignores Ctrl-C (a background job of a shell script) would
      # hand that on to its scripts. It takes the env of GNU.
      ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
      reset = ['/usr/bin/env', '--default-signal=INT'] if ignored else []
      try:
        process = subprocess.Popen(
          [*reset, *arguments, *words, '--', *command],
          stdin=subprocess.DEVNULL,
          stdout=output_writer,
          stderr=subprocess.STDOUT,
          env=environment,
          pass_fds=list(options.values()),
        )
      except OSError as error:
        raise SandboxUnavailable(f'bwrap does not start: {error}') from error
    stack.callback(process.wait)
    stack.callback(process.kill)
    os.set_blocking(output, False)
    yield Wrapped(process.pid, status, gate, output, stack)


def _is_sealed(process: int) -> bool:
  """Whether a process has a filter of system calls."""
  try:
    with open(f'/proc/{process}/status') as file:
      return any(line.split() == ['Seccomp:', '2'] for line in file)
  except (FileNotFoundError, ProcessLookupError):
    return False  # it has ended, which its descriptor tells


def _children(process: int) -> list[str]:
  """Names of the programs that a process's descendants run."""
  names = []
  for child in warden.descendants(process):
    try:
      with open(f'/proc/{child}/comm') as file:
        names.append(file.read().strip())
    except (FileNotFoundError, ProcessLookupError):
      continue
  return names


def _memory_file(content: bytes) -> int:
  """A descriptor from which `content` can be read."""
  file = os.memfd_create('mlagent_jax')
  os.write(file, content)
  os.lseek(file, 0, os.SEEK_SET)
  return file

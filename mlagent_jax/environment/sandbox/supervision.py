"""The loop around one run: reads its output and holds it to its limits."""

import contextlib
import os
import pathlib
import resource
import select
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

from mlagent_jax.environment.records import (
  Completed,
  Limits,
  SandboxUnavailable,
  StoppedBy,
)
from mlagent_jax.environment.sandbox.output import Output
from mlagent_jax.environment.sandbox.watches import Stop, Watch

_OPEN_FILES = 1024
_CHUNK = 1 << 16
# A run that prints so much is stopped: endless output, or as good as that.
_ENDLESS_BYTES = 16 << 20
_ENDLESS_TIMES = 256
# How long killed processes may take to disappear.
DEATH_SECONDS = 20.0
# Of the run that finds out whether a sandbox works; the machine may be busy.
PROBE_LIMITS = Limits(seconds=120.0)


def probe_preload(sandbox) -> str:
  """Runs a script in a sandbox that preloads; '' if that works, else why not.

  Runs with as many CPUs as this one has then find everything imported.
  """
  with tempfile.TemporaryDirectory(prefix='mlagent_jax-probe-') as name:
    path = pathlib.Path(name)
    (path / 'probe.py').write_text('print("it runs")\n')
    try:
      done = sandbox.run(('python', 'probe.py'), path, PROBE_LIMITS)
    except SandboxUnavailable as error:
      return str(error)
  if (done.exit_code, done.output) != (0, 'it runs\n'):
    return f'exit code {done.exit_code}: {done.output.strip()[-300:]}'
  return ''


def supervise(
  *,
  output_pipe: int,
  output: Output,
  end: int,
  ended: Callable[[], bool],
  kill: Callable[[], None],
  watches: Sequence[Watch],
  limits: Limits,
) -> Stop | None:
  """Waits for a run to end, and ends it if a limit is passed.

  Nothing in here sleeps: it wakes for output, for the end, for the deadline
  and for a watch that is due.

  Args:
    output_pipe: non-blocking reading end of what the run prints.
    output: takes it.
    end: a descriptor that becomes readable when the run may have ended.
    ended: asked then; true if all of the run is gone.
    kill: ends the run; called once.
    watches: looked at when they are due.
    limits: time and output.

  Returns:
    What stopped the run; None if it ended by itself.

  Raises:
    SandboxUnavailable: if killed processes do not disappear.
  """
  poll = select.poll()
  poll.register(end, select.POLLIN)
  poll.register(output_pipe, select.POLLIN)
  deadline = time.monotonic() + limits.seconds
  most = max(_ENDLESS_BYTES, _ENDLESS_TIMES * limits.output_kb * 1024)
  stop = None
  while True:
    now = time.monotonic()
    wake = deadline if stop else min([deadline, *(w.due for w in watches)])
    events = dict(poll.poll(max(0.0, wake - now) * 1000))
    if output_pipe in events and not _read(output_pipe, output):
      poll.unregister(output_pipe)
    if end in events and ended():
      break
    now = time.monotonic()
    if stop:
      if now > deadline:
        raise SandboxUnavailable(
          f'processes of a run are alive {DEATH_SECONDS:.0f} s after they'
          ' were killed'
        )
      continue
    stop = _reason(now, deadline, output.total > most, watches)
    if stop:
      kill()
      deadline = time.monotonic() + DEATH_SECONDS
  # Nobody writes any more: what is left in the pipe is all there is.
  while _read(output_pipe, output):
    pass
  return stop


@contextlib.contextmanager
def failures() -> Iterator[None]:
  """Turns what the system refuses the host into `SandboxUnavailable`.

  No more descriptors or processes, a full disk: not the script's doing.
  """
  try:
    yield
  except OSError as error:
    raise SandboxUnavailable(f'the sandbox failed: {error}') from error


def pipe(
  readers: contextlib.ExitStack, writers: contextlib.ExitStack
) -> tuple[int, int]:
  """A pipe, (reading end, writing end), each closed with one of the stacks."""
  reader, writer = os.pipe()
  readers.callback(os.close, reader)
  writers.callback(os.close, writer)
  return reader, writer


def readable(descriptor: int, seconds: float) -> bool:
  """Waits until a descriptor has something to say; false if it has not."""
  poll = select.poll()
  poll.register(descriptor, select.POLLIN)
  return bool(poll.poll(max(0.0, seconds) * 1000))


def rlimits(limits: Limits, user: int | None) -> list[tuple[int, int]]:
  """Limits on each process of a run, as (number, value).

  Args:
    limits: of the run.
    user: an id that only this run has: its processes are counted by it.
  """
  values = [
    (resource.RLIMIT_FSIZE, limits.file_mb << 20),
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_NOFILE, _OPEN_FILES),
    (resource.RLIMIT_MSGQUEUE, 0),
  ]
  if user is not None:
    values.append((resource.RLIMIT_NPROC, limits.processes))
  return values


def completed(
  stop: Stop | None, exit_code: int, output: Output, seconds: float
) -> Completed:
  """The report of a run that is over."""
  text = output.text()
  if stop is None:
    return Completed(exit_code, text, seconds)
  if stop.note:
    text += f'\n[stopped: {stop.note}]\n'
  return Completed(-signal.SIGKILL, text, seconds, stop.by)


def _reason(
  now: float, deadline: float, endless: bool, watches: Sequence[Watch]
) -> Stop | None:
  if endless:
    return Stop(StoppedBy.OUTPUT)
  if now >= deadline:
    return Stop(StoppedBy.TIME)
  for watch in watches:
    if now >= watch.due:
      stop = watch()
      if stop:
        return stop
  return None


def _read(pipe: int, output: Output) -> bool:
  """Takes what is there, one chunk at most; false if nothing (more) is."""
  try:
    chunk = os.read(pipe, _CHUNK)
  except BlockingIOError:
    return False
  output.add(chunk)
  return bool(chunk)

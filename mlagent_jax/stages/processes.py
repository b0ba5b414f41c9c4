"""Several processes as one program: start-up, exchange, stopping, dying.

Every process runs the same stages on its own host and chips. Process 0 alone
owns the environment and the files that are shared: it collects, executes
actions, grades, and writes metrics, rollouts and results; what it did is
broadcast (`Processes.leader_does`). When one machine cannot execute all
actions, its pool of workers becomes a Ray cluster; the other processes stay
out of it. They sample on their own chips, read their own rows of every batch,
and write their own part of every checkpoint.

What is said between processes travels over JAX's coordination service and not
through the chips: a process that waits for an execution of half an hour waits
in a remote call with no program of its own on any chip. Only what is large is
broadcast through them, once everybody is there.
"""

import contextlib
import dataclasses
import logging
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed  # the coordination service has no public name
from jax.experimental import multihost_utils

# A process that has not been heard of for so long is dead, and all others end.
HEARTBEAT_SECONDS = 30
# How long an orderly end waits for the others.
_SHUTDOWN_SECONDS = 60
# Executions take as long as they take; a dead process ends the wait.
_PATIENCE_MS = 7 * 24 * 3600 * 1000
_ERROR_MS = 20_000
_LARGE_BYTES = 2**20
_CHUNK_BYTES = 2**26
_EPITAPH = (
  'process {index} of {count} has ended without a word of its own: it was'
  ' killed, or JAX ended it because another process was (its last lines, above,'
  ' say which). Start all processes again: the run resumes from its last'
  ' checkpoint'
)

_T = TypeVar('_T')
_log = logging.getLogger(__name__)


class StartError(RuntimeError):
  """The processes cannot find each other as they were started."""


class Stopped(Exception):  # noqa: N818 - not an error
  """SIGTERM came; what was done is saved, and the next start goes on."""


class LeaderError(RuntimeError):
  """Process 0 failed at what the others were waiting for; says how."""


@dataclasses.dataclass
class Processes:
  """One process among all; made by `start`.

  Every method is called by every process, in the same order.

  Attributes:
    index: of this process; process 0 is the leader.
    count: of processes.
    terminated: whether this process has been sent SIGTERM.
  """

  index: int = 0
  count: int = 1
  terminated: bool = False
  _calls: int = 0

  @property
  def is_leader(self) -> bool:
    """Whether this process owns the environment and the shared files."""
    return self.index == 0

  def leader_does(self, function: Callable[..., _T], *arguments) -> _T:
    """Calls `function` in process 0; returns its value in every process.

    Raises:
      Stopped: in every process, if the function raised it.
      LeaderError: in the others, if it raised anything else.
    """
    if self.count == 1:
      return function(*arguments)
    if not self.is_leader:
      return self._receive()
    try:
      value = function(*arguments)
    except Stopped as stopped:
      self._send(Stopped, str(stopped))
      raise
    except Exception as error:
      self._send(LeaderError, f'{type(error).__name__}: {error}')
      raise
    self._send(None, value)
    return value

  def gather(self, value: _T) -> list[_T] | None:
    """Every process's value, by index, in process 0; None in the others."""
    if self.count == 1:
      return [value]
    self._calls += 1
    client, name = _client(), f'mlagent/gather/{self._calls}'
    values = None
    if self.is_leader:
      others = [
        pickle.loads(
          client.blocking_key_value_get_bytes(f'{name}/{other}', _PATIENCE_MS)
        )
        for other in range(1, self.count)
      ]
      values = [value, *others]
      for other in range(1, self.count):
        client.key_value_delete(f'{name}/{other}')
    else:
      client.key_value_set_bytes(f'{name}/{self.index}', pickle.dumps(value))
    return values

  def stop_requested(self) -> bool:
    """Whether any process was sent SIGTERM; the same answer in each of them."""
    if self.count == 1:
      return self.terminated
    return self.leader_does(any, self.gather(self.terminated))

  def check_stopped(self) -> None:
    """Raises `Stopped` if this process was sent SIGTERM."""
    if self.terminated:
      raise Stopped('in the middle of executions, which are kept')

  def barrier(self) -> None:
    """Waits until every process is here."""
    if self.count > 1:
      self._calls += 1
      _client().wait_at_barrier(f'mlagent/{self._calls}', _PATIENCE_MS)

  def _send(self, error: type[Exception] | None, value: Any) -> None:
    """From process 0 to all others; returns when they have it."""
    self._calls += 1
    client, name = _client(), f'mlagent/broadcast/{self._calls}'
    content = pickle.dumps((error, value))
    large = len(content) > _LARGE_BYTES
    head = (len(content), None if large else content)
    client.key_value_set_bytes(name, pickle.dumps(head))
    if large:
      for start in range(0, len(content), _CHUNK_BYTES):
        chunk = np.frombuffer(content[start : start + _CHUNK_BYTES], np.uint8)
        multihost_utils.broadcast_one_to_all(chunk, is_source=True)
    # The others may have died of the same thing already.
    patience = _PATIENCE_MS if error is None else _ERROR_MS
    with contextlib.ExitStack() as stack:
      if error is not None:
        stack.enter_context(contextlib.suppress(jax.errors.JaxRuntimeError))
      client.wait_at_barrier(f'{name}/read', patience)
    client.key_value_delete(name)

  def _receive(self) -> Any:
    """What `_send` sends."""
    self._calls += 1
    client, name = _client(), f'mlagent/broadcast/{self._calls}'
    head = client.blocking_key_value_get_bytes(name, _PATIENCE_MS)
    size, content = pickle.loads(head)
    if content is None:
      chunks = []
      for start in range(0, size, _CHUNK_BYTES):
        room = np.zeros(min(_CHUNK_BYTES, size - start), np.uint8)
        chunk = multihost_utils.broadcast_one_to_all(room, is_source=False)
        chunks.append(np.asarray(chunk).tobytes())
      content = b''.join(chunks)
    error, value = pickle.loads(content)
    client.wait_at_barrier(f'{name}/read', _PATIENCE_MS)
    if error is Stopped:
      raise Stopped(value)
    if error is not None:
      raise LeaderError(f'process 0 stopped: {value}')
    return value


def start(
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> Processes:
  """Joins the other processes; call it before anything touches a device.

  Without arguments JAX looks for a TPU pod, SLURM, Open MPI or a Kubernetes
  job in the environment, and this is a single process if there is none. The
  variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID stand
  for arguments that are not given.

  Args:
    coordinator_address: host:port of process 0.
    num_processes: of all hosts.
    process_id: of this one, from 0.

  Raises:
    StartError: if only some of the three are known.
  """
  environ = os.environ
  address = coordinator_address or environ.get('JAX_COORDINATOR_ADDRESS')
  count = _number(num_processes, 'JAX_NUM_PROCESSES')
  index = _number(process_id, 'JAX_PROCESS_ID')
  known = {
    'coordinator_address': address,
    'num_processes': count,
    'process_id': index,
  }
  missing = [name for name, value in known.items() if value is None]
  if 0 < len(missing) < 3:
    raise StartError(
      f'of coordinator_address, num_processes and process_id, {missing} is'
      ' missing: give all three (as flags, or JAX_COORDINATOR_ADDRESS,'
      ' JAX_NUM_PROCESSES and JAX_PROCESS_ID), or none'
    )
  if not missing and not 0 <= index < count:
    raise StartError(f'process_id {index} is not one of {count} processes')
  # SIGTERM is ours: see `stopping_on_sigterm`.
  jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(
      address,
      count,
      index,
      # With all three given there is nothing to look for.
      cluster_detection_method=None if missing else 'deactivate',
      heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
      shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
    )
  except ValueError as error:
    if missing and str(error) == 'coordinator_address should be defined.':
      return Processes()  # on no cluster
    raise
  state = distributed.global_state
  return Processes(state.process_id, state.num_processes)


def _number(given: int | None, variable: str) -> int | None:
  if given is not None:
    return given
  text = os.environ.get(variable)
  return None if text is None else int(text)


def _client():
  return distributed.global_state.client


@contextlib.contextmanager
def stopping_on_sigterm(processes: Processes) -> Iterator[None]:
  """Within it, SIGTERM sets `processes.terminated` and nothing else."""

  def note(number, frame):
    del number, frame
    processes.terminated = True

  before = signal.signal(signal.SIGTERM, note)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def ending_together(processes: Processes) -> Iterator[None]:
  """Within it, no process outlives another, and the log says why it ended.

  JAX ends a process, from outside of Python, at most `HEARTBEAT_SECONDS`
  after another one died. Its message is followed by a stack trace that
  explains nothing: a small child of this process adds, when it sees this
  process gone, what to do now. A failure that Python sees ends this process
  at once and without JAX's farewell, which would wait for the dead.
  """
  if processes.count == 1:
    yield
    return
  text = _EPITAPH.format(index=processes.index, count=processes.count)
  with subprocess.Popen(
    ['sh', '-c', 'trap "" TERM INT HUP; read -r last || echo "$0" >&2', text],
    stdin=subprocess.PIPE,
  ) as witness:
    try:
      yield
    except BaseException as error:  # noqa: BLE001 - the process ends here
      _tell_why(processes, error)
      witness.communicate(b'told\n')
      sys.stdout.flush()
      sys.stderr.flush()
      os._exit(1)
    # Before JAX's farewell, which another's failure can still turn into an end.
    jax.distributed.shutdown()
    witness.communicate(b'told\n')


def _tell_why(processes: Processes, error: BaseException) -> None:
  here = f'process {processes.index} of {processes.count}'
  if isinstance(error, SystemExit):
    print(error.code, file=sys.stderr)
    print(f'{here} has ended; the others end too', file=sys.stderr)
    return
  sys.excepthook(type(error), error, error.__traceback__)
  if isinstance(error, jax.errors.JaxRuntimeError):
    print(
      f'{here} has ended: if the error is one of communication, another'
      ' process was killed or its host is gone. Start all processes again: the'
      ' run resumes from its last checkpoint',
      file=sys.stderr,
    )

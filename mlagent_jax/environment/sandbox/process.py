"""Sandbox `process`: limits on an ordinary process; the last resort."""

import contextlib
import fcntl
import logging
import os
import pathlib
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

from mlagent_jax.environment.records import (
  Completed,
  Limits,
  SandboxUnavailable,
)
from mlagent_jax.environment.sandbox import (
  accounts,
  cgroups,
  folder,
  interpreter,
  warden,
)
from mlagent_jax.environment.sandbox.keeper import Helper, Helpers, start, tell
from mlagent_jax.environment.sandbox.leash import Leash
from mlagent_jax.environment.sandbox.output import Output
from mlagent_jax.environment.sandbox.supervision import (
  PROBE_LIMITS,
  completed,
  failures,
  probe_preload,
  rlimits,
  supervise,
)
from mlagent_jax.environment.sandbox.watches import threads_of_user

_log = logging.getLogger(__name__)

# A home this young may not be locked yet.
_FRESH_SECONDS = 20.0
_HOME_PREFIX = 'mlagent_jax-home-'
# Room under RLIMIT_NPROC for what the user starts elsewhere meanwhile.
_SPARE_PROCESSES = 256

NOT_ISOLATED = """\
It does not isolate:
- network: a script can open connections;
- reading: a script reads what its user can read on this machine. Started by
  root, that is a user of its own, so the files that are open to everybody;
  started by anybody else it is that user, with home, keys, caches and the
  labels of the tasks;
- writing: the same holds for writing. Started by root: folders that are open
  to everybody, such as /tmp; by anybody else: all files of that user, the
  task's data included. What is written outside of the workspace is not
  counted and not removed;
- other processes: they can be seen; started by anybody but root, all
  processes of that user can be killed, this one included;
- memory and processes: where no control group is writable they are counted
  50 times a second, and a fast script passes its limits for that long."""


class ProcessSandbox:
  """Runs scripts as ordinary processes: for code that means well.

  It does hold a script to all its limits and ends whatever it leaves behind;
  started by root it gives every run a user id of its own.

  Attributes: see `Sandbox`.
  """

  # What is not contained has one text, for the reader, the log and the tests.
  __doc__ += '\n  ' + NOT_ISOLATED.replace('\n', '\n  ')

  kind = 'process'

  def __init__(self, *, preload: Sequence[str] = ()):
    """Prepares runs.

    Args:
      preload: modules that every script finds imported already, which saves
        their time (see `preload`).
    """
    self.identity = interpreter.identity(self.kind)
    self._place = cgroups.find_place()
    self._helpers = Helpers(preload)
    sweep_homes()
    _log.warning(
      "Sandbox 'process' is for code that means well. %s", NOT_ISOLATED
    )

  @staticmethod
  def readiness() -> str:
    """'' if it can run here, else what is missing."""
    if sys.platform != 'linux':
      return f'it needs Linux, this is {sys.platform}'
    if not pathlib.Path('/proc/thread-self/children').exists():
      return 'it needs /proc with the children of processes'
    missing = interpreter.missing()
    if missing:
      return missing
    with contextlib.closing(Helper()) as keeper:
      return _probe(keeper)

  def run(
    self,
    command: Sequence[str],
    workspace: pathlib.Path,
    limits: Limits,
    *,
    data: pathlib.Path | None = None,
  ) -> Completed:
    """Runs a command; see `Sandbox.run`."""
    helper = self._helpers.of(limits)
    return _run(helper, self._place, command, workspace, limits, data)

  def preload_problem(self) -> str:
    """Runs a script with modules preloaded; '' if that works, else why not."""
    return probe_preload(self)

  def close(self) -> None:
    """Ends the helpers; runs that are under way are not waited for."""
    self._helpers.close()

  def __enter__(self) -> 'ProcessSandbox':
    return self

  def __exit__(self, *exception) -> None:
    self.close()


def _run(
  helper: Helper,
  place: cgroups.Place | None,
  command: Sequence[str],
  workspace: pathlib.Path,
  limits: Limits,
  data: pathlib.Path | None,
) -> Completed:
  workspace = pathlib.Path(os.path.abspath(workspace))
  data = None if data is None else pathlib.Path(data).resolve()
  with contextlib.ExitStack() as stack:
    user, locks = None, []
    if os.geteuid() == 0:
      with failures():
        account = stack.enter_context(accounts.lend())
        user, locks = account.number, [account.lock]
    folder.check(workspace, user, data)
    stack.enter_context(failures())
    home = stack.enter_context(_home(user))
    stack.enter_context(folder.borrowed(workspace, user, data))
    leash = stack.enter_context(Leash(place, limits))
    if data is not None:
      os.symlink(data, workspace / folder.DATA)
    request = {
      'command': interpreter.command_line(command),
      'environment': interpreter.environment(
        limits, home=str(home), scratch=str(home)
      ),
      'cwd': str(workspace),
      'user': user,
      'rlimits': rlimits(limits, user),
      **_reachable(user, workspace, home, data),
    }
    if user is None and not leash.grouped:
      # The kernel counts all that the user has on this machine: this stops a
      # fork bomb, and the leash counts exactly.
      others = threads_of_user(os.getuid())
      most = others + limits.processes + _SPARE_PROCESSES
      request['rlimits'].append((resource.RLIMIT_NPROC, most))
    output = Output(limits.output_kb * 1024)
    output_pipe, status, control = start(stack, helper, request, locks)
    keeper, script = status.wait_for_start()

    def members() -> list[int]:
      return warden.descendants(keeper)

    leash.hold(script, [workspace, home], members)
    started = time.monotonic()
    tell(control, b'g')
    stop = supervise(
      output_pipe=output_pipe,
      output=output,
      end=status.pipe,
      ended=status.read,
      kill=lambda: tell(control, b'k'),
      watches=leash.watches,
      limits=limits,
    )
    seconds = time.monotonic() - started
    if status.error:
      raise SandboxUnavailable(f'the script was not started: {status.error}')
    if not status.done or status.exit_code is None:
      raise SandboxUnavailable('the keeper of a run was killed')
    stop = leash.verdict(stop)
    interpreter.check_after(status.exit_code)
    return completed(stop, status.exit_code, output, seconds)


@contextlib.contextmanager
def _home(user: int | None) -> Iterator[pathlib.Path]:
  """An empty folder for the home and the temporary files of one run.

  It is locked meanwhile, so that `sweep_homes` can tell it from what a
  killed host left.
  """
  path = pathlib.Path(tempfile.mkdtemp(prefix=_HOME_PREFIX))
  lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
  try:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if user is not None:
      os.fchown(lock, user, user)
    yield path
  finally:
    folder.remove(path.parent, path.name)
    os.close(lock)


def sweep_homes() -> list[str]:
  """Removes what killed hosts of this user left among temporary files.

  Returns:
    The paths of what was removed.
  """
  removed = []
  for path in pathlib.Path(tempfile.gettempdir()).glob(f'{_HOME_PREFIX}*'):
    try:
      lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
      continue  # gone by now, or of another user
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      if time.time() - os.fstat(lock).st_ctime > _FRESH_SECONDS:
        folder.remove(path.parent, path.name)
        removed.append(str(path))
    except BlockingIOError:
      continue
    finally:
      os.close(lock)
  return removed


def _reachable(
  user: int | None,
  workspace: pathlib.Path,
  home: pathlib.Path,
  data: pathlib.Path | None,
) -> dict:
  """What a run's own user needs to see below folders that are closed to it.

  Root's interpreter often lives in root's home, which is closed: there the
  run gets a view of its own with nothing but the folders that it needs.
  """
  if user is None:
    return {'covers': [], 'shown': []}
  paths = [(path, False) for path in interpreter.folders()]
  if data is not None:
    paths.append((data, False))
  paths += [(workspace, True), (home, True)]
  covers, shown = set(), []
  for path, writable in paths:
    for parent in reversed(path.parents):
      if not os.stat(parent).st_mode & 0o001:
        covers.add(str(parent))
        shown.append((str(path), writable))
        break
  return {'covers': sorted(covers), 'shown': shown}


def _probe(helper: Helper) -> str:
  """Runs the interpreter once; '' if that works."""
  path = pathlib.Path(tempfile.mkdtemp(prefix='mlagent_jax-probe-'))
  command = (interpreter.PYTHON, '-c', 'import encodings')
  try:
    done = _run(helper, None, command, path, PROBE_LIMITS, None)
  except SandboxUnavailable as error:
    return str(error)
  finally:
    shutil.rmtree(path)
  if done.exit_code != 0:
    return (
      f'{sys.executable} does not start as an unprivileged user (exit code'
      f' {done.exit_code}, {done.seconds:.0f} s): {done.output.strip()[-300:]}'
    )
  return ''

"""Sandbox `bubblewrap`: namespaces by `bwrap`, without a daemon."""

import contextlib
import functools
import os
import pathlib
import platform
import re
import resource
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Self

from mlagent_jax.environment.records import (
  Completed,
  Limits,
  SandboxUnavailable,
)
from mlagent_jax.environment.sandbox import (
  accounts,
  cgroups,
  folder,
  inside,
  interpreter,
  seccomp,
  wrapped,
)
from mlagent_jax.environment.sandbox.keeper import Helper, Helpers
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

# The workspace has the same name in every run, so that outputs are the same.
_WORKSPACE = '/workspace'
_HOME = '/scratch'
_PROBE = (interpreter.PYTHON, '-c', 'import encodings')

# Shown if they exist: libraries of the system and how the loader finds them.
_SYSTEM_FOLDERS = (
  '/lib',
  '/lib32',
  '/lib64',
  '/libx32',
  '/usr/lib',
  '/usr/lib32',
  '/usr/lib64',
  '/usr/libx32',
  '/usr/local/lib',
  '/usr/share/zoneinfo',
  '/etc/alternatives',
  '/etc/ld.so.cache',
)


class BubblewrapSandbox:
  """Runs scripts in namespaces of their own, made by `bwrap`.

  A script sees the interpreter, its packages, the system's libraries, the
  workspace and the data, all but the workspace read-only; an empty /tmp,
  which is its home; no network and no other processes. It has no
  capabilities, cannot gain any, and a filter refuses system calls that only
  an attack needs. Started by root, each run is a real user of its own;
  started by anybody else, the run is that user in a user namespace. Where no
  control group is writable, memory and processes are counted 50 times a
  second.

  `bwrap` reports a signal n as exit code 128 + n, and so does this sandbox
  read it: a script that exits with 137 counts as killed by signal 9.

  Attributes: see `Sandbox`.
  """

  kind = 'bubblewrap'

  def __init__(self, *, preload: Sequence[str] = ()):
    """Prepares runs.

    Args:
      preload: modules that every script finds imported already, which saves
        their time (see `preload`). Such a script enters the namespaces that
        `bwrap` has made and in which it runs `sleep`.
    """
    self.identity = interpreter.identity(self.kind)
    self._place = cgroups.find_place()
    self._helpers = Helpers(preload) if preload else None
    self._closed = False

  @staticmethod
  def readiness() -> str:
    """'' if it can run here, else what is missing."""
    if sys.platform != 'linux':
      return f'it needs Linux, this is {sys.platform}'
    if not shutil.which('bwrap'):
      return 'no bwrap on PATH: apt-get install bubblewrap'
    if os.geteuid() == 0 and not shutil.which('setpriv'):
      return 'no setpriv on PATH: apt-get install util-linux'
    missing = interpreter.missing()
    if missing:
      return missing
    return _probe()

  def run(
    self,
    command: Sequence[str],
    workspace: pathlib.Path,
    limits: Limits,
    *,
    data: pathlib.Path | None = None,
  ) -> Completed:
    """Runs a command; see `Sandbox.run`."""
    if self._closed:
      raise SandboxUnavailable('the sandbox is closed')
    helper = self._helpers.of(limits) if self._helpers else None
    return _run(self._place, command, workspace, limits, data, helper)

  def preload_problem(self) -> str:
    """Runs a script with modules preloaded; '' if that works, else why not."""
    bwrap = shutil.which('bwrap')
    if bwrap and os.stat(bwrap).st_mode & stat.S_ISUID and os.geteuid() != 0:
      return f'{bwrap} has a set-user-ID bit: its namespaces belong to root'
    if not seccomp.program():
      return f'no filter of system calls for {platform.machine()}'
    if not shutil.which('sleep'):
      return 'no sleep on PATH'
    return probe_preload(self)

  def close(self) -> None:
    """Runs nothing from now on; runs under way are not waited for."""
    self._closed = True
    if self._helpers:
      self._helpers.close()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception) -> None:
    self.close()


def _run(
  place: cgroups.Place | None,
  command: Sequence[str],
  workspace: pathlib.Path,
  limits: Limits,
  data: pathlib.Path | None,
  helper: Helper | None = None,
) -> Completed:
  workspace = pathlib.Path(os.path.abspath(workspace))
  data = None if data is None else pathlib.Path(data).resolve()
  program = interpreter.command_line(command)
  output = Output(limits.output_kb * 1024)
  with contextlib.ExitStack() as stack:
    user, lock = None, None
    if os.geteuid() == 0:
      with failures():
        account = stack.enter_context(accounts.lend())
        user, lock = account.number, account.lock
    folder.check(workspace, user, data)
    stack.enter_context(failures())
    stack.enter_context(folder.borrowed(workspace, user, data))
    # bwrap's first process stays in the sandbox, beside the script; and what
    # holds the sandbox for a script that enters.
    overhead = 1 if helper is None else 2
    leash = stack.enter_context(Leash(place, limits, overhead=overhead))
    environment = interpreter.environment(limits, home=_HOME, scratch='/tmp')
    run = stack.enter_context(
      wrapped.start(
        _arguments(user, workspace, limits, data, holds=helper is not None),
        inside.HOLDER if helper else [*_drop_rights(user), *program],
        environment,
        seccomp.program(),
        lock,
      )
    )
    values = rlimits(limits, user)
    if user is None and not leash.grouped and _counts_by_namespace():
      values.append((resource.RLIMIT_NPROC, limits.processes + overhead))
    if helper is None:
      script = inside.Started(run, values, user)
    else:
      request = {
        'command': program,
        'environment': {**environment, 'PWD': _WORKSPACE},  # as bwrap does
        'user': user,
        'rlimits': values,
        'cwd': _WORKSPACE,
        'covers': [],
        'shown': [],
        'filter': seccomp.program().hex(),
      }
      script = inside.Entered(stack, helper, run, request, leash)
    leash.hold(script.process, [workspace], script.members)
    started = time.monotonic()
    script.go()
    stop = supervise(
      output_pipe=script.output,
      output=output,
      end=script.end,
      ended=script.ended,
      kill=script.kill,
      watches=leash.watches,
      limits=limits,
    )
    seconds = time.monotonic() - started
    stop = leash.verdict(stop)
    exit_code = script.exit_code()
  if exit_code is None and stop is None:
    raise SandboxUnavailable(f'bwrap failed: {output.text().strip()[-500:]}')
  interpreter.check_after(exit_code)
  code = -signal.SIGKILL if exit_code is None else exit_code
  return completed(stop, code, output, seconds)


def _arguments(
  user: int | None,
  workspace: pathlib.Path,
  limits: Limits,
  data: pathlib.Path | None,
  *,
  holds: bool,
) -> list[str]:
  """The command line of `bwrap`, up to its descriptors.

  Args:
    user: id of the run's own user, if it has one.
    workspace: see `Sandbox.run`.
    limits: see there.
    data: see there.
    holds: it runs `inside.HOLDER`, and the script enters.
  """
  bwrap = shutil.which('bwrap')
  if bwrap is None:
    raise SandboxUnavailable('there is no bwrap on PATH any more')
  # Everything that can be written to has a size. /tmp comes first: the
  # interpreter may lie below it, and a later mount would hide it.
  arguments = [bwrap, *_tmpfs('/tmp', limits.workspace_mb << 20), *_visible()]
  arguments += ['--proc', '/proc', '--dev', '/dev']
  arguments += _tmpfs('/dev/shm', (limits.memory_mb << 20) // 4)
  arguments += _tmpfs(_HOME, limits.workspace_mb << 20)
  arguments += ['--bind', str(workspace), _WORKSPACE]
  if data is not None:
    arguments += ['--ro-bind', str(data), f'{_WORKSPACE}/{folder.DATA}']
  if holds:
    arguments += _program(_sleep(), inside.HOLDER[0])
  elif user is not None:
    arguments += _program(_setpriv(), _setpriv())
  # After the last mount point was made.
  arguments += ['--remount-ro', '/dev', '--remount-ro', '/']
  arguments += ['--die-with-parent', '--new-session', '--cap-drop', 'ALL']
  arguments += ['--unshare-pid', '--unshare-net', '--unshare-ipc']
  arguments += ['--unshare-uts', '--hostname', 'sandbox']
  arguments += ['--unshare-cgroup-try']
  if user is None:
    arguments += ['--unshare-user']
  if holds:
    return arguments
  arguments += ['--chdir', _WORKSPACE]
  if user is None:
    return arguments
  # For bwrap to enter the workspace and `setpriv` to become the run's user,
  # who has none of them.
  for capability in ('DAC_READ_SEARCH', 'SETUID', 'SETGID', 'SETPCAP'):
    arguments += ['--cap-add', f'CAP_{capability}']
  return arguments


def _program(path: str, name: str) -> list[str]:
  """Options that show a program of the host."""
  arguments = []
  for parent in reversed(pathlib.Path(name).parents[:-1]):
    arguments += ['--perms', '0755', '--dir', str(parent)]
  return [*arguments, '--ro-bind', path, name]


def _tmpfs(path: str, size: int) -> list[str]:
  return ['--perms', '1777', '--size', str(size), '--tmpfs', path]


def _drop_rights(user: int | None) -> list[str]:
  """The command that turns root inside into the run's user for good.

  bwrap itself could only map root to another name: to the kernel it would
  still be root, whom no limit on processes binds.
  """
  if user is None:
    return []
  none = [f'--{kind}=-all' for kind in ('bounding-set', 'inh-caps')]
  ids = [f'--reuid={user}', f'--regid={user}', '--clear-groups']
  return [_setpriv(), *ids, *none, '--no-new-privs', '--']


@functools.cache
def _visible() -> tuple[str, ...]:
  """Options that show the interpreter and the system's libraries."""
  mounts: list[tuple[str, str, str]] = []
  shown = interpreter.folders()
  for path in _SYSTEM_FOLDERS:
    if os.path.islink(path):
      mounts.append(('--symlink', os.readlink(path), path))
    elif os.path.exists(path) and not any(
      pathlib.Path(path).is_relative_to(other) for other in shown
    ):
      mounts.append(('--ro-bind', path, path))
  mounts += [('--ro-bind', str(path), str(path)) for path in shown]
  mounts += [
    ('--symlink', target, path) for path, target in interpreter.links()
  ]
  arguments: list[str] = []
  made = set()
  for mount in mounts:
    # Left to bwrap, these would be closed to everybody but root.
    for parent in reversed(pathlib.Path(mount[2]).parents[:-1]):
      if parent not in made:
        arguments += ['--perms', '0755', '--dir', str(parent)]
        made.add(parent)
    arguments += mount
  return tuple(arguments)


@functools.cache
def _sleep() -> str:
  return os.path.realpath(shutil.which('sleep') or '/usr/bin/sleep')


@functools.cache
def _setpriv() -> str:
  return os.path.realpath(shutil.which('setpriv') or '/usr/bin/setpriv')


def _counts_by_namespace() -> bool:
  """Whether RLIMIT_NPROC counts a user namespace apart (Linux 5.14)."""
  major, minor = map(int, re.findall(r'\d+', platform.release())[:2])
  return (major, minor) >= (5, 14)


def _probe() -> str:
  """Runs the interpreter once; '' if that works."""
  path = pathlib.Path(tempfile.mkdtemp(prefix='mlagent_jax-probe-'))
  try:
    done = _run(None, _PROBE, path, PROBE_LIMITS, None)
  except SandboxUnavailable as error:
    hint = ''
    if os.geteuid() != 0 and 'ermission' in str(error):
      hint = (
        ' (user namespaces may be closed to ordinary users here: see the'
        ' settings kernel.unprivileged_userns_clone and'
        ' kernel.apparmor_restrict_unprivileged_userns of sysctl)'
      )
    return f'{error}{hint}'
  finally:
    shutil.rmtree(path)
  if done.exit_code != 0:
    return (
      f'{sys.executable} does not start in bwrap (exit code {done.exit_code},'
      f' {done.seconds:.0f} s): {done.output.strip()[-300:]}'
    )
  return ''

"""The interpreter that scripts run with: what it needs, and its environment."""

import functools
import importlib.metadata
import importlib.util
import math
import os
import pathlib
import platform
import sys
from collections.abc import Sequence

from mlagent_jax.environment.records import Limits, SandboxUnavailable

LIBRARIES = ('numpy', 'pandas', 'scipy', 'scikit-learn')
_MODULES = ('numpy', 'pandas', 'scipy', 'sklearn')
# The program name that stands for the sandbox's interpreter.
PYTHON = 'python'

_THREAD_VARIABLES = (
  'OMP_NUM_THREADS',
  'OPENBLAS_NUM_THREADS',
  'MKL_NUM_THREADS',
  'NUMEXPR_NUM_THREADS',
  'LOKY_MAX_CPU_COUNT',
)


@functools.cache
def identity(kind: str) -> str:
  """One line: the sandbox's kind and the versions that scripts meet."""
  versions = [f'python {platform.python_version()}']
  for name in LIBRARIES:
    try:
      versions.append(f'{name} {importlib.metadata.version(name)}')
    except importlib.metadata.PackageNotFoundError:
      versions.append(f'{name} none')
  return f'{kind}: ' + ', '.join(versions)


@functools.cache
def folders() -> tuple[pathlib.Path, ...]:
  """The folders of the interpreter and its packages, none inside another.

  Both the name that the interpreter uses and what it resolves to: a virtual
  environment may lie behind a symbolic link, and so may its base.
  """
  names = {
    sys.prefix,
    sys.exec_prefix,
    sys.base_prefix,
    sys.base_exec_prefix,
  }
  names |= {os.path.realpath(name) for name in names}
  kept: list[pathlib.Path] = []
  for path in sorted(pathlib.Path(name) for name in names):
    if not any(path.is_relative_to(other) for other in kept):
      kept.append(path)
  return tuple(kept)


@functools.cache
def links() -> tuple[tuple[str, str], ...]:
  """(path, target) of the symbolic links to the interpreter that lie outside
  of `folders`: the way from the virtual environment's python to its file.
  """
  chain = [sys.executable]
  while os.path.islink(chain[-1]) and len(chain) < 16:
    target = os.readlink(chain[-1])
    chain.append(
      os.path.normpath(os.path.join(os.path.dirname(chain[-1]), target))
    )
  return tuple(
    (path, target)
    for path, target in zip(chain, chain[1:])
    if not any(pathlib.Path(path).is_relative_to(f) for f in folders())
  )


@functools.cache
def missing() -> str:
  """'' if the interpreter's folders may be shown to scripts, else why not."""
  home = pathlib.Path.home().resolve()
  for folder in folders():
    if home.is_relative_to(folder):
      return (
        f'the interpreter {sys.executable} lives in {folder}, which holds home'
        f' ({home}): run from a virtual environment of its own'
      )
  for module in _MODULES:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
      return f'{module} is not installed for {sys.executable}'
    origin = pathlib.Path(spec.origin)
    if not any(origin.is_relative_to(folder) for folder in folders()):
      return (
        f'{module} is installed in {origin.parent}, outside of {sys.prefix}:'
        ' install it in the environment of the interpreter'
      )
  return ''


def missing_modules(names: Sequence[str]) -> list[str]:
  """Those of some modules that scripts cannot import."""
  absent = []
  for name in names:
    try:
      found = importlib.util.find_spec(name)
    except ImportError:  # a module above it is missing
      found = None
    if found is None:
      absent.append(name)
  return absent


def command_line(command: tuple[str, ...]) -> tuple[str, ...]:
  """The command with the interpreter's path in place of 'python'."""
  if not command:
    raise ValueError('the command is empty')
  if command[0] == PYTHON:
    return (sys.executable, *command[1:])
  return tuple(command)


def check_after(exit_code: int | None) -> None:
  """Tells a program that could not be started from an interpreter that is gone.

  Raises:
    SandboxUnavailable: if it is the interpreter.
  """
  if exit_code == 127 and not os.access(sys.executable, os.X_OK):
    raise SandboxUnavailable(f'{sys.executable} cannot be run any more')


def threads(limits: Limits) -> str:
  """How many threads the libraries of a run use: its CPUs, rounded up."""
  return str(max(1, math.ceil(limits.cpus)))


def environment(limits: Limits, *, home: str, scratch: str) -> dict[str, str]:
  """All environment variables of a run: nothing of the host's comes through.

  Args:
    limits: gives the thread count of the libraries, see `threads`.
    home: the home folder inside the sandbox.
    scratch: the folder for temporary files inside the sandbox.
  """
  return {
    'PATH': f'{pathlib.Path(sys.executable).parent}:/usr/bin:/bin',
    'HOME': home,
    'TMPDIR': scratch,
    'USER': 'agent',
    'LOGNAME': 'agent',
    'LANG': 'C.UTF-8',
    'LC_ALL': 'C.UTF-8',
    'TZ': 'UTC',
    'PYTHONHASHSEED': '0',
    'PYTHONDONTWRITEBYTECODE': '1',
    'PYTHONNOUSERSITE': '1',
    # What was printed before a time-out must have left the process.
    'PYTHONUNBUFFERED': '1',
    'PYTHONUTF8': '1',
    'MPLBACKEND': 'Agg',
    'CUBLAS_WORKSPACE_CONFIG': ':4096:8',
    **{name: threads(limits) for name in _THREAD_VARIABLES},
  }

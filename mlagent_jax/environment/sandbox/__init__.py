"""Where scripts of agents run: one interface, several strengths.

`docker` (production), `bubblewrap` (rootless, no daemon) and `process` (last
resort) pass one conformance suite. A script's failure is a `Completed`; a
failure of the sandbox itself is `SandboxUnavailable`.
"""

import logging
import pathlib
from collections.abc import Sequence
from typing import Protocol, Self

from mlagent_jax.environment.records import (
  Completed,
  Limits,
  SandboxUnavailable,
)
from mlagent_jax.environment.sandbox.bubblewrap import BubblewrapSandbox
from mlagent_jax.environment.sandbox.docker import DockerSandbox
from mlagent_jax.environment.sandbox.process import ProcessSandbox

_log = logging.getLogger(__name__)

# The strongest first: the order in which 'auto' asks.
_KINDS = {
  'docker': DockerSandbox,
  'bubblewrap': BubblewrapSandbox,
  'process': ProcessSandbox,
}
KINDS = ('auto', *_KINDS)


class Sandbox(Protocol):
  """What every sandbox is.

  Attributes:
    kind: 'docker', 'bubblewrap' or 'process'.
    identity: kind, interpreter or image, and the versions of numpy, pandas,
      scipy and scikit-learn, in one line. Two runs of one script under one
      identity may be taken for the same run.
  """

  kind: str
  identity: str

  def run(
    self,
    command: Sequence[str],
    workspace: pathlib.Path,
    limits: Limits,
    *,
    data: pathlib.Path | None = None,
  ) -> Completed:
    """Runs a command in a folder and returns when nothing of it is left.

    Several threads may call it at once, each with its own workspace.

    Args:
      command: program and arguments; the program 'python' is the sandbox's
        interpreter. It starts in the workspace, with a minimal environment,
        no input, and all its processes end when it ends.
      workspace: a folder that nobody else uses during the run. The command
        may do anything in it; afterwards the caller owns every file in it,
        can read them all, and finds regular files, folders and symbolic links
        only. Hard links in it are broken into copies before the run.
      limits: what the run may use; see `Limits`.
      data: a folder to show read-only as ./data in the workspace. The name is
        reserved: whatever is called so is removed before and after the run.

    Raises:
      SandboxUnavailable: if the sandbox failed, whatever the command did.
      NotADirectoryError: if `workspace` or `data` is not a folder.
    """

  def close(self) -> None:
    """Frees what the sandbox holds; a closed sandbox runs nothing."""

  def __enter__(self) -> Self: ...

  def __exit__(self, *exception) -> None: ...


def readiness(kind: str, **options) -> str:
  """'' if a sandbox of this kind can run here, else what is missing.

  Args:
    kind: a name that `make_sandbox` takes, except 'auto'.
    **options: `image`, if the kind is 'docker'.

  Raises:
    ValueError: if there is no such kind.
  """
  return _class_of(kind).readiness(**options)


def make_sandbox(
  kind: str = 'auto', *, preload: Sequence[str] = (), **options
) -> Sandbox:
  """The sandbox of a kind, or the strongest that works here.

  Args:
    kind: 'docker', 'bubblewrap', 'process', or 'auto'.
    preload: modules that scripts find imported already, which saves their
      time. Where that does not work, as in 'docker', the log says so and
      scripts import them.
    **options: arguments of that kind's class; 'auto' takes none.

  Raises:
    SandboxUnavailable: if the kind that was asked for is not ready (or none
      is, for 'auto'): says why, and what to do.
    ValueError: if there is no such kind.
  """
  if kind != 'auto':
    image = {'image': options['image']} if 'image' in options else {}
    missing = readiness(kind, **image)
    if missing:
      raise SandboxUnavailable(f'sandbox {kind!r} is not ready: {missing}')
    return _make(kind, preload, options)
  if options:
    raise ValueError(f"sandbox 'auto' takes no options, got {sorted(options)}")
  reasons = []
  for name, sandbox in _KINDS.items():
    missing = sandbox.readiness()
    if not missing:
      return _make(name, preload, {})
    reasons.append(f'{name}: {missing}')
  raise SandboxUnavailable('no sandbox is ready. ' + '; '.join(reasons))


def _make(kind: str, preload: Sequence[str], options: dict) -> Sandbox:
  if not preload:
    return _class_of(kind)(**options)
  why = 'containers do not share a process'
  if kind != 'docker':
    made = _class_of(kind)(preload=preload, **options)
    why = made.preload_problem()
    if not why:
      return made
    made.close()
  _log.warning(
    'Sandbox %r imports nothing ahead (%s): every script imports %s itself.',
    kind,
    why,
    ', '.join(preload),
  )
  return _class_of(kind)(**options)


def _class_of(kind: str):
  if kind not in _KINDS:
    raise ValueError(
      f"there is no sandbox {kind!r}: choose 'auto' or one of {list(_KINDS)}"
    )
  return _KINDS[kind]

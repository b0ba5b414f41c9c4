"""Folders that live as long as one run, and those that killed runs left.

A folder is locked while it is in use. The kernel drops the lock when its
process ends, however that happens: a folder that is not locked has no owner.
"""

import contextlib
import fcntl
import logging
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator

from mlagent_jax.environment.sandbox import folder

KINDS = ('run', 'grading', 'store', 'import')
_PREFIX = 'mlagent_jax-'
# Between its making and its locking a folder looks like one that was left.
_FRESH_SECONDS = 20.0
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def make_folder(
  kind: str, parent: pathlib.Path | None = None
) -> Iterator[pathlib.Path]:
  """An empty folder, removed at the end with all that is in it.

  Args:
    kind: one of `KINDS`; part of its name.
    parent: a folder on a disk of this machine; the system's temporary folder
      if None.
  """
  path = pathlib.Path(tempfile.mkdtemp(prefix=f'{_PREFIX}{kind}-', dir=parent))
  lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
  try:
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield path
  finally:
    _remove(path)
    os.close(lock)


def reap(parent: pathlib.Path | None = None) -> list[str]:
  """Removes the folders of `make_folder` whose process is gone.

  Folders of other users are left alone, unless root asks.

  Args:
    parent: as in `make_folder`.

  Returns:
    The paths of what was removed.
  """
  top = pathlib.Path(parent or tempfile.gettempdir())
  removed = []
  for kind in KINDS:
    for path in sorted(top.glob(f'{_PREFIX}{kind}-*')):
      try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
      except OSError:
        continue  # gone by now, of another user, or no folder
      try:
        if _is_left(lock):
          with contextlib.suppress(FileNotFoundError):  # another was quicker
            _remove(path)
            removed.append(str(path))
      finally:
        os.close(lock)
  if removed:
    _log.info('Removed what killed runs left: %s', ', '.join(removed))
  return removed


def _is_left(descriptor: int) -> bool:
  status = os.fstat(descriptor)
  if os.geteuid() not in (0, status.st_uid):
    return False
  if time.time() - status.st_ctime < _FRESH_SECONDS:
    return False
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  return True


def _remove(path: pathlib.Path) -> None:
  # One by one: what is moved up on the way stays inside, where it is found
  # again if this process is killed too.
  os.chmod(path, 0o700)
  for name in os.listdir(path):
    folder.remove(path, name)
  path.rmdir()

"""Whose a container is, and the removal of what a killed run left behind."""

import contextlib
import dataclasses
import logging
import os
import pathlib
import re
import tempfile
import time

from mlagent_jax.environment.sandbox import folder
from mlagent_jax.environment.sandbox.docker_engine import Engine
from mlagent_jax.environment.sandbox.watches import start_time

_log = logging.getLogger(__name__)

# On every container of ours.
OWNER_LABEL = 'mlagent_jax.owner'
EXPIRES_LABEL = 'mlagent_jax.expires'  # seconds since 1970
_PREFIX = 'mlagent_jax-docker-'
_FOLDER = re.compile(_PREFIX + r'(.+)-[^-]+')
_OLD_SECONDS = 24 * 3600.0


@dataclasses.dataclass(frozen=True)
class Owner:
  """A process, named so that no other one ever has the same name.

  Attributes:
    boot: of the machine since which it counts.
    space: its namespace of process ids.
    process: its id there.
    started: when, in ticks since boot.
  """

  boot: str
  space: int
  process: int
  started: int

  @classmethod
  def current(cls) -> 'Owner':
    """The process that asks."""
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text()
    return cls(
      boot.strip().replace('-', '')[:16],
      os.stat('/proc/self/ns/pid').st_ino,
      os.getpid(),
      start_time(os.getpid()),
    )

  @classmethod
  def parse(cls, text: str) -> 'Owner | None':
    """The owner that `str` wrote, if it did."""
    words = text.split('-')
    if len(words) != 4 or not all(word.isdigit() for word in words[1:]):
      return None
    return cls(words[0], *map(int, words[1:]))

  def labels(self, seconds: float) -> dict[str, str]:
    """What to put on a container of this owner that lives so long."""
    expires = int(time.time() + seconds)  # never after it ended by itself
    return {OWNER_LABEL: str(self), EXPIRES_LABEL: str(expires)}

  def __str__(self) -> str:
    return f'{self.boot}-{self.space}-{self.process}-{self.started}'

  def alive(self) -> bool | None:
    """Whether it runs; None if that cannot be seen from here."""
    here = Owner.current()
    if (self.boot, self.space) != (here.boot, here.space):
      return None
    return start_time(self.process) == self.started


def make_folder(owner: Owner) -> pathlib.Path:
  """A folder for an owner's workspaces, closed to other users."""
  return pathlib.Path(tempfile.mkdtemp(prefix=f'{_PREFIX}{owner}-'))


def remove_folder(path: pathlib.Path) -> None:
  """Removes a folder of `make_folder`, whatever scripts left in it."""
  # Somebody else may be removing it as well.
  with contextlib.suppress(FileNotFoundError):
    for name in os.listdir(path):
      folder.remove(path, name)
    path.rmdir()


def reap(engine: Engine | None = None) -> list[str]:
  """Removes the containers and folders whose owner is dead.

  Of an owner on another machine or in another namespace of process ids it
  cannot be seen whether it lives: its containers go when their time to live
  is over, its folders after a day.

  Args:
    engine: the engine to look at; None connects to it.

  Returns:
    The names of what was removed.

  Raises:
    SandboxUnavailable: if there is no engine.
  """
  if engine is None:
    engine = Engine()
    try:
      return reap(engine)
    finally:
      engine.close()
  removed = []
  for container in engine.containers(OWNER_LABEL):
    labels = container['Labels']
    owner = Owner.parse(labels[OWNER_LABEL])
    alive = None if owner is None else owner.alive()
    expired = float(labels.get(EXPIRES_LABEL, 0)) < time.time()
    if alive is False or (alive is None and expired):
      engine.remove(container['Id'])
      removed.append(container['Names'][0].lstrip('/'))
  removed += _reap_folders()
  if removed:
    _log.info('Removed what killed runs left: %s', ', '.join(removed))
  return removed


def _reap_folders() -> list[str]:
  removed = []
  top = pathlib.Path(tempfile.gettempdir())
  for path in sorted(top.glob(f'{_PREFIX}*')):
    match = _FOLDER.fullmatch(path.name)
    owner = Owner.parse(match[1]) if match else None
    try:
      status = path.lstat()
    except FileNotFoundError:
      continue
    if owner is None or status.st_uid != os.getuid():
      continue
    alive = owner.alive()
    old = time.time() - status.st_mtime > _OLD_SECONDS
    if alive is False or (alive is None and old):
      remove_folder(path)
      removed.append(path.name)
  return removed

"""User ids that nobody has, one for each run: only root can lend them.

A run with an id of its own has its own count for RLIMIT_NPROC, cannot touch
the processes and files of another run, and can be killed as a whole.
"""

import contextlib
import dataclasses
import pathlib
import socket
from collections.abc import Iterator

from mlagent_jax.environment.records import SandboxUnavailable

# The first is in a range that no system assigns (systemd's UIDS-GIDS.md); the
# second is for containers whose user namespace ends at 65,536.
_FIRST = (2_000_000_000, 61_184)
_COUNT = 2048


@dataclasses.dataclass(frozen=True)
class Account:
  """A user and group id that no other run on this machine has.

  Attributes:
    number: the id.
    lock: a descriptor. The account is taken until all copies of it are
      closed: whoever may still end what the run left must hold one, for it
      would end the next run of that id too.
  """

  number: int
  lock: int


@contextlib.contextmanager
def lend() -> Iterator[Account]:
  """An account that no other run on this machine has meanwhile.

  The lock is a name of an abstract socket: it needs no file and is free again
  when its holders die.

  Raises:
    SandboxUnavailable: if all are taken.
  """
  first = _first()
  for account in range(first, first + _COUNT):
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
      lock.bind(f'\0mlagent_jax/account/{account}')
    except OSError:
      lock.close()
      continue
    with lock:
      yield Account(account, lock.fileno())
      return
  raise SandboxUnavailable(
    f'all {_COUNT} user ids from {first} on are taken by other runs'
  )


def _first() -> int:
  """The first id of the range that exists in this user namespace."""
  for line in pathlib.Path('/proc/self/uid_map').read_text().splitlines():
    inside, _, length = map(int, line.split())
    for first in _FIRST:
      if inside <= first and first + _COUNT <= inside + length:
        return first
  raise SandboxUnavailable(
    'this user namespace has no spare user ids: /proc/self/uid_map maps'
    f' neither of {_FIRST}'
  )

"""What earlier executions gave, on disk: nothing is run twice.

A folder that any number of workers, processes and runs share, and in which
any of them may be killed at any moment:

  records/KEY   a checksum, then JSON: what an execution gave, and the blobs
                that it left. Written whole or not at all.
  blobs/        those blobs, so that a record is complete in every run's store
                (hard links where both lie on one disk: they cost nothing).
  locks/KEY     held by whoever finds out what belongs to a key.
  lock          shared by all who read or write, exclusive for who makes room.
  usage         bytes in records/ and blobs/; never too few.

If a new record does not fit, the records that were not used for longest go,
with the blobs that no other record has. What was recalled stays: its blobs are
in the store of the run that asked. The locks are `flock`s, which the kernel
drops when their process ends; a file system between machines has to have them.
"""

import collections
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import pathlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from mlagent_jax.environment.blobs import (
  BlobError,
  BlobStore,
  check_format,
  telling_of_a_full_disk,
  write_atomically,
)

MAX_BYTES = 16 * 2**30
_FORMAT = '2\n'
_NAMES = {'records', 'blobs', 'locks', 'tmp', 'lock', 'usage', 'format'}
_USAGE_DIGITS = 20
# Making room reads every record; so it makes room for many.
_FILLED_AGAIN = 0.9
_log = logging.getLogger(__name__)


class CacheError(RuntimeError):
  """The folder is no cache, or one of another version."""


@dataclasses.dataclass(frozen=True)
class _Record:
  """A record on disk."""

  path: pathlib.Path
  used: int  # when last, in nanoseconds
  size: int
  blobs: tuple[str, ...]


class ExecutionCache:
  """Key (SHA-256 in hex) -> a JSON object and blobs.

  Args:
    folder: made if it is not there.
    max_bytes: what records and blobs may take; they are counted as if they
      were no hard links.

  Attributes:
    hits, misses: counted by `note`, for this process.

  Raises:
    CacheError: if the folder holds something else, or was written by another
      version of this class.
    ValueError: if nothing would fit.
  """

  def __init__(
    self, folder: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES
  ):
    if max_bytes < 1:
      raise ValueError(f'max_bytes must be above 0, found {max_bytes}')
    self.folder = pathlib.Path(folder).resolve()
    self.max_bytes = max_bytes
    self.hits = 0
    self.misses = 0
    self._counting = threading.Lock()
    self._records = self.folder / 'records'
    self._locks = self.folder / 'locks'
    self._temporary = self.folder / 'tmp'
    with telling_of_a_full_disk(self.folder):
      self.folder.mkdir(parents=True, exist_ok=True)
      self._check_names()
      with self._shared():
        self._temporary.mkdir(exist_ok=True)
        check_format(self.folder, _FORMAT, CacheError)
        self._records.mkdir(exist_ok=True)
        self._locks.mkdir(exist_ok=True)
        self._blobs = BlobStore(self.folder / 'blobs')
      # The records came from elsewhere, as into the mirror of a work directory.
      if not (self.folder / 'usage').exists():
        with self._alone():
          records = sum(record.size for record in self._known_records())
          blobs = sum(size for _, size in self._blobs.sizes())
          self._use(records + blobs)

  @property
  def hit_rate(self) -> float:
    """Hits of all uses that this process counted; 0 if there was none."""
    return self.hits / max(1, self.hits + self.misses)

  def get(
    self, key: str, store: BlobStore | None = None
  ) -> dict[str, Any] | None:
    """What is known of a key; what is damaged or incomplete is unknown.

    Args:
      key: SHA-256 in hex.
      store: gets the blobs of the record, if it does not have them.

    Raises:
      DiskFullError: if they do not fit.
    """
    path = self._path(key)
    with self._shared():
      try:
        blobs, value = _decode(path.read_bytes())
      except FileNotFoundError:
        return None
      except ValueError as error:
        _log.warning('%s is damaged and will be made again: %s', path, error)
        return None
      for digest in blobs if store is not None else ():
        if digest in store:
          continue
        try:
          store.adopt(digest, self._blobs)
        except BlobError as error:
          _log.warning('%s will be made again: %s', path, error)
          self._blobs.path(digest).unlink(missing_ok=True)
          return None
      with contextlib.suppress(PermissionError):  # of another user
        os.utime(path)
    return value

  def put(
    self,
    key: str,
    record: dict[str, Any],
    *,
    blobs: Sequence[str] = (),
    store: BlobStore | None = None,
  ) -> None:
    """Remembers a record; it is on disk when this returns.

    Args:
      key: SHA-256 in hex.
      record: JSON values.
      blobs: what the record is worth nothing without.
      store: has them; needed if there are any.

    Raises:
      DiskFullError: if it does not fit on the disk; all else is as it was.
      BlobError: if the store lacks a blob.
    """
    content = _encode(blobs, record)
    sizes = {b: store.path(b).stat().st_size for b in blobs if b in store}
    most = len(content) + sum(sizes.values())
    if most > self.max_bytes:
      _log.warning('%d bytes are too many for %s', most, self.folder)
      return
    with telling_of_a_full_disk(self.folder):
      with self._shared():
        new = sum(size for b, size in sizes.items() if b not in self._blobs)
        if self._use(len(content) + new) <= self.max_bytes:
          self._write(key, content, blobs, store)
          return
      with self._alone():
        self._make_room(most)
        self._write(key, content, blobs, store)

  @contextlib.contextmanager
  def locked(self, key: str) -> Iterator[None]:
    """Held by one thread of one process at a time, for each key."""
    path = self._locks / key
    with telling_of_a_full_disk(self.folder):
      descriptor = _lock_file(path)
    try:
      yield
    finally:
      path.unlink()
      os.close(descriptor)

  def note(self, *, hit: bool) -> None:
    """Counts a use."""
    with self._counting:
      self.hits += hit
      self.misses += not hit

  def used_bytes(self) -> int:
    """What records and blobs take, at most."""
    return self._use(0)

  def sweep(self) -> None:
    """Removes what killed processes left unfinished."""
    with self._alone():
      self._remove_unfinished()

  def _remove_unfinished(self) -> None:
    """Needs `_alone`: nobody else is writing then."""
    for path in (*self._temporary.iterdir(), *self._blobs.unfinished()):
      path.unlink()
    for path in self._locks.iterdir():
      _remove_if_free(path)

  def _path(self, key: str) -> pathlib.Path:
    return self._records / key[:2] / key[2:]

  def _check_names(self) -> None:
    strange = sorted(set(os.listdir(self.folder)) - _NAMES)
    if strange and not (self.folder / 'format').exists():
      raise CacheError(
        f'{self.folder} is no cache of executions: it holds {strange[0]!r};'
        ' choose another folder'
      )

  def _write(self, key, content, blobs, store) -> None:
    for digest in blobs:
      if digest not in self._blobs:
        self._blobs.adopt(digest, store)
    write_atomically(self._path(key), content, self._temporary)

  def _shared(self):
    return self._held(fcntl.LOCK_SH)

  def _alone(self):
    return self._held(fcntl.LOCK_EX)

  @contextlib.contextmanager
  def _held(self, how: int, name: str = 'lock') -> Iterator[int]:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    descriptor = os.open(self.folder / name, flags, 0o666)
    try:
      fcntl.flock(descriptor, how)
      yield descriptor
    finally:
      os.close(descriptor)

  def _use(self, change: int) -> int:
    """Counts bytes before they are written; how many that makes."""
    with self._held(fcntl.LOCK_EX, 'usage') as file:
      total = int(os.pread(file, _USAGE_DIGITS, 0) or b'0') + change
      if change:
        os.pwrite(file, b'%0*d' % (_USAGE_DIGITS, total), 0)
    return total

  def _make_room(self, needed: int) -> None:
    """Removes what has to go for so many bytes, and what nobody knows of."""
    self._remove_unfinished()
    records = sorted(self._known_records(), key=lambda record: record.used)
    uses = collections.Counter(b for record in records for b in record.blobs)
    sizes = {}
    for digest, size in self._blobs.sizes():
      if digest in uses:
        sizes[digest] = size
      else:
        self._blobs.path(digest).unlink()
    total = sum(sizes.values()) + sum(record.size for record in records)
    goal = int(_FILLED_AGAIN * self.max_bytes) - needed
    removed = 0
    for record in records:
      if total <= goal:
        break
      record.path.unlink()
      total -= record.size
      removed += 1
      for digest in record.blobs:
        uses[digest] -= 1
        if not uses[digest] and digest in sizes:
          self._blobs.path(digest).unlink()
          total -= sizes.pop(digest)
    self._use(total + needed - self._use(0))
    _log.info('%d of %d records left %s', removed, len(records), self.folder)

  def _known_records(self) -> Iterator[_Record]:
    for path in self._records.glob('??/*'):
      status = path.stat()
      try:
        blobs, _ = _decode(path.read_bytes())
      except ValueError:
        path.unlink()
        continue
      yield _Record(path, status.st_mtime_ns, status.st_size, blobs)


def _encode(blobs: Sequence[str], record: dict[str, Any]) -> bytes:
  text = json.dumps([sorted(set(blobs)), record], sort_keys=True).encode()
  return hashlib.sha256(text).hexdigest().encode() + b'\n' + text


def _decode(content: bytes) -> tuple[tuple[str, ...], dict[str, Any]]:
  checksum, _, text = content.partition(b'\n')
  if hashlib.sha256(text).hexdigest().encode() != checksum:
    raise ValueError('its checksum is another')
  blobs, record = json.loads(text)
  return tuple(blobs), record


def _lock_file(path: pathlib.Path) -> int:
  """A descriptor that holds the lock of a file which has this name."""
  while True:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX)
      # Whoever held it before may have removed the name meanwhile.
      if os.path.samestat(os.fstat(descriptor), os.stat(path)):
        return descriptor
    except FileNotFoundError:
      pass
    except BaseException:
      os.close(descriptor)
      raise
    os.close(descriptor)


def _remove_if_free(path: pathlib.Path) -> None:
  """Removes the lock file that a killed process left."""
  try:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
  except FileNotFoundError:
    return
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if os.path.samestat(os.fstat(descriptor), os.stat(path)):
      path.unlink()
  except (BlockingIOError, FileNotFoundError):
    pass
  finally:
    os.close(descriptor)

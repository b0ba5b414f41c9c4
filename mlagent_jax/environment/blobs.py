"""A content-addressed store on disk: SHA-256 -> bytes, written once.

A blob is written to a temporary file, flushed to disk, and renamed to its
name; so a reader sees a whole blob or none, any number of processes may write
the same one at once, and a writer that is killed leaves no more than a file in
`tmp/` that nobody reads.
"""

import contextlib
import errno
import hashlib
import os
import pathlib
import re
import time
import uuid
from collections.abc import Iterator
from typing import BinaryIO

_FORMAT = '1\n'
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Another disk, a file of another user, too many names, no such thing there.
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP)


class BlobError(RuntimeError):
  """A blob is missing or damaged, or the folder is not a store of ours."""


class DiskFullError(RuntimeError):
  """There is no space left where something of ours had to be kept."""


class BlobStore:
  """Blobs in a folder, which is made if it is not there.

  Raises:
    BlobError: if the folder was written by another version of this class.
  """

  def __init__(self, folder: str | os.PathLike[str]):
    self.folder = pathlib.Path(folder).resolve()
    self._temporary = self.folder / 'tmp'
    self._temporary.mkdir(parents=True, exist_ok=True)
    check_format(self.folder, _FORMAT, BlobError)

  def put(self, content: bytes | pathlib.Path) -> str:
    """Stores bytes, or a file's content; the SHA-256 in hex."""
    if isinstance(content, pathlib.Path):
      with content.open('rb') as stream:
        return self.put_stream(stream)
    digest = hashlib.sha256(content).hexdigest()
    path = self.path(digest)
    # A file of another size is a damaged one: it is replaced.
    if not _has_size(path, len(content)):
      write_atomically(path, content, self._temporary)
    return digest

  def put_stream(self, stream: BinaryIO, max_bytes: int | None = None) -> str:
    """Stores what a stream holds, in pieces; the SHA-256 in hex.

    Raises:
      BlobError: if it holds more than `max_bytes`; nothing is stored.
    """
    digest, size = hashlib.sha256(), 0
    with _part(self._temporary) as part:
      with part.open('xb') as output:
        while piece := stream.read(2**20):
          size += len(piece)
          if max_bytes is not None and size > max_bytes:
            raise BlobError(f'content is larger than {max_bytes} bytes')
          digest.update(piece)
          output.write(piece)
        path = self.path(digest.hexdigest())
        if _has_size(path, size):
          return digest.hexdigest()
        output.flush()
        os.fsync(output.fileno())
      _move(part, path)
    return digest.hexdigest()

  def adopt(self, digest: str, source: 'BlobStore') -> None:
    """Takes a blob of another store, verified: a hard link where it can be.

    Raises:
      BlobError: if the other one does not have it, or has it damaged.
    """
    original, path = source.path(digest), self.path(digest)
    with _part(self._temporary) as part:
      try:
        os.link(original, part)
      except FileNotFoundError as error:
        raise _missing(digest, original) from error
      except OSError as error:
        if error.errno not in _NO_LINK:
          raise
        with original.open('rb') as stream:
          copied = self.put_stream(stream)
        if copied != digest:
          self.path(copied).unlink()
          raise _damaged(original) from error
        return
      with part.open('rb') as stream:
        if hashlib.file_digest(stream, 'sha256').hexdigest() != digest:
          raise _damaged(original)
      _move(part, path)

  def get(self, digest: str) -> bytes:
    """A blob's bytes, verified.

    Raises:
      BlobError: if it is missing or its bytes have another hash.
    """
    path = self.path(digest)
    try:
      content = path.read_bytes()
    except FileNotFoundError as error:
      raise _missing(digest, path) from error
    if hashlib.sha256(content).hexdigest() != digest:
      raise _damaged(path)
    return content

  def __contains__(self, digest: str) -> bool:
    return self.path(digest).is_file()

  def sizes(self) -> Iterator[tuple[str, int]]:
    """SHA-256 and bytes of every blob."""
    for path in self.folder.glob('??/*'):
      yield path.parent.name + path.name, path.stat().st_size

  def unfinished(self) -> list[pathlib.Path]:
    """Files that nobody reads: being written, or left by killed writers."""
    return list(self._temporary.iterdir())

  def sweep(self, seconds: float = 3600.0) -> list[pathlib.Path]:
    """Removes what killed writers left unfinished.

    Args:
      seconds: files that are younger may still be under way.

    Returns:
      The files.
    """
    removed = []
    for path in self.unfinished():
      with contextlib.suppress(FileNotFoundError):  # finished meanwhile
        # Not the time of the content: a link has that of its original.
        if time.time() - path.lstat().st_ctime >= seconds:
          path.unlink()
          removed.append(path)
    return removed

  def path(self, digest: str) -> pathlib.Path:
    """Where a blob is, or would be; its content must not be changed."""
    if not re.fullmatch('[0-9a-f]{64}', digest):
      raise BlobError(f'{digest!r} is not a SHA-256 in hex')
    return self.folder / digest[:2] / digest[2:]


def write_atomically(
  path: pathlib.Path, content: bytes, temporary: pathlib.Path
) -> None:
  """Writes a read-only file that is whole or absent, whoever is killed when.

  Args:
    path: of the file; its folder is made. An existing file is replaced.
    content: of the file.
    temporary: a folder on the same file system for the unfinished file.

  Raises:
    DiskFullError: if there is no space; an existing file is as it was.
  """
  with _part(temporary) as part:
    with part.open('xb') as output:
      output.write(content)
      output.flush()
      os.fsync(output.fileno())
    _move(part, path)


@contextlib.contextmanager
def telling_of_a_full_disk(folder: pathlib.Path) -> Iterator[None]:
  """Turns what the system says when there is no space into `DiskFullError`."""
  try:
    yield
  except OSError as error:
    if error.errno not in _FULL:
      raise
    raise DiskFullError(
      f'{folder}: cannot be written to ({os.strerror(error.errno)}). What is'
      ' in it is whole. Free some space and start again'
    ) from error


def check_format(
  folder: pathlib.Path, expected: str, error: type[Exception]
) -> None:
  """Marks a new folder with its format; refuses one of another format."""
  file = folder / 'format'
  if not file.exists():
    write_atomically(file, expected.encode(), folder / 'tmp')
  found = file.read_text(errors='replace')
  if found != expected:
    raise error(
      f'{folder} has format {found.strip()!r}, this version reads'
      f' {expected.strip()!r}: choose another folder, or remove it'
    )


@contextlib.contextmanager
def _part(temporary: pathlib.Path) -> Iterator[pathlib.Path]:
  """The name of an unfinished file, which is gone afterwards."""
  part = temporary / uuid.uuid4().hex
  with telling_of_a_full_disk(temporary.parent):
    try:
      yield part
    finally:
      part.unlink(missing_ok=True)


def _missing(digest: str, path: pathlib.Path) -> BlobError:
  return BlobError(f'blob {digest} is missing: no file {path}')


def _damaged(path: pathlib.Path) -> BlobError:
  return BlobError(
    f'{path} is damaged: its bytes have another SHA-256. Remove it; what needs'
    ' it has to be made again'
  )


def _move(part: pathlib.Path, path: pathlib.Path) -> None:
  if part.stat().st_mode & 0o777 != 0o444:  # a link may not be ours to change
    part.chmod(0o444)
  path.parent.mkdir(exist_ok=True)
  part.rename(path)
  # The name must survive a power cut as the content does.
  descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _has_size(path: pathlib.Path, size: int) -> bool:
  try:
    return path.stat().st_size == size
  except FileNotFoundError:
    return False

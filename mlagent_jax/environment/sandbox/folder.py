"""A workspace before, during and after a run, whatever the script does to it.

Everything here works by folder descriptors and follows no symbolic link: the
names in a workspace were chosen by the script.
"""

import array
import contextlib
import fcntl
import os
import pathlib
import secrets
import shutil
import stat
from collections.abc import Iterator

# The name under which a run sees its data; reserved in every workspace.
DATA = 'data'
# Folders nested deeper than this are refused: they count as a full disk, and
# are removed after the run.
DEEPEST = 64
# What an entry of a folder costs at least: an inode and its name.
_ENTRY_BYTES = 4096
# Attributes and flags (linux/fs.h) that the owner of a folder can leave on it
# for the files of whoever uses it next: synchronous writes, no copy on write…
_ATTRIBUTES = ('user.', 'system.posix_acl_')
_FLAGS = 0x2083C4CF
_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602


def check(
  workspace: pathlib.Path, owner: int | None, data: pathlib.Path | None
) -> None:
  """Refuses what no run can work with.

  Raises:
    NotADirectoryError: if either is not a folder (a link to one is not).
    FileNotFoundError: if either does not exist.
    PermissionError: if `owner` could not read `data`.
  """
  for path in (workspace, data):
    if path is not None and not stat.S_ISDIR(os.lstat(path).st_mode):
      raise NotADirectoryError(f'{path} is not a folder')
  if owner is not None and data is not None:
    mode = os.stat(data).st_mode
    if mode & 0o005 != 0o005:
      raise PermissionError(
        f'data folder {data} (mode {mode & 0o777:o}) is closed to the'
        f' unprivileged user that scripts run as: chmod -R a+rX {data}'
      )


@contextlib.contextmanager
def borrowed(
  workspace: pathlib.Path, owner: int | None, data: pathlib.Path | None
) -> Iterator[None]:
  """A workspace while it is a run's own; the caller's again afterwards.

  Args:
    workspace: the folder.
    owner: user and group id of the run; None leaves the caller's.
    data: what the run will see as ./data.

  Raises:
    OSError: see `check`.
  """
  check(workspace, owner, data)
  remove(workspace, DATA)
  try:
    hand_over(workspace, owner)
    yield
  finally:
    remove(workspace, DATA)
    take_back(workspace, owned=owner is not None)


def hand_over(workspace: os.PathLike, owner: int | None) -> None:
  """Makes a workspace the run's own.

  Hard links are broken into copies: the other name of the file may be in a
  store that the script must not reach.

  Args:
    workspace: the folder; every entry goes to `owner`.
    owner: user and group id of the run; None leaves the caller's.
  """
  with _opened(workspace) as top:
    for folder, entry in _walk(top):
      status = entry.stat(follow_symlinks=False)
      if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
        _break_link(folder, entry.name)
      if owner is not None:
        os.chown(entry.name, owner, owner, dir_fd=folder, follow_symlinks=False)
    if owner is not None:
      os.fchown(top, owner, owner)
    os.fchmod(top, 0o700)


def take_back(workspace: os.PathLike, *, owned: bool) -> None:
  """Makes a workspace the caller's again, after every process has ended.

  Every file and folder becomes readable and writable by its owner and loses
  set-id bits; pipes, sockets and folders nested deeper than `DEEPEST` go, and
  so do the attributes of the workspace itself, which may be used again.

  Args:
    workspace: the folder.
    owned: whether every entry has to be given to the caller's ids.
  """
  user, group = os.getuid(), os.getgid()
  with _opened(workspace) as top:
    if owned:
      os.fchown(top, user, group)
    _clear_attributes(top)
    os.fchmod(top, 0o700)
    for folder, entry in _walk(top, repair=True):
      mode = entry.stat(follow_symlinks=False).st_mode
      if owned:
        os.chown(entry.name, user, group, dir_fd=folder, follow_symlinks=False)
      if stat.S_ISREG(mode):
        wanted = stat.S_IMODE(mode) & 0o777 | 0o600
        if wanted != stat.S_IMODE(mode):
          os.chmod(entry.name, wanted, dir_fd=folder)
      elif not stat.S_ISDIR(mode) and not stat.S_ISLNK(mode):
        os.unlink(entry.name, dir_fd=folder)


def usage(workspace: os.PathLike, limit: int) -> int:
  """Bytes that a workspace holds, while a script may be writing to it.

  The larger of size and blocks on disk, of every name (a hard link counts
  again: the host will copy it), and a minimum for each entry. Stops counting
  soon after `limit`.
  """
  total = 0
  try:
    with _opened(workspace) as top:
      for _, entry in _walk(top, repair=os.geteuid() != 0, racing=True):
        try:
          status = entry.stat(follow_symlinks=False)
        except (FileNotFoundError, PermissionError):
          total += _ENTRY_BYTES  # moved or closed this very moment
          continue
        total += max(status.st_size, status.st_blocks * 512, _ENTRY_BYTES)
        if total > limit:
          break
  except _TooDeep:
    return limit + 1
  return total


def remove(workspace: os.PathLike, name: str) -> None:
  """Removes an entry of a workspace, whatever it is; none is fine."""
  with _opened(workspace) as top:
    _remove(top, name)


class _TooDeep(Exception):  # noqa: N818 - a finding, handled in `usage`
  """A folder below `DEEPEST`, found while a script is at work."""


@contextlib.contextmanager
def _opened(path: os.PathLike) -> Iterator[int]:
  descriptor = _open_folder(path, None, repair=os.geteuid() != 0)
  try:
    yield descriptor
  finally:
    os.close(descriptor)


def _open_folder(
  name: str | os.PathLike, parent: int | None, *, repair: bool
) -> int:
  """Opens a folder that may have taken its own permissions away."""
  flags = os.O_DIRECTORY | os.O_NOFOLLOW
  if repair:
    handle = os.open(name, os.O_PATH | flags, dir_fd=parent)
    try:
      mode = stat.S_IMODE(os.fstat(handle).st_mode)
      if mode & 0o777 | 0o700 != mode:
        os.chmod(f'/proc/self/fd/{handle}', mode & 0o777 | 0o700)
    finally:
      os.close(handle)
  return os.open(name, os.O_RDONLY | flags, dir_fd=parent)


def _walk(
  top: int, *, repair: bool = False, racing: bool = False
) -> Iterator[tuple[int, os.DirEntry]]:
  """Every entry below a folder, with its folder's descriptor, parents first.

  Args:
    top: descriptor of the folder.
    repair: open up folders that their owner closed.
    racing: a script is at work: what vanishes is passed over, and a folder
      that is too deep is an error; otherwise it is removed.

  Raises:
    _TooDeep: if `racing`.
  """
  # (descriptor, entries still to come) of each folder on the way down.
  stack = [(top, _entries(top))]
  try:
    while stack:
      folder, entries = stack[-1]
      entry = next(entries, None)
      if entry is None:
        stack.pop()
        if folder != top:
          os.close(folder)
        continue
      if not entry.is_dir(follow_symlinks=False):
        yield folder, entry
        continue
      if len(stack) >= DEEPEST:
        if racing:
          raise _TooDeep
        _remove(folder, entry.name)
        continue
      yield folder, entry
      try:
        inner = _open_folder(entry.name, folder, repair=repair)
      except (FileNotFoundError, NotADirectoryError, PermissionError):
        if racing:
          continue
        raise
      stack.append((inner, _entries(inner)))
  finally:
    for folder, _ in stack:
      if folder != top:
        os.close(folder)


def _entries(folder: int) -> Iterator[os.DirEntry]:
  with os.scandir(folder) as entries:
    return iter(list(entries))


def _clear_attributes(folder: int) -> None:
  for name in os.listxattr(folder):
    if name.startswith(_ATTRIBUTES):
      os.removexattr(folder, name)
  flags = array.array('l', [0])
  # Some file systems have no flags.
  with contextlib.suppress(OSError):
    fcntl.ioctl(folder, _GET_FLAGS, flags)
    if flags[0] & _FLAGS:
      flags[0] &= ~_FLAGS
      fcntl.ioctl(folder, _SET_FLAGS, flags)


def _new_name() -> str:
  """A name that no script can have put in the way."""
  return f'.mlagent_jax.{secrets.token_hex(16)}'


def _break_link(folder: int, name: str) -> None:
  """Replaces one name of a file by a private copy."""
  beside = _new_name()
  source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
  with open(source, 'rb') as reader:
    status = os.fstat(source)
    target = os.open(
      beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder
    )
    with open(target, 'wb') as writer:
      shutil.copyfileobj(reader, writer)
      os.fchmod(target, stat.S_IMODE(status.st_mode) & 0o777)
      writer.flush()
      os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
  os.rename(beside, name, src_dir_fd=folder, dst_dir_fd=folder)


def _remove(parent: int, name: str) -> None:
  """Removes an entry, of any depth, with a bounded number of descriptors.

  A folder is emptied by moving its folders up beside it until it is flat: the
  depth is the script's choice, and neither paths nor recursion may follow it.
  """
  waiting = [name]
  while waiting:
    current = waiting.pop()
    try:
      status = os.stat(current, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
      continue
    if not stat.S_ISDIR(status.st_mode):
      os.unlink(current, dir_fd=parent)
      continue
    folder = _open_folder(current, parent, repair=True)
    try:
      for entry in _entries(folder):
        if not entry.is_dir(follow_symlinks=False):
          os.unlink(entry.name, dir_fd=folder)
          continue
        # Renaming a folder changes its '..': it must be writable.
        os.close(_open_folder(entry.name, folder, repair=True))
        beside = _new_name()
        os.rename(entry.name, beside, src_dir_fd=folder, dst_dir_fd=parent)
        waiting.append(beside)
    finally:
      os.close(folder)
    os.rmdir(current, dir_fd=parent)

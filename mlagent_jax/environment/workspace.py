"""Workspaces as trees of blobs: taken, restored exactly, edited in place.

A tree is one blob of canonical JSON: a sorted list of [path, kind, mode,
content], kind 'file' (content: SHA-256), 'folder' or 'link' (content: where
it points). Its SHA-256 is the workspace's name everywhere. Edits work on the
tree; a folder is made only where a script is to run.

The folder that a snapshot is taken of was written by an adversary: links are
kept as links and never followed (every file is opened relative to its parent's
descriptor), and pipes, sockets and devices are left out with a note.
"""

import dataclasses
import json
import os
import pathlib
import posixpath
import stat
from collections.abc import Collection, Iterator, Mapping

from mlagent_jax.environment.blobs import BlobError, BlobStore

MAX_ENTRIES = 5000
MAX_BYTES = 2**30
MAX_DEPTH = 32


class PathError(ValueError):
  """A path leaves the workspace, or names nothing; for the agent."""


class WorkspaceError(ValueError):
  """A folder holds more than a snapshot may."""


@dataclasses.dataclass(frozen=True)
class Entry:
  """One path of a tree.

  Attributes:
    kind: 'file', 'folder' or 'link'.
    mode: permission bits (0 for a link).
    content: SHA-256 of a file, target of a link, '' of a folder.
  """

  kind: str
  mode: int
  content: str = ''


Tree = dict[str, Entry]


def normalise(path: str) -> str:
  """A path of a workspace, relative and without '.' and '..'.

  Raises:
    PathError: if it is absolute or leads outside.
  """
  plain = posixpath.normpath(path.strip())
  if posixpath.isabs(plain):
    raise PathError(f'{path!r} is absolute; paths are relative to ".".')
  if plain == '..' or plain.startswith('../'):
    raise PathError(f'{path!r} leads outside the workspace.')
  return plain


def resolve_inside(folder: pathlib.Path, path: str) -> pathlib.Path:
  """The real path that `path` means in a folder on the host.

  Raises:
    PathError: if links or '..' lead outside the folder.
  """
  root = folder.resolve()
  found = (root / normalise(path)).resolve()
  if not found.is_relative_to(root):
    raise PathError(f'{path!r} leads outside the workspace.')
  return found


def parents(path: str) -> list[str]:
  """The folders that a path is in, the outermost first."""
  parts = path.split('/')
  return ['/'.join(parts[:n]) for n in range(1, len(parts))]


def write_tree(tree: Mapping[str, Entry], store: BlobStore) -> str:
  """Stores a tree; its SHA-256."""
  rows = [
    [path, entry.kind, entry.mode, entry.content]
    for path, entry in sorted(tree.items())
  ]
  return store.put(json.dumps(rows, separators=(',', ':')).encode('ascii'))


def read_tree(tree: str, store: BlobStore) -> Tree:
  """Path -> entry, sorted by path.

  Raises:
    BlobError: if the blob is missing, damaged or no tree.
  """
  content = store.get(tree)
  try:
    entries = {
      path: Entry(kind, mode, blob)
      for path, kind, mode, blob in json.loads(content)
    }
  except (ValueError, TypeError) as error:
    raise BlobError(f'blob {tree} is not a tree: {error}') from error
  for path in entries:
    if path.startswith('/') or {'', '.', '..'} & set(path.split('/')):
      raise BlobError(f'tree {tree} holds the path {path!r}')
  return entries


def with_file(
  tree: Mapping[str, Entry], path: str, content: bytes, store: BlobStore
) -> Tree:
  """The tree with one file written, its folders made, its mode kept.

  Raises:
    PathError: if a folder or a link is in the way.
  """
  changed = dict(tree)
  for parent in parents(path):
    if changed.setdefault(parent, Entry('folder', 0o755)).kind != 'folder':
      raise PathError(f'{parent!r} is not a folder.')
  old = tree.get(path)
  if old is not None and old.kind != 'file':
    raise PathError(f'{path!r} is a {old.kind}, not a file.')
  mode = 0o644 if old is None else old.mode
  changed[path] = Entry('file', mode, store.put(content))
  return changed


def snapshot_tree(
  folder: pathlib.Path,
  store: BlobStore,
  *,
  exclude: Collection[str] = ('data',),
  notes: list[str] | None = None,
) -> str:
  """Stores what a folder holds; the SHA-256 of its tree.

  Args:
    folder: the workspace.
    store: where blobs go.
    exclude: names at the top that are left out.
    notes: gets a line for each path that could not be kept.

  Raises:
    WorkspaceError: if there is more than the constants above allow.
  """
  tree: Tree = {}
  budget = _Budget(store, [] if notes is None else notes)
  descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
  try:
    tree.update(_walk(descriptor, '', budget, exclude))
  finally:
    os.close(descriptor)
  return write_tree(tree, store)


def restore_tree(tree: str, store: BlobStore, folder: pathlib.Path) -> None:
  """Makes a folder hold exactly a tree; every byte is verified by its hash.

  Args:
    tree: from `write_tree` or `snapshot_tree`.
    store: holds its blobs.
    folder: does not exist yet, or is empty.

  Raises:
    BlobError: if a blob is missing or damaged.
    FileExistsError: if the folder is not empty.
  """
  folder.mkdir(exist_ok=True)
  if any(os.scandir(folder)):
    raise FileExistsError(f'{folder} is not empty')
  entries = read_tree(tree, store)
  flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
  for path, entry in entries.items():  # sorted: a folder before its content
    target = folder / path
    if entry.kind == 'folder':
      target.mkdir(0o700)
    elif entry.kind == 'link':
      target.symlink_to(entry.content)
    else:
      with open(os.open(target, flags, 0o600), 'wb') as stream:
        stream.write(store.get(entry.content))
        os.fchmod(stream.fileno(), entry.mode)
  for path, entry in reversed(entries.items()):
    if entry.kind == 'folder':
      (folder / path).chmod(entry.mode)


@dataclasses.dataclass
class _Budget:
  """What a walk may still take, and where it notes what it left out."""

  store: BlobStore
  notes: list[str]
  entries: int = MAX_ENTRIES
  bytes: int = MAX_BYTES

  def take(self, path: str, size: int) -> None:
    self.entries -= 1
    self.bytes -= size
    if self.entries < 0 or self.bytes < 0:
      raise WorkspaceError(
        f'the workspace holds more than {MAX_ENTRIES} files or {MAX_BYTES}'
        f' bytes (at {path!r})'
      )


def _walk(
  descriptor: int,
  prefix: str,
  budget: _Budget,
  exclude: Collection[str] = (),
) -> Iterator[tuple[str, Entry]]:
  if prefix.count('/') >= MAX_DEPTH:
    raise WorkspaceError(f'folders are nested deeper than {MAX_DEPTH}')
  with os.scandir(descriptor) as found:
    names = sorted({item.name for item in found} - set(exclude))
  for name in names:
    path = prefix + name
    status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
    mode = stat.S_IMODE(status.st_mode) & 0o777
    budget.take(path, 0)
    if stat.S_ISLNK(status.st_mode):
      target = os.readlink(name, dir_fd=descriptor)
      yield path, Entry('link', 0, target)
    elif stat.S_ISDIR(status.st_mode):
      inner = _open(name, os.O_DIRECTORY, descriptor, path, budget)
      if inner is None:
        continue
      try:
        yield path, Entry('folder', mode)
        yield from _walk(inner, path + '/', budget)
      finally:
        os.close(inner)
    elif stat.S_ISREG(status.st_mode):
      inner = _open(name, os.O_NONBLOCK, descriptor, path, budget)
      if inner is not None:
        yield path, Entry('file', mode, _put_file(inner, path, budget))
    else:
      budget.notes.append(f'{path!r} is not a regular file and was not kept')


def _open(
  name: str, flags: int, parent: int, path: str, budget: _Budget
) -> int | None:
  """A descriptor, never through a link; None, with a note, if unreadable."""
  try:
    return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=parent)
  except PermissionError:
    budget.notes.append(f'{path!r} cannot be read and was not kept')
    return None


def _put_file(descriptor: int, path: str, budget: _Budget) -> str:
  with open(descriptor, 'rb') as stream:
    size = os.fstat(descriptor).st_size
    budget.take(path, size)
    if size <= 2**20:
      return budget.store.put(stream.read(size))
    return budget.store.put_stream(stream, size)

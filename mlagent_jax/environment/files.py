"""What an agent sees of its files: the workspace, and the data as ./data.

Actions work on a tree, never on a folder of the host: there is no path from
them to anything else, and links that a script left are not followed. The
task's public data shows under `data/` and cannot be changed.
"""

import itertools
import pathlib

from mlagent_jax.environment import edits, workspace
from mlagent_jax.environment.blobs import BlobStore
from mlagent_jax.environment.task_folder import Task
from mlagent_jax.environment.workspace import PathError

DATA = 'data'
_MAX_TEXT_BYTES = 2**20
_MAX_COPY_BYTES = 2**26


class Files:
  """The files of one state.

  Every method raises `PathError`, with a message for the agent, for a path
  that is not there, leads outside, or is not of the kind that is asked for.

  Args:
    task: its data folder is shown.
    tree: hash of the workspace's tree.
    store: holds it.
  """

  def __init__(self, task: Task, tree: str, store: BlobStore):
    self._data = task.data_folder
    self._store = store
    self.tree = workspace.read_tree(tree, store)

  def names(self, path: str) -> list[tuple[str, int | None]]:
    """(name, size in bytes; None for a folder) of what a folder holds."""
    plain = workspace.normalise(path)
    if _is_data(plain):
      found = self._data_path(plain)
      if not found.is_dir():
        raise PathError(f'There is no folder {path!r}.')
      return [
        (item.name, None if item.is_dir() else item.stat().st_size)
        for item in found.iterdir()
      ]
    if plain != '.' and self._entry(plain).kind != 'folder':
      raise PathError(f'{path!r} is not a folder.')
    start = 0 if plain == '.' else len(plain) + 1
    prefix = '' if plain == '.' else f'{plain}/'
    names = [
      (name[start:], self._size(entry))
      for name, entry in self.tree.items()
      if name.startswith(prefix) and '/' not in name[start:]
    ]
    return [*names, (DATA, None)] if plain == '.' else names

  def content(self, path: str) -> bytes:
    """A file's bytes."""
    plain = workspace.normalise(path)
    if not _is_data(plain):
      return self._store.get(self.file(plain).content)
    found = self._data_file(plain)
    if found.stat().st_size > _MAX_COPY_BYTES:
      raise PathError(f'{path} is too large to copy; read it where it is.')
    return found.read_bytes()

  def text(self, path: str) -> str:
    """A file's whole text."""
    plain = workspace.normalise(path)
    if _is_data(plain) and (
      self._data_file(plain).stat().st_size > _MAX_TEXT_BYTES
    ):
      raise PathError(f'{path} is too large to be read whole.')
    try:
      return self.content(plain).decode('utf-8')
    except UnicodeDecodeError as error:
      raise PathError(f'{path} is not a text file.') from error

  def lines(self, path: str, first: int, last: int) -> tuple[list[str], str]:
    """Lines first to last, as many as there are, and ' of COUNT' if known."""
    plain = workspace.normalise(path)
    if not _is_data(plain):
      lines = edits.split_lines(self.text(plain))
      return lines[first - 1 : last], f' of {len(lines)}'
    try:
      with self._data_file(plain).open(encoding='utf-8', newline='\n') as file:
        return list(itertools.islice(file, first - 1, last)), ''
    except UnicodeDecodeError as error:
      raise PathError(f'{path} is not a text file.') from error

  def with_content(self, path: str, content: bytes) -> str:
    """Hash of the tree with one file written; the state stays as it is."""
    tree = workspace.with_file(self.tree, path, content, self._store)
    return workspace.write_tree(tree, self._store)

  def file(self, path: str) -> workspace.Entry:
    """The workspace's file at a normalised path."""
    entry = self._entry(path)
    if entry.kind != 'file':
      raise PathError(f'{path!r} is a {entry.kind}, not a file.')
    return entry

  def _entry(self, path: str) -> workspace.Entry:
    found = self.tree.get(path)
    if found is None:
      raise PathError(
        f'There is no {path!r} in the workspace (List Files shows what there'
        ' is).'
      )
    return found

  def _size(self, entry: workspace.Entry) -> int | None:
    if entry.kind == 'file':
      return self._store.path(entry.content).stat().st_size
    return None if entry.kind == 'folder' else len(entry.content)

  def _data_file(self, path: str) -> pathlib.Path:
    found = self._data_path(path)
    if not found.is_file():
      raise PathError(f'There is no file {path!r}.')
    return found

  def _data_path(self, path: str) -> pathlib.Path:
    inside = path.partition('/')[2] or '.'
    return workspace.resolve_inside(self._data, inside)


def writable(path: str) -> str:
  """A path that an agent may write, normalised.

  Raises:
    PathError: if it may not.
  """
  plain = workspace.normalise(path)
  if _is_data(plain):
    raise PathError(f'{path!r} cannot be changed: {DATA}/ is read-only.')
  if plain == '.':
    raise PathError(f'{path!r} is the workspace, not a file.')
  return plain


def _is_data(path: str) -> bool:
  return path.split('/', 1)[0] == DATA

"""A work directory at a URL: a folder of this host's disk, and its copy there.

Object stores have no locks, appends or renames, which the stores of a run need.
So process 0 works in a folder of its own disk, the mirror, and what is in it is
copied to the URL: every `PUSH_SECONDS`, before every checkpoint, at the end of
every stage, and at the end of the process. Checkpoints are not in the mirror:
every process writes its part of them to the URL itself (Orbax).

At the URL, so that it can be resumed from whenever a process is killed:

  blobs/, executions/records/  objects that are written once; what they are of
                               is read before, and written after, them
  *.jsonl/, tensorboard/*/     files that grow, in chunks of `CHUNK_BYTES`
  owner.json                   which start wrote last
  all else                     one object a file

If the mirror's own copy of owner.json is that of the URL, nobody else has
written there, and the mirror is the newer one. Any other mirror is replaced by
what is at the URL.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator

import fsspec

from mlagent_jax import paths
from mlagent_jax.environment import blobs
from mlagent_jax.stages import workdir

PUSH_SECONDS = 10.0
CHUNK_BYTES = 4 * 2**20
# What Orbax and TensorStore write checkpoints to.
SCHEMES = ('gs',)
_OWNER = 'owner.json'
_BLOBS = 'blobs/'
_ONCE = (_BLOBS, 'executions/records/')
_GROWS = re.compile(r'.+\.jsonl|tensorboard/.+')
_CHUNK = re.compile(rf'({_GROWS.pattern})/(\d{{6}})')
# Unfinished files, and what an execution cache keeps about this host; its
# blobs are all among the run's.
_STAYS = re.compile(
  r'blobs/tmp(/.*)?|executions/(tmp|locks|blobs)(/.*)?'
  r'|executions/(lock|usage)|(.*/)?checkpoints(/.*)?|.*\.partial'
)
# What makes a folder a work directory, and what says that a stage is complete.
_ORDER = {'config.json': 0, 'done.json': 3}
# Times of files lag behind the clock by less than this.
_CLOCK_NS = 10**9


class MirrorError(RuntimeError):
  """A URL cannot be a work directory, or cannot be reached; says why."""


def is_url(text: str) -> bool:
  """Whether this names a place in an object store and not a folder."""
  return '://' in text


def folder_for(url: str) -> pathlib.Path:
  """Where the mirror of a URL is, unless one says otherwise."""
  return paths.cache_folder() / 'mirrors' / _key(url)


def _key(url: str) -> str:
  digest = hashlib.sha256(url.encode()).hexdigest()[:12]
  return f'{url.rstrip("/").rpartition("/")[2]}-{digest}'


class Remote:
  """The objects below a URL.

  Raises:
    MirrorError: here and in every method, for whatever goes wrong there.
  """

  def __init__(self, url: str):
    scheme = url.partition('://')[0]
    if scheme not in SCHEMES:
      raise MirrorError(
        f'{url}: a work directory is a folder, or {SCHEMES[0]}://BUCKET/NAME;'
        f' checkpoints cannot be written to {scheme}://'
      )
    self.url = url.rstrip('/')
    try:
      self._files, self._root = fsspec.core.url_to_fs(self.url)
    except ImportError as error:
      raise MirrorError(
        f"{url}: needs a package ({error}): pip install 'mlagent_jax[gcs]'"
      ) from error

  @contextlib.contextmanager
  def telling(self) -> Iterator[None]:
    """Turns whatever a file system raises into a `MirrorError`."""
    try:
      yield
    except (MirrorError, blobs.DiskFullError):
      raise
    except Exception as error:  # noqa: BLE001 - each raises its own kinds
      raise MirrorError(
        f'{self.url}: {type(error).__name__}: {error}. The bucket must exist,'
        ' and this host must be allowed to read and write in it (for gs://:'
        ' the service account of the machine, or `gcloud auth'
        ' application-default login`). What this host has is kept: the same'
        ' command goes on from it'
      ) from error

  def names(self, below: str = '') -> set[str]:
    """Of all objects but those of checkpoints."""
    with self.telling():
      self._files.invalidate_cache()
      found = self._files.find(f'{self._root}/{below}'.rstrip('/'))
    names = {name.removeprefix(f'{self._root}/') for name in found}
    return {name for name in names if not _STAYS.fullmatch(name)}

  def owner(self) -> dict | None:
    """owner.json; None if there is none."""
    with self.telling():
      self._files.invalidate_cache()
      try:
        return json.loads(self._files.cat_file(f'{self._root}/{_OWNER}'))
      except FileNotFoundError:
        return None

  def write(self, contents: dict[str, bytes]) -> None:
    """Writes objects from memory, many at once."""
    if contents:
      with self.telling():
        self._files.pipe({f'{self._root}/{k}': v for k, v in contents.items()})

  def copy_in(self, names: Iterable[str], folder: pathlib.Path) -> None:
    """Writes objects from the files of these names in `folder`."""
    names = sorted(names)
    if names:
      with self.telling():
        self._files.put(
          [str(folder / name) for name in names],
          [f'{self._root}/{name}' for name in names],
        )

  def copy_out(self, names: Iterable[str], folder: pathlib.Path) -> None:
    """Writes files from objects; chunks become the file that they are of."""
    whole = sorted(name for name in names if not _CHUNK.fullmatch(name))
    chunks = sorted({*names} - {*whole})
    with self.telling(), blobs.telling_of_a_full_disk(folder):
      for name in {*map(os.path.dirname, whole)}:
        (folder / name).mkdir(parents=True, exist_ok=True)
      if whole:
        self._files.get(
          [f'{self._root}/{name}' for name in whole],
          [str(folder / name) for name in whole],
        )
      for name in whole:
        if name.startswith(_ONCE):
          (folder / name).chmod(0o444)
      for chunk in chunks:
        name, number = _CHUNK.fullmatch(chunk).groups()
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open('ab' if int(number) else 'wb') as stream:
          stream.write(self._files.cat_file(f'{self._root}/{chunk}'))

  def remove(self, names: Iterable[str]) -> None:
    """Removes objects."""
    for name in names:
      with self.telling():
        self._files.rm_file(f'{self._root}/{name}')


class Mirror:
  """The mirror of a URL, with what is there; use it in a `with` statement.

  Args:
    url: the work directory.
    root: on this host's disk; the work directory's files are in `folder`.
    say: told what takes long.

  Raises:
    MirrorError: if the URL or the root cannot be what they are asked to be.
  """

  def __init__(self, url: str, root: pathlib.Path, say=lambda text: None):
    self.folder = root / 'workdir'
    self._remote = Remote(url)
    self._own = root / _OWNER
    self._say = say
    self._lock = threading.Lock()
    self._stopping = threading.Event()
    self._failed: Exception | None = None
    self._pushed_at = 0  # time_ns
    self._once: set[str] = set()  # objects that are written once and are there
    self._grown: dict[str, int] = {}  # file that grows -> bytes that are there
    self._take_over(root)

  def __enter__(self):
    self._thread = threading.Thread(target=self._push_often, daemon=True)
    self._thread.start()
    return self

  def __exit__(self, kind, error, trace):
    self._stopping.set()
    self._thread.join()
    if self._failed is None or error is None:
      self.push()

  def push(self) -> None:
    """Returns when all that the mirror had when it was called is at the URL.

    Raises:
      MirrorError: if that cannot be, or another start has taken over.
    """
    with self._lock:
      if self._failed is not None:
        raise self._failed
      try:
        self._push()
      except Exception as error:
        self._failed = error
        raise

  def _push_often(self):
    while self._failed is None and not self._stopping.wait(PUSH_SECONDS):
      # It is kept, and raised where somebody waits.
      with contextlib.suppress(Exception):
        self.push()

  def _take_over(self, root: pathlib.Path) -> None:
    """Makes mirror and URL equal, and this process their owner."""
    root.mkdir(parents=True, exist_ok=True)
    mark = root / 'url'
    if not mark.exists() and any(root.iterdir()):
      raise MirrorError(f'{root} is not empty and no mirror: choose another')
    if mark.exists() and mark.read_text() != self._remote.url:
      raise MirrorError(f'{root} is the mirror of {mark.read_text()}')
    mark.write_text(self._remote.url)
    theirs, names = self._remote.owner(), self._remote.names()
    if theirs is None and names:
      raise MirrorError(
        f'{self._remote.url} is no work directory of mlagent_jax: it holds'
        f' {min(names)!r} and no {_OWNER}; choose another'
      )
    self._once = {name for name in names if name.startswith(_ONCE)}
    if theirs is not None and workdir.read_json(self._own) == theirs:
      self._owner = theirs
      self._pushed_at = self._own.stat().st_mtime_ns
      self._push()
    else:
      if self.folder.exists():
        shutil.rmtree(self.folder)
      self.folder.mkdir()
      if names:
        self._say(f'fetching {len(names)} objects from {self._remote.url}')
      self._remote.copy_out(names - {_OWNER}, self.folder)
      self._pushed_at = time.time_ns()
    self._owner = {'start': uuid.uuid4().hex, 'host': socket.gethostname()}
    self._remote.write({_OWNER: json.dumps(self._owner).encode()})
    workdir.write_json(self._own, self._owner)
    os.utime(self._own, ns=(self._pushed_at, self._pushed_at))

  def _push(self) -> None:
    begun = time.time_ns()
    owner = self._remote.owner()
    if owner != self._owner:
      raise MirrorError(
        f'{self._remote.url} has been taken over by another start of this run,'
        f' on {owner and owner["host"]}: this one ends'
      )
    # In this order: what is read now refers to blobs that exist already.
    records, steps = set(), ({}, {}, {}, {})
    for name in self._files('.'):
      if name.startswith(_ONCE):
        records.add(name)
        if name not in self._once:
          steps[1][name] = (self.folder / name).read_bytes()
      elif not self._changed(name):
        continue
      elif _GROWS.fullmatch(name):
        steps[1].update(self._new_chunks(name))
      else:
        place = _ORDER.get(os.path.basename(name), 2)
        steps[place][name] = (self.folder / name).read_bytes()
    new = set(self._files(_BLOBS)) - self._once
    self._remote.copy_in(new, self.folder)
    for contents in steps:
      self._remote.write(contents)
    gone = {n for n in self._once - records if not n.startswith(_BLOBS)}
    self._remote.remove(gone)
    self._once = (self._once | new | records) - gone
    self._pushed_at = begun
    os.utime(self._own, ns=(begun, begun))

  def _files(self, below: str) -> Iterator[str]:
    """Names of what is to be at the URL; blobs only if they are asked for."""
    for top, folders, files in os.walk(self.folder / below):
      place = os.path.relpath(top, self.folder)
      names = {item: os.path.normpath(f'{place}/{item}') for item in folders}
      folders[:] = [
        item
        for item, name in names.items()
        if not _STAYS.fullmatch(name) and f'{name}/' != _BLOBS
      ]
      for item in files:
        name = os.path.normpath(f'{place}/{item}')
        if not _STAYS.fullmatch(name):
          yield name

  def _changed(self, name: str) -> bool:
    # A file is renamed to its name after its content was written.
    changed_at = (self.folder / name).stat().st_ctime_ns
    return changed_at >= self._pushed_at - _CLOCK_NS

  def _new_chunks(self, name: str) -> dict[str, bytes]:
    """The chunks of a file that grows from the first that is not full on."""
    number = self._grown.get(name, 0) // CHUNK_BYTES
    with (self.folder / name).open('rb') as stream:
      stream.seek(number * CHUNK_BYTES)
      content = stream.read()
    if name.endswith('.jsonl'):
      content = content[: content.rfind(b'\n') + 1]
    end = number * CHUNK_BYTES + len(content)
    if end <= self._grown.get(name, 0):
      return {}
    self._grown[name] = end
    return {
      f'{name}/{number + start // CHUNK_BYTES:06d}': content[
        start : start + CHUNK_BYTES
      ]
      for start in range(0, len(content), CHUNK_BYTES)
    }


def open_for_reading(place: str | os.PathLike[str]) -> workdir.Workdir:
  """A run's work directory; of one at a URL, a copy of all but checkpoints.

  Raises:
    MirrorError: if the URL cannot be read, or is no work directory.
  """
  if not is_url(str(place)):
    return workdir.Workdir(pathlib.Path(place))
  remote = Remote(str(place))
  if remote.owner() is None:
    raise MirrorError(f'{place} is no work directory: it has no {_OWNER}')
  folder = folder_for(remote.url)
  folder = folder.with_name(f'{folder.name}.copy')
  names = remote.names() - {_OWNER}
  known = {name for name in names if name.startswith(_ONCE)}
  known = {name for name in known if (folder / name).is_file()}
  remote.copy_out(names - known, folder)
  return workdir.Workdir(folder, remote.url)


def local_folder(where: str) -> str:
  """A folder with the files that are right below a URL; a folder itself.

  Raises:
    MirrorError: if the URL cannot be read.
  """
  if not is_url(where):
    return where
  remote = Remote(where)
  names = {name for name in remote.names() if '/' not in name}
  if not names:
    raise MirrorError(f'there are no files at {where}')
  folder = folder_for(remote.url).with_name(f'{_key(remote.url)}.files')
  remote.copy_out(names, folder)
  return str(folder)

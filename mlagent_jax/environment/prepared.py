"""Prepared data of a task: made once, by one process, and checked by hash.

Several processes may ask at once: one of them prepares, under a file lock, in
a folder beside the final one that is renamed when every checksum is right. A
process that is killed on the way leaves a folder that the next one removes.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import pathlib
import shutil
from collections.abc import Iterator

from mlagent_jax.environment.task_folder import Task, TaskError

_MEMORY = 'checksums.json'


def check_prepared(task: Task) -> None:
  """Checks that a task's data is there and is what task.toml says.

  A file whose size and modification time are those of its last good check is
  not read again.

  Raises:
    TaskError: with the first thing that is wrong and what to do.
  """
  folder = task.prepared_folder
  remedy = f'run: python -m mlagent_jax.tasks prepare --task {task.name}'
  if not folder.is_dir():
    raise TaskError(f'{task.name}: its data is not prepared; {remedy}')
  wrong = _first_wrong(task, folder)
  if wrong:
    raise TaskError(f'{task.name}: {wrong}; {remedy}')


def prepare_task(task: Task) -> None:
  """Makes a task's data in the cache, unless it is there and right already.

  Raises:
    TaskError: prepare.py is missing or made something other than task.toml
      says; the message ends with the table [files] of what it made.
  """
  final = task.prepared_folder
  final.parent.mkdir(parents=True, exist_ok=True)
  with _locked(final.with_name(f'.{task.name}.lock')):
    if final.is_dir() and not _first_wrong(task, final):
      return
    made = final.with_name(f'.{task.name}.making')
    shutil.rmtree(made, ignore_errors=True)
    (made / 'public').mkdir(parents=True)
    # Nobody but the host's user reads the labels, whatever the sandbox is.
    (made / 'private').mkdir(mode=0o700)
    _run_prepare(task, made)
    _close(made)
    wrong = _first_wrong(task, made)
    if wrong:
      lines = '\n'.join(
        f"'{file.relative_to(made).as_posix()}' = '{_sha256(file)}'"
        for file in _files(made)
        if file.name != _MEMORY
      )
      raise TaskError(
        f'{task.folder / "prepare.py"}: what it made differs from'
        f' {task.folder / "task.toml"}: {wrong}. It made:\n[files]\n{lines}'
      )
    if final.exists():
      shutil.rmtree(final)
    made.rename(final)


def _run_prepare(task: Task, folder: pathlib.Path) -> None:
  file = task.folder / 'prepare.py'
  if not file.is_file():
    raise TaskError(f'{file}: there is no such file')
  name = f'prepare_{task.name.replace("-", "_")}'
  spec = importlib.util.spec_from_file_location(name, file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not callable(getattr(module, 'prepare', None)):
    raise TaskError(f'{file}: defines no function prepare(public, private)')
  module.prepare(folder / 'public', folder / 'private')


def _close(folder: pathlib.Path) -> None:
  """Sets who may read what: nobody else gets past private/ itself.

  Inside it, answers/ is open: it is shown to grading runs, whose user is not
  the host's.
  """
  for path in folder.rglob('*'):
    top, *inner = path.relative_to(folder).parts
    hidden = top == 'private' and inner[:1] != ['answers']
    if path.is_dir():
      path.chmod(0o700 if hidden else 0o755)
    elif not path.is_symlink():
      path.chmod(0o600 if hidden else 0o444)


def _first_wrong(task: Task, folder: pathlib.Path) -> str:
  """'' if every prepared file is right, else what is wrong."""
  memory_file = folder / _MEMORY
  known = {}
  if memory_file.is_file():
    with contextlib.suppress(json.JSONDecodeError):  # damaged: check anew
      known = json.loads(memory_file.read_text())
  seen = {}
  for name, expected in task.files.items():
    file = folder / name
    if not file.is_file():
      return f'{file} is missing'
    status = file.stat()
    # The inode too: an older file put in its place keeps its own times.
    mark = [status.st_size, status.st_mtime_ns, status.st_ino]
    remembered = known.get(name, {})
    if remembered.get('mark') == mark:
      digest = remembered['sha256']
    else:
      digest = _sha256(file)
    if digest != expected:
      return f'{file} has sha256 {digest}, expected {expected}'
    seen[name] = {'mark': mark, 'sha256': digest}
  extra = [
    file
    for file in _files(folder)
    if file != memory_file
    and file.relative_to(folder).as_posix() not in task.files
  ]
  if extra:
    return f'{extra[0]} is not in its table [files]'
  if seen != known and os.access(folder, os.W_OK):
    part = memory_file.with_name(f'.{_MEMORY}.{os.getpid()}')
    part.write_text(json.dumps(seen))
    part.rename(memory_file)
  return ''


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(
    file
    for file in folder.rglob('*')
    if file.is_file() and not file.name.startswith(f'.{_MEMORY}')
  )


def _sha256(file: pathlib.Path) -> str:
  with file.open('rb') as stream:
    return hashlib.file_digest(stream, 'sha256').hexdigest()


@contextlib.contextmanager
def _locked(file: pathlib.Path) -> Iterator[None]:
  with file.open('w') as stream:
    fcntl.flock(stream, fcntl.LOCK_EX)
    yield

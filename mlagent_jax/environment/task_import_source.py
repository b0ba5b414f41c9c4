"""What the readers of other people's task formats have in common."""

import ast
import contextlib
import dataclasses
import pathlib
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from mlagent_jax.environment.records import Limits, StoppedBy
from mlagent_jax.environment.sandbox import Sandbox
from mlagent_jax.environment.scratch import make_folder
from mlagent_jax.environment.task_folder import TaskError

# Of a run of a source's own prepare.py, which may unpack whole data sets.
_PREPARING = Limits(
  seconds=3600.0,
  memory_mb=16384,
  processes=256,
  file_mb=100_000,
  workspace_mb=400_000,
  cpus=2.0,
)
_MAX_COPIED_BYTES = 10 * 2**20


@dataclasses.dataclass(frozen=True)
class Source:
  """A task folder of another project, read and checked.

  Attributes:
    name: of our task.
    title, description, origin: texts of task.toml.
    grader: path in our grader/ -> the file that is copied there.
    facts: what prepare.py and the grader have to know; becomes source.json.
    starter: path in our starter/ -> the file that is copied there.
    entry: the script among them that makes the submission; '' if none.
    notes: what could not be carried over, as far as the folder shows.
  """

  name: str
  title: str
  description: str
  origin: str
  grader: Mapping[str, pathlib.Path]
  facts: Mapping[str, Any]
  starter: Mapping[str, pathlib.Path] = dataclasses.field(default_factory=dict)
  entry: str = ''
  notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Staged:
  """A source's data, before its rows are split.

  Attributes:
    answers: the file of answers, outside of the public folder; None if the
      grader brings its own.
    sample: name of the sample submission among the public files; or ''.
    links: path in starter/ -> where a link there leads to.
  """

  answers: pathlib.Path | None
  sample: str
  links: Mapping[str, str] = dataclasses.field(default_factory=dict)


def our_name(name: str) -> str:
  """A name that a task of ours may have: a-z, 0-9 and -."""
  plain = re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')
  if not plain:
    raise TaskError(f'the name {name!r} has no letter or digit; give --name')
  return plain


def read_text(file: pathlib.Path) -> str:
  """A file's text, which must not be empty.

  Raises:
    TaskError: names the file and what is wrong with it.
  """
  try:
    text = file.read_text(encoding='utf-8')
  except FileNotFoundError as error:
    raise TaskError(f'{file}: there is no such file') from error
  except (UnicodeDecodeError, OSError) as error:
    raise TaskError(f'{file}: cannot be read as text: {error}') from error
  if not text.strip():
    raise TaskError(f'{file}: is empty')
  if text.startswith('version https://git-lfs'):
    raise TaskError(f'{file}: is a Git LFS pointer; run: git lfs pull')
  return text


def check_function(
  file: pathlib.Path, name: str, arguments: Sequence[str] = ()
) -> ast.Module:
  """Parses a Python file and checks that it defines a function.

  Args:
    file: the source.
    name: of the function.
    arguments: names of its arguments; () allows any.

  Raises:
    TaskError: names the file and what is wrong.
  """
  try:
    tree = ast.parse(read_text(file), str(file))
  except SyntaxError as error:
    raise TaskError(f'{file}: line {error.lineno}: {error.msg}') from error
  for node in tree.body:
    if isinstance(node, ast.FunctionDef) and node.name == name:
      found = [argument.arg for argument in node.args.args]
      if arguments and found != list(arguments):
        raise TaskError(
          f'{file}: {name} must take ({", ".join(arguments)}), found'
          f' ({", ".join(found)})'
        )
      return tree
  raise TaskError(f'{file}: defines no function {name}')


def small_files(
  folder: pathlib.Path, skip: Sequence[str], notes: list[str]
) -> dict[str, pathlib.Path]:
  """Relative path -> file; large ones are left out, with a note."""
  found = {}
  for file in sorted(folder.rglob('*')):
    path = file.relative_to(folder)
    hidden = any(part.startswith(('.', '__pycache__')) for part in path.parts)
    if not file.is_file() or hidden or path.as_posix() in skip:
      continue
    if file.stat().st_size > _MAX_COPIED_BYTES:
      notes.append(
        f'{file}: larger than {_MAX_COPIED_BYTES >> 20} MiB, so not copied to'
        ' grader/'
      )
      continue
    found[path.as_posix()] = file
  return found


def run_prepare(
  command: Sequence[str],
  workspace: pathlib.Path,
  sandbox: Sandbox,
  script: pathlib.Path,
  remedy: str,
) -> None:
  """Runs a source's own prepare.py in a sandbox, without network.

  Args:
    command: what to run.
    workspace: a copy of all that it needs; it may write anywhere in it.
    sandbox: where.
    script: what the message names.
    remedy: what the person can do if it fails.

  Raises:
    TaskError: if it fails, or leaves links behind.
  """
  done = sandbox.run(command, workspace, _PREPARING)
  if done.exit_code or done.stopped_by is not StoppedBy.NOTHING:
    why = done.stopped_by or f'exit code {done.exit_code}'
    raise TaskError(
      f'{script}: failed in the sandbox, which has no network ({why}):'
      f' {done.output.strip()[-600:]}\n{remedy}'
    )
  for path in workspace.rglob('*'):
    if path.is_symlink():
      raise TaskError(
        f'{script}: made a link, {path.relative_to(workspace)}; only files'
        ' can be carried over'
      )


def make_workspace() -> contextlib.AbstractContextManager[pathlib.Path]:
  """A folder for one preparation."""
  return make_folder('import')


def move_content(source: pathlib.Path, target: pathlib.Path) -> None:
  """Moves all that a folder holds into another one."""
  for path in sorted(source.iterdir()):
    shutil.move(path, target / path.name)

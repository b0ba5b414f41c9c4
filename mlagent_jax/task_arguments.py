"""Arguments that commands of `tasks` share, and the tasks they choose."""

import argparse
import importlib.util
import pathlib
import sys
from collections.abc import Sequence

from mlagent_jax import paths
from mlagent_jax.environment import task_folder


def add_check(parser: argparse.ArgumentParser) -> None:
  """How `check` runs and what it shows."""
  parser.add_argument(
    '--tolerance',
    type=float,
    default=1e-3,
    help='relative difference from m_init that is let pass (default: 0.001)',
  )
  parser.add_argument(
    '--repeat',
    type=int,
    default=1,
    metavar='N',
    help='runs each starter N times and shows how far its scores spread',
  )
  parser.add_argument(
    '--script',
    type=pathlib.Path,
    metavar='FILE',
    help='runs this in place of the starter; needs --task',
  )
  parser.add_argument(
    '--strong',
    type=pathlib.Path,
    metavar='FOLDER',
    help='runs FOLDER/NAME.py too, which must be better than the starter'
    ' (default with --all: tests/tasks/strong of the repository)',
  )
  parser.add_argument(
    '--json', action='store_true', help='prints JSON instead of a table'
  )


def add_import(parser: argparse.ArgumentParser) -> None:
  """What is imported, and where to."""
  parser.add_argument(
    '--from', dest='source', required=True, help='mlagentbench or mlebench'
  )
  parser.add_argument('folder', type=pathlib.Path, help="the task's folder")
  parser.add_argument(
    '--out',
    type=pathlib.Path,
    help='the folder that gets the new one (default: tasks/imported)',
  )
  parser.add_argument(
    '--data', type=pathlib.Path, help='where its data are, if elsewhere'
  )
  parser.add_argument('--name', default='', help='of the new task')
  parser.add_argument(
    '--entry', default='', help='the script in env/ that makes the submission'
  )
  parser.add_argument(
    '--strong',
    type=pathlib.Path,
    metavar='FILE',
    help='a script that is better than the starter: m_best and p_best',
  )
  parser.add_argument(
    '--higher_is_better',
    choices=('true', 'false'),
    help='the direction of the score, if it cannot be found out',
  )
  add_sandbox(parser)


def add_choice(parser: argparse.ArgumentParser) -> None:
  """Which tasks; see `chosen`."""
  group = parser.add_mutually_exclusive_group()
  group.add_argument(
    '--task',
    action='append',
    metavar='NAME',
    help='a name or a folder; may be given again',
  )
  group.add_argument(
    '--config',
    type=pathlib.Path,
    metavar='FILE',
    help='the tasks that a config trains on and holds out',
  )
  group.add_argument(
    '--all', action='store_true', help='every task (the default)'
  )


def add_sandbox(parser: argparse.ArgumentParser) -> None:
  """Which sandbox."""
  parser.add_argument(
    '--sandbox',
    default='auto',
    help="'auto' (the strongest that works here), or its kind",
  )


def chosen(options: argparse.Namespace) -> list[task_folder.Task]:
  """The tasks of `add_choice`.

  Raises:
    TaskError: if one is not there or not right, or the config file is none.
  """
  names = options.task
  if options.config:
    names = _names_in_config(options.config)
  names = names or all_names()
  return [task_folder.load_task(name) for name in names]


def all_names() -> list[str]:
  """Of every suite: the offline tasks, and those that were imported."""
  suites = sorted(p.name for p in paths.top_folder('tasks').iterdir())
  return [name for s in suites for name in task_folder.list_tasks(s)]


def _names_in_config(file: pathlib.Path) -> list[str]:
  # Configs import each other as `configs.NAME`, from wherever this was started.
  sys.path.insert(0, str(paths.top_folder('configs').parent))
  spec = importlib.util.spec_from_file_location('chosen_config', file)
  if spec is None or not file.is_file():
    raise task_folder.TaskError(f'--config: {file} is no config file')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  tasks = module.get_config().tasks
  return [*tasks.train, *tasks.held_out]


def strong_scripts(
  options: argparse.Namespace, tasks: Sequence[task_folder.Task]
) -> dict[str, bytes]:
  """Task -> the stronger script that `check` runs too.

  Raises:
    TaskError: if --strong is no folder or a script cannot be read.
  """
  folder = options.strong
  if folder and not folder.is_dir():
    raise task_folder.TaskError(f'--strong: {folder} is no folder')
  if folder is None and options.all:
    # An installed package comes without the tests.
    folder = paths.top_folder('tasks').parent / 'tests' / 'tasks' / 'strong'
  files = {task.name: folder / f'{task.name}.py' for task in tasks if folder}
  return {
    name: read('--strong', file)
    for name, file in files.items()
    if file.is_file()
  }


def read(flag: str, file: pathlib.Path) -> bytes:
  """What a file holds that a flag names.

  Raises:
    TaskError: if it cannot be read; the message names the flag.
  """
  try:
    return file.read_bytes()
  except OSError as error:
    raise task_folder.TaskError(f'{flag}: {error}') from error

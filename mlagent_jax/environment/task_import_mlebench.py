"""Reads MLE-bench competitions (arXiv 2410.07095; mlebench/competitions/ID).

  config.yaml      id, name, description, dataset.{answers,sample_submission},
                   grader.{name,grade_fn}, preparer
  prepare.py       prepare(raw, public, private)
  grade.py         grade(submission, answers) -> float
  description.md   what the agent is told
  leaderboard.csv  Kaggle's, best first

The data are elsewhere: DATA/raw as downloaded from Kaggle, or DATA/prepared
with public/ and private/ if `mlebench prepare` was run.
"""

import ast
import csv
import pathlib
import shutil

from mlagent_jax.environment import task_import_mlebench_grader as stand_in
from mlagent_jax.environment.sandbox import Sandbox
from mlagent_jax.environment.task_folder import TaskError
from mlagent_jax.environment.task_import_source import (
  Source,
  Staged,
  check_function,
  make_workspace,
  move_content,
  our_name,
  read_text,
  run_prepare,
  small_files,
)

_PACKAGE = 'mlebench.competitions.'
_NOT_COPIED = (
  'config.yaml',
  'leaderboard.csv',
  'checksums.yaml',
  'description.md',
  'description_obfuscated.md',
  'kernels.txt',
)


def read(folder: pathlib.Path) -> Source:
  """Reads and checks a competition's folder.

  Raises:
    TaskError: names the file and the field that is not right.
  """
  file = folder / 'config.yaml'
  config = _read_config(file)
  identity = _text(file, config, 'id')
  grade = _function(file, config, 'grader.grade_fn', folder, ())
  arguments = ('raw', 'public', 'private')
  prepare = _function(file, config, 'preparer', folder, arguments)
  notes: list[str] = []
  files = small_files(folder, _NOT_COPIED, notes)
  described = pathlib.PurePosixPath(_text(file, config, 'description')).name
  if 'gold_submission' in config['dataset']:
    notes.append('dataset.gold_submission: the answers serve in its place')
  notes.append(
    'medals and the leaderboard: scores are compared with m_init and m_best'
  )
  grader = {f'competitions/{folder.name}/{k}': v for k, v in files.items()}
  grader['grade.py'] = pathlib.Path(stand_in.__file__)
  return Source(
    name=our_name(identity),
    title=_text(file, config, 'name'),
    description=read_text(folder / described),
    origin=f'MLE-bench (arXiv 2410.07095), competition {identity}',
    grader=grader,
    facts={
      'from': 'mlebench',
      'competition': identity,
      'grade': grade,
      'prepare': prepare,
      'answers': _inside(file, config, 'dataset.answers', 'private'),
      'sample': _inside(file, config, 'dataset.sample_submission', 'public'),
    },
    notes=tuple(notes),
  )


def stage(
  facts: dict,
  grader: pathlib.Path,
  data: pathlib.Path,
  work: pathlib.Path,
  public: pathlib.Path,
  sandbox: Sandbox,
) -> Staged:
  """Brings a competition's data into `public` and a folder of its own.

  Args:
    facts: of `Source`.
    grader: our folder of the competition's code.
    data: holds prepared/public and prepared/private, or raw.
    work: an empty folder that outlives the result.
    public: an empty folder.
    sandbox: where the competition's prepare.py runs, if it has to.

  Raises:
    TaskError: if there are no data, or preparing them fails.
  """
  private = work / 'private'
  prepared = data / 'prepared'
  if _filled(prepared / 'public') and _filled(prepared / 'private'):
    shutil.copytree(prepared / 'public', public, dirs_exist_ok=True)
    shutil.copytree(prepared / 'private', private)
  elif _filled(data / 'raw'):
    with make_workspace() as name:
      workspace = pathlib.Path(name)
      shutil.copytree(data / 'raw', workspace / 'raw')
      shutil.copytree(grader, workspace / 'grader')
      run_prepare(
        ('python', 'grader/grade.py'),
        workspace,
        sandbox,
        grader / 'competitions' / facts['prepare'].split('.')[2] / 'prepare.py',
        f'If it needs what a sandbox lacks, run `mlebench prepare -c'
        f' {facts["competition"]}` and give its data folder.',
      )
      private.mkdir()
      move_content(workspace / 'public', public)
      move_content(workspace / 'private', private)
  else:
    raise TaskError(
      f'{data}: holds neither prepared/public and prepared/private nor raw'
    )
  answers = private / facts['answers']
  if not answers.is_file():
    raise TaskError(
      f'config.yaml: dataset.answers: preparing the data made no private file'
      f' {facts["answers"]}'
    )
  sample = facts['sample']
  return Staged(answers, sample if (public / sample).is_file() else '')


def leaderboard(folder: pathlib.Path) -> tuple[float, float] | None:
  """(best, worst) score on Kaggle's leaderboard, if the file is there."""
  file = folder / 'leaderboard.csv'
  if not file.is_file() or file.stat().st_size < 200:  # a Git LFS pointer
    return None
  with file.open(encoding='utf-8', newline='') as stream:
    rows = [row.get('score') for row in csv.DictReader(stream)]
  try:
    return float(rows[0]), float(rows[-1])
  except (TypeError, ValueError, IndexError):
    return None


def _filled(folder: pathlib.Path) -> bool:
  return folder.is_dir() and any(folder.iterdir())


def _read_config(file: pathlib.Path) -> dict:
  import yaml  # transformers brings it

  try:
    config = yaml.safe_load(read_text(file))
  except yaml.YAMLError as error:
    raise TaskError(f'{file}: not valid YAML: {error}') from error
  if not isinstance(config, dict):
    raise TaskError(f'{file}: must hold fields, found {type(config).__name__}')
  for name in ('dataset', 'grader'):
    if not isinstance(config.get(name), dict):
      raise TaskError(f'{file}: missing field {name}')
  return config


def _text(file: pathlib.Path, config: dict, field: str) -> str:
  value = config
  for name in field.split('.'):
    value = value.get(name)
  if value is None:
    raise TaskError(f'{file}: missing field {field}')
  if not isinstance(value, str) or not value.strip():
    raise TaskError(f'{file}: {field}: must be a text, found {value!r}')
  return value


def _inside(file: pathlib.Path, config: dict, field: str, top: str) -> str:
  """The part of a path below prepared/public or prepared/private."""
  path = pathlib.PurePosixPath(_text(file, config, field))
  parts = path.parts
  if top not in parts or '..' in parts or path.name == top:
    raise TaskError(
      f'{file}: {field}: must be a path in …/prepared/{top}/, found'
      f' {str(path)!r}'
    )
  return '/'.join(parts[parts.index(top) + 1 :])


def _function(
  file: pathlib.Path,
  config: dict,
  field: str,
  folder: pathlib.Path,
  arguments: tuple[str, ...],
) -> str:
  """Checks 'mlebench.competitions.ID.module:function'; the text."""
  name = _text(file, config, field)
  module, _, function = name.partition(':')
  expected = f'{_PACKAGE}{folder.name}.'
  if not module.startswith(expected) or not function:
    raise TaskError(
      f'{file}: {field}: must be {expected}MODULE:FUNCTION, found {name!r}'
    )
  path = folder / (module.removeprefix(expected).replace('.', '/') + '.py')
  _check_imports(path, check_function(path, function, arguments), folder, set())
  return name


def _check_imports(
  file: pathlib.Path, tree: ast.Module, folder: pathlib.Path, seen: set
) -> None:
  """Refuses helpers of `mlebench` that have no stand-in here."""
  seen.add(file)
  for node in ast.walk(tree):
    names = []
    if isinstance(node, ast.ImportFrom):
      names = [(node.module or '', alias.name) for alias in node.names]
      own = (node.module or '').removeprefix(f'{_PACKAGE}{folder.name}')
      if node.level or own != (node.module or ''):
        for module in [own.lstrip('.')] if own else [n for _, n in names]:
          path = folder / (module.replace('.', '/') + '.py')
          if path.is_file() and path not in seen:
            inner = ast.parse(read_text(path), str(path))
            _check_imports(path, inner, folder, seen)
        continue
    elif isinstance(node, ast.Import):
      names = [(alias.name, '') for alias in node.names]
    for module, name in names:
      if module.split('.')[0] != 'mlebench':
        continue
      known = [item.__name__ for item in stand_in.PROVIDED.get(module, ())]
      if name not in known:
        raise TaskError(
          f'{file}: line {node.lineno}: imports {module}.{name}, for'
          ' which there is no stand-in here; put what it needs beside it'
        )

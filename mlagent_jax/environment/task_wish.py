"""What a person says of their own folder, and what is still to be asked.

How a result is scored, they say in one of two ways:

  a table   --data=train.csv --target=price --id=row --metric=mae. The script
            reads that table, and predicts the rows of another one (--test,
            test.csv by default) in submission.csv.
  printed   --score_pattern='MAE: ([0-9.]+)' --data=houses.csv. The script
            prints its own score.
"""

import dataclasses
import pathlib
import re
from collections.abc import Sequence

from mlagent_jax.environment import task_import_tables as tables
from mlagent_jax.environment import workspace
from mlagent_jax.environment.task_folder import TaskError

# Metrics of one target column as it stands in a table.
TABLE_METRICS = (
  'accuracy',
  'auc',
  'log_loss',
  'mae',
  'map_at_5',
  'pearson',
  'qwk',
  'rmse',
  'rmsle',
)
LEAST_ROWS = 50  # of a table that is split
_LEFT_OUT = frozenset(
  '.git .hg .svn .venv venv __pycache__ node_modules .ipynb_checkpoints'
  ' .pytest_cache .ruff_cache .mypy_cache'.split()
)


@dataclasses.dataclass(frozen=True)
class Wish:
  """What a person says of their folder; flags of solve.py.

  Attributes:
    folder: theirs; it is only read.
    script: the one to improve, relative to it; '' if there is only one.
    data: the table with the labels or examples, relative to it.
    target: label column ('table').
    id_column: whose values name rows in submission.csv ('table').
    test: under which name the script reads the rows to predict, relative to
      the folder ('table').
    metric: one of TABLE_METRICS ('table').
    score_pattern: regular expression with one group ('printed').
    higher_is_better: 'true' or 'false' ('printed').
    description: what the script is for, in a person's words.
    seconds: limit of one run.
    memory_mb: limit of one run, MiB.
    cpus: limit of one run.
  """

  folder: pathlib.Path
  script: str = ''
  data: str = ''
  target: str = ''
  id_column: str = ''
  test: str = 'test.csv'
  metric: str = ''
  score_pattern: str = ''
  higher_is_better: str = ''
  description: str = ''
  seconds: float = 600.0
  memory_mb: int = 8192
  cpus: float = 1.0

  @property
  def printed(self) -> bool:
    """Whether the script prints its own score."""
    return bool(self.score_pattern)


def complete(wish: Wish) -> Wish:
  """Fills in what can be found out, and asks for the rest, all at once.

  Raises:
    TaskError: lists everything that is missing or wrong, with choices.
  """
  folder = wish.folder
  if not folder.is_dir():
    raise TaskError(f'--task: {folder} is not a folder')
  asks: list[str] = []
  wish = dataclasses.replace(wish, script=_script(wish, asks))
  header = _header(wish, asks)
  wish = dataclasses.replace(wish, test=_test(wish, asks))
  asks += _wrong_limits(wish)
  if wish.printed:
    asks += _wrong_pattern(wish.score_pattern)
    if wish.metric:
      asks.append('--metric or --score_pattern: give one of them, not both')
    if wish.higher_is_better not in ('true', 'false'):
      asks.append('--higher_is_better=true or =false: of the printed score')
  elif not wish.metric:
    asks.append(
      '--metric: how a result is scored, one of '
      + ', '.join(TABLE_METRICS)
      + '; or --score_pattern, if the script prints its score, such as'
      " --score_pattern='MAE: ([-+.0-9e]+)'"
    )
  elif wish.metric not in TABLE_METRICS:
    asks.append(
      f'--metric: {wish.metric!r} is none of {", ".join(TABLE_METRICS)}'
    )
  if header and wish.metric in TABLE_METRICS and not wish.printed:
    asks += _missing_columns(wish, header)
  if asks:
    lines = '\n'.join(f'  - {item}' for item in asks)
    raise TaskError(f'{folder}: to set this up, please say:\n{lines}')
  return wish


def _script(wish: Wish, asks: list[str]) -> str:
  scripts = sorted(
    path.relative_to(wish.folder).as_posix()
    for path in files_of(wish.folder)
    if path.suffix == '.py'
  )
  if wish.script:
    if wish.script not in scripts:
      asks.append(
        f'--script: there is no Python script {wish.script!r}; there are:'
        f' {", ".join(scripts[:20]) or "none"}'
      )
    return wish.script
  if len(scripts) == 1:
    return scripts[0]
  asks.append(
    f'--script: which one to improve: {", ".join(scripts[:20])}'
    if scripts
    else '--script: the folder has no Python script'
  )
  return ''


def _header(wish: Wish, asks: list[str]) -> list[str]:
  """Columns of the table; [] if something is wrong with it."""
  found = sorted(
    path.relative_to(wish.folder).as_posix()
    for path in files_of(wish.folder)
    if path.suffix.lower() == '.csv'
  )
  if wish.data not in found:
    what = f'there is no table {wish.data!r}' if wish.data else 'which table'
    asks.append(
      f'--data: {what} holds the rows to learn from; CSV files here:'
      f' {", ".join(found[:20]) or "none"}'
    )
    return []
  try:
    table = tables.read(wish.folder / wish.data)
  except tables.Impossible as error:
    asks.append(f'--data: {error}')
    return []
  if len(table.rows) < LEAST_ROWS:
    asks.append(
      f'--data: {wish.data} has {len(table.rows)} rows; holding some back'
      f' needs at least {LEAST_ROWS}'
    )
    return []
  return list(table.header)


def _test(wish: Wish, asks: list[str]) -> str:
  """The name of the rows to predict; a file of the task, never another one."""
  try:
    plain = workspace.normalise(wish.test)
  except workspace.PathError as error:
    asks.append(f'--test: {error} It is a name inside of --task.')
    return wish.test
  if plain in ('.', wish.script, wish.data):
    asks.append(
      f'--test: {wish.test!r} cannot be where the rows to predict are written:'
      ' name a file that is neither --script nor --data'
    )
  return plain


def _wrong_limits(wish: Wish) -> list[str]:
  return [
    f'--{name}: must be above 0, not {getattr(wish, name):g}'
    for name in ('seconds', 'memory_mb', 'cpus')
    if not getattr(wish, name) > 0
  ]


def _wrong_pattern(pattern: str) -> list[str]:
  try:
    groups = re.compile(pattern).groups
  except re.error as error:
    return [f'--score_pattern: {pattern!r} is no regular expression: {error}']
  if groups != 1:
    return [
      f'--score_pattern: {pattern!r} has {groups} groups; it needs one, in'
      ' parentheses, for the number'
    ]
  return []


def _missing_columns(wish: Wish, header: Sequence[str]) -> list[str]:
  asks = []
  shown = ', '.join(header[:40])
  for flag, column, what in (
    ('--target', wish.target, 'the column to predict'),
    ('--id', wish.id_column, 'the column that names the rows'),
  ):
    if not column:
      asks.append(f'{flag}: {what}; columns of {wish.data}: {shown}')
    elif column not in header:
      asks.append(f'{flag}: {wish.data} has no column {column!r}, but: {shown}')
  if not asks and wish.target == wish.id_column:
    asks.append(f'--id: {wish.id_column!r} is the target too')
  if not asks:
    ids = tables.read(wish.folder / wish.data).column(wish.id_column)
    if len(set(ids)) < len(ids):
      asks.append(
        f'--id: {wish.id_column!r} names {len(ids) - len(set(ids))} rows twice'
      )
  return asks


def files_of(folder: pathlib.Path) -> list[pathlib.Path]:
  """Regular files of the folder, hidden and made ones left out."""
  return sorted(
    file
    for file in folder.rglob('*')
    if file.is_file()
    and not any(
      part in _LEFT_OUT or part.startswith('.')
      for part in file.relative_to(folder).parts
    )
  )

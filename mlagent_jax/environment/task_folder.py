"""Task folders: task.toml -> Task, every mistake named by file and field.

A task is a folder tasks/SUITE/NAME:

  task.toml    what `load_task` reads; the fields are `Task`'s
  prepare.py   defines `prepare(public: pathlib.Path, private: pathlib.Path)`
  starter/     what a workspace starts from; holds the entry script

`mlagent_jax.environment.prepared` runs prepare.py once, into the cache folder:

  CACHE/tasks/NAME/public/    what scripts see, read-only, as ./data
  CACHE/tasks/NAME/private/   labels.csv: id column, `split` ('validation' or
                              'test'), target columns. Host only.

A submission has the id column and the target columns, one row for each row of
labels.csv, under the same names in both files:

  accuracy                          the label, as text or number
  log_loss                          one column: labels 0/1 and the probability
                                    of 1; several: one-hot labels and the
                                    probability of each
  auc                               labels 0/1 and any number, per column
  mae rmse mcrmse rmsle pearson     numbers
  qwk                               integers
  map_at_5                          a label; up to five, spaces between
  custom                            what the task's own grader takes
  printed                           none: the script prints its score

With metric = 'custom' a task brings its grader: a folder grader/ and a table
[grader] (see `Grader`, and `mlagent_jax.environment.custom_grading` for how it
is called). labels.csv then holds the id column and `split` only; what the
grader compares with is in private/answers/validation/ and /test/, which is
shown to the grader's run and to no other.

With metric = 'printed' the score is the last thing in the script's output that
`score_pattern` (a regular expression with one group) matches. There are no
labels and no submission, and the one score counts as validation and as test.
A script can print what it likes: such a task is for a person's own work
(`mlagent_jax.solve`), where the person reads the change, never for training.
"""

import dataclasses
import glob
import hashlib
import json
import math
import pathlib
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from mlagent_jax import paths
from mlagent_jax.environment.metrics import METRICS, Metric
from mlagent_jax.environment.records import Limits, Scale

LABELS = 'private/labels.csv'
ANSWERS = 'private/answers'
CUSTOM = 'custom'
PRINTED = 'printed'


class TaskError(ValueError):
  """A task folder, or its prepared data, is not what it should be."""


@dataclasses.dataclass(frozen=True)
class Grader:
  """A grader that comes with a task; table [grader] of task.toml.

  Attributes:
    script: a file in grader/ that defines `grade(submission, answers)`.
    number_columns: target columns that must hold finite numbers; the others
      may hold any text.
    by_rows: whether the validation and the test rows are graded apart. If
      not, the grader gets the file as the agent wrote it, there is one score,
      and it counts as both: `id_column` and `target_columns` are left out.
    limits: of one grading run; fields `seconds` and `memory_mb`.
  """

  script: str
  number_columns: tuple[str, ...] = ()
  by_rows: bool = True
  limits: Limits = Limits(seconds=120.0, memory_mb=4096, workspace_mb=1024)


@dataclasses.dataclass(frozen=True)
class Task:
  """One task. Fields without a default must be in task.toml.

  Attributes:
    folder: where task.toml was found (not a field of it).
    name: the folder's name.
    title: a few words.
    description: what the agent is told: data files, goal, submission.
    kind: 'image', 'tabular', 'text' or 'graph'.
    metric: a name in `mlagent_jax.environment.metrics.METRICS`, 'custom' or
      'printed'.
    entry: the script, in starter/, that an edit is scored by.
    id_column, target_columns: columns of a submission, and of labels.csv.
    scale: higher_is_better, m_init, m_best (validation), p_init, p_best
      (test): fields of their own in task.toml.
    limits: of one run of a script; table [limits], fields of `Limits`.
    source, licence: of the data.
    files: table [files]: 'public/train.csv' = sha256 of each prepared file.
    stands_for: the task of the paper that this one stands for, if any.
    grader: of metric 'custom'; None for all others.
    score_pattern: of metric 'printed'; '' for all others.
  """

  folder: pathlib.Path
  name: str
  title: str
  description: str
  kind: str
  metric: str
  entry: str
  id_column: str
  target_columns: tuple[str, ...]
  scale: Scale
  limits: Limits
  source: str
  licence: str
  files: Mapping[str, str]
  stands_for: str = ''
  grader: Grader | None = None
  score_pattern: str = ''

  @property
  def starter_folder(self) -> pathlib.Path:
    """The files a workspace starts from."""
    return self.folder / 'starter'

  @property
  def prepared_folder(self) -> pathlib.Path:
    """Holds public/ and private/ once the task was prepared."""
    return paths.cache_folder() / 'tasks' / self.name

  @property
  def data_folder(self) -> pathlib.Path:
    """What scripts see as ./data."""
    return self.prepared_folder / 'public'

  @property
  def labels_file(self) -> pathlib.Path:
    """Validation and test labels; never visible in a sandbox."""
    return self.prepared_folder / LABELS

  @property
  def grader_folder(self) -> pathlib.Path:
    """The code of the task's own grader."""
    return self.folder / 'grader'

  @property
  def answers_folder(self) -> pathlib.Path:
    """What the task's own grader compares with; for its runs alone."""
    return self.prepared_folder / ANSWERS

  @property
  def scoring(self) -> Metric:
    """The metric's function and demands; 'custom' has none."""
    return METRICS[self.metric]

  @property
  def data_hash(self) -> str:
    """SHA-256 of the names and contents of the public files."""
    public = {k: v for k, v in self.files.items() if k.startswith('public/')}
    text = json.dumps(public, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


_KINDS = ('image', 'tabular', 'text', 'graph')
_TEXTS = (
  'name',
  'title',
  'description',
  'kind',
  'metric',
  'entry',
  'id_column',
  'source',
  'licence',
)
_NUMBERS = ('m_init', 'm_best', 'p_init', 'p_best')
_REQUIRED = (
  *_TEXTS,
  'target_columns',
  'higher_is_better',
  *_NUMBERS,
  'files',
)
_OPTIONAL = ('limits', 'stands_for')
_COLUMNS = ('id_column', 'target_columns')
_GRADER = ('number_columns', 'by_rows', 'seconds', 'memory_mb')
_LIMITS = {field.name: field for field in dataclasses.fields(Limits)}


def load_task(name_or_path: str | pathlib.Path) -> Task:
  """Reads and checks a task folder.

  Args:
    name_or_path: a name in any suite ('ames'), or the path of a folder.

  Raises:
    TaskError: no such task, or its task.toml is not right; the message names
      the file and the field.
  """
  folder = _find(name_or_path)
  file = folder / 'task.toml'
  try:
    fields = tomllib.loads(file.read_text(encoding='utf-8'))
  except FileNotFoundError as error:
    raise TaskError(f'{file}: there is no such file') from error
  except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
    raise TaskError(f'{file}: not valid TOML: {error}') from error
  grader = _read_grader(file, fields)
  pattern = _read_pattern(file, fields)
  absent = _COLUMNS if pattern or (grader and not grader.by_rows) else ()
  required = [name for name in _REQUIRED if name not in absent]
  texts = [name for name in _TEXTS if name not in absent]
  optional = (
    *_OPTIONAL,
    *(('grader',) if grader else ()),
    *(('score_pattern',) if pattern else ()),
  )
  _check_names(file, '', fields, required, optional)
  for name in texts:
    if not isinstance(fields[name], str) or not fields[name].strip():
      _refuse(file, name, 'must be a non-empty text', fields[name])
  if fields['name'] != folder.name:
    _refuse(file, 'name', f'must be the folder name {folder.name!r}', fields)
  if not re.fullmatch(r'[a-z0-9][a-z0-9-]*', fields['name']):
    _refuse(file, 'name', 'must be of a-z, 0-9 and -', fields['name'])
  if fields['kind'] not in _KINDS:
    _refuse(file, 'kind', f'must be one of {", ".join(_KINDS)}', fields['kind'])
  columns = () if absent else _read_columns(file, fields)
  if grader and (extra := set(grader.number_columns) - set(columns)):
    _refuse(
      file, 'grader.number_columns', 'must be of target_columns', min(extra)
    )
  scale = _read_scale(file, fields)
  entry = pathlib.PurePosixPath(fields['entry'])
  if entry.is_absolute() or '..' in entry.parts:
    _refuse(file, 'entry', 'must be a path inside starter/', fields['entry'])
  if not (folder / 'starter' / entry).is_file():
    raise TaskError(
      f'{file}: entry: there is no file {folder / "starter" / entry}'
    )
  stands_for = fields.get('stands_for', '')
  if not isinstance(stands_for, str):
    _refuse(file, 'stands_for', 'must be a text', stands_for)
  return Task(
    folder=folder,
    target_columns=columns,
    scale=scale,
    limits=_read_limits(file, fields.get('limits', {})),
    files=_read_files(file, fields['files'], grader, labelled=not pattern),
    stands_for=stands_for,
    grader=grader,
    score_pattern=pattern,
    **{'id_column': ''} | {name: fields[name] for name in texts},
  )


def list_tasks(suite: str = 'offline') -> tuple[str, ...]:
  """Names of a suite's tasks, sorted.

  Raises:
    TaskError: if there is no such suite.
  """
  folder = paths.top_folder('tasks') / suite
  if not folder.is_dir():
    known = sorted(p.name for p in folder.parent.iterdir() if p.is_dir())
    raise TaskError(f'no suite {suite!r}: there are {", ".join(known)}')
  return tuple(sorted(file.parent.name for file in folder.glob('*/task.toml')))


def _find(name_or_path: str | pathlib.Path) -> pathlib.Path:
  path = pathlib.Path(name_or_path)
  is_name = isinstance(name_or_path, str) and len(path.parts) == 1
  if is_name and name_or_path not in ('.', '..'):
    exactly = glob.escape(name_or_path)
    found = sorted(paths.top_folder('tasks').glob(f'*/{exactly}/task.toml'))
    if found:
      return found[0].parent
  if path.is_dir():
    return path.resolve()
  tasks = paths.top_folder('tasks')
  known = ', '.join(sorted(f.parent.name for f in tasks.glob('*/*/task.toml')))
  raise TaskError(
    f'no task {str(name_or_path)!r}: neither a folder nor one of {known}'
  )


def _refuse(file, field: str, expected: str, found: Any):
  if isinstance(found, dict):
    found = found.get(field)
  raise TaskError(f'{file}: {field}: {expected}, found {found!r}')


def _check_names(file, prefix: str, fields, required, optional) -> None:
  missing = [name for name in required if name not in fields]
  if missing:
    raise TaskError(f'{file}: missing field {", ".join(missing)}')
  unknown = [name for name in fields if name not in (*required, *optional)]
  if unknown:
    names = ', '.join(prefix + name for name in unknown)
    known = ', '.join((*required, *optional))
    raise TaskError(f'{file}: unknown field {names}; the fields are {known}')


def _is_number(value: Any) -> bool:
  return (
    isinstance(value, (int, float))
    and not isinstance(value, bool)
    and math.isfinite(value)
  )


def _read_columns(file, fields) -> tuple[str, ...]:
  columns = fields['target_columns']
  if (
    not isinstance(columns, list)
    or not columns
    or not all(isinstance(c, str) and c for c in columns)
  ):
    _refuse(file, 'target_columns', 'must be a list of names', columns)
  reserved = (fields['id_column'], 'split')
  clashes = [c for c in columns if c in reserved or columns.count(c) > 1]
  if fields['id_column'] == 'split' or clashes:
    _refuse(
      file,
      'target_columns',
      'must be distinct, and neither the id column nor "split"',
      columns,
    )
  return tuple(columns)


def _read_grader(file, fields) -> Grader | None:
  """The table [grader], which is there exactly if the metric is 'custom'."""
  if fields.get('metric') != CUSTOM:
    return None  # a table [grader] is an unknown field then
  table = fields.get('grader')
  if not isinstance(table, dict):
    _refuse(file, 'grader', "must be a table: metric is 'custom'", table)
  _check_names(file, 'grader.', table, ('script',), _GRADER)
  script = table['script']
  if not isinstance(script, str) or pathlib.PurePath(script).name != script:
    _refuse(file, 'grader.script', 'must be the name of a file', script)
  if not (file.parent / 'grader' / script).is_file():
    raise TaskError(
      f'{file}: grader.script: there is no file'
      f' {file.parent / "grader" / script}'
    )
  numbers = table.get('number_columns', [])
  if not isinstance(numbers, list) or not all(
    isinstance(name, str) for name in numbers
  ):
    _refuse(file, 'grader.number_columns', 'must be a list of names', numbers)
  by_rows = table.get('by_rows', True)
  if not isinstance(by_rows, bool):
    _refuse(file, 'grader.by_rows', 'must be true or false', by_rows)
  chosen = {name: table[name] for name in _GRADER[2:] if name in table}
  default = dataclasses.asdict(Grader('').limits)
  limits = _read_limits(file, {**default, **chosen}, 'grader')
  return Grader(script, tuple(numbers), by_rows, limits)


def _read_pattern(file, fields) -> str:
  """The field score_pattern, which is there exactly if scores are printed."""
  if fields.get('metric') != PRINTED:
    return ''  # score_pattern is an unknown field then
  pattern = fields.get('score_pattern')
  try:
    groups = re.compile(pattern).groups
  except (re.error, TypeError) as error:
    raise TaskError(
      f'{file}: score_pattern: must be a regular expression ({error}), found'
      f' {pattern!r}'
    ) from error
  if groups != 1:
    _refuse(file, 'score_pattern', 'must have one group, the number', pattern)
  return pattern


def _read_scale(file, fields) -> Scale:
  metric = METRICS.get(fields['metric'])
  custom = fields['metric'] in (CUSTOM, PRINTED)
  if metric is None and not custom:
    known = ', '.join((*METRICS, CUSTOM, PRINTED))
    _refuse(file, 'metric', f'must be one of {known}', fields['metric'])
  if not custom and metric.one_column and len(fields['target_columns']) > 1:
    _refuse(
      file,
      'target_columns',
      f'metric {fields["metric"]} is defined for one column',
      fields['target_columns'],
    )
  higher = fields['higher_is_better']
  if not isinstance(higher, bool):
    _refuse(file, 'higher_is_better', 'must be true or false', higher)
  if not custom and higher != metric.higher_is_better:
    better = 'higher' if metric.higher_is_better else 'lower'
    _refuse(
      file,
      'higher_is_better',
      f'of {fields["metric"]}, {better} is better',
      str(higher).lower(),
    )
  for name in _NUMBERS:
    if not _is_number(fields[name]):
      _refuse(file, name, 'must be a finite number', fields[name])
  scale = Scale(higher, *(float(fields[name]) for name in _NUMBERS))
  for init, best in (('m_init', 'm_best'), ('p_init', 'p_best')):
    if scale.sign * (fields[best] - fields[init]) <= 0:
      better = 'above' if higher else 'below'
      _refuse(
        file, best, f'must be {better} {init} = {fields[init]}', fields[best]
      )
  if scale.p_init == 0:
    _refuse(file, 'p_init', 'must not be 0: relative gain divides by it', 0)
  return scale


def _read_limits(file, table, field: str = 'limits') -> Limits:
  if not isinstance(table, dict):
    _refuse(file, field, 'must be a table', table)
  _check_names(file, f'{field}.', table, (), tuple(_LIMITS))
  for name, value in table.items():
    whole = _LIMITS[name].type is int
    if not _is_number(value) or (whole and not isinstance(value, int)):
      expected = 'a whole number' if whole else 'a number'
      _refuse(file, f'{field}.{name}', f'must be {expected}', value)
    if value < 0 or (value == 0 and name != 'gpus'):
      _refuse(file, f'{field}.{name}', 'must be above 0', value)
  return Limits(**table)


def _read_files(
  file, table, grader: Grader | None, *, labelled: bool
) -> dict[str, str]:
  if not isinstance(table, dict):
    _refuse(file, 'files', 'must be a table', table)
  for name, digest in table.items():
    path = pathlib.PurePosixPath(name)
    inside = len(path.parts) > 1 and path.parts[0] in ('public', 'private')
    if not inside or '..' in path.parts:
      _refuse(file, 'files', 'names must begin with public/ or private/', name)
    if not isinstance(digest, str) or not re.fullmatch('[0-9a-f]{64}', digest):
      _refuse(file, f'files."{name}"', 'must be a SHA-256 in hex', digest)
  if labelled and (grader is None or grader.by_rows):
    if LABELS not in table:
      raise TaskError(f'{file}: files: {LABELS} is missing')
    for split in ('validation', 'test') if grader else ():
      if not any(name.startswith(f'{ANSWERS}/{split}/') for name in table):
        raise TaskError(f'{file}: files: no file in {ANSWERS}/{split}/')
  if not any(name.startswith('public/') for name in table):
    raise TaskError(f'{file}: files: there is no public file')
  return dict(table)

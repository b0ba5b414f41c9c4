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
import pathlib
import re
import tomllib
from collections.abc import Mapping

from mlagent_jax import paths
from mlagent_jax.environment import task_fields
from mlagent_jax.environment.metrics import METRICS, Metric
from mlagent_jax.environment.records import Limits, Scale
from mlagent_jax.environment.task_fields import (
  ANSWERS,
  LABELS,
  Grader,
  TaskError,
)


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
_REQUIRED = (
  *_TEXTS,
  'target_columns',
  'higher_is_better',
  *task_fields.NUMBERS,
  'files',
)
_OPTIONAL = ('limits', 'stands_for')
_COLUMNS = ('id_column', 'target_columns')


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
  grader = task_fields.read_grader(file, fields)
  pattern = task_fields.read_pattern(file, fields)
  absent = _COLUMNS if pattern or (grader and not grader.by_rows) else ()
  required = [name for name in _REQUIRED if name not in absent]
  texts = [name for name in _TEXTS if name not in absent]
  optional = (
    *_OPTIONAL,
    *(('grader',) if grader else ()),
    *(('score_pattern',) if pattern else ()),
  )
  task_fields.check_names(file, '', fields, required, optional)
  for name in texts:
    if not isinstance(fields[name], str) or not fields[name].strip():
      task_fields.refuse(file, name, 'must be a non-empty text', fields[name])
  if fields['name'] != folder.name:
    task_fields.refuse(
      file, 'name', f'must be the folder name {folder.name!r}', fields
    )
  if not re.fullmatch(r'[a-z0-9][a-z0-9-]*', fields['name']):
    task_fields.refuse(
      file, 'name', 'must be of a-z, 0-9 and -', fields['name']
    )
  if fields['kind'] not in _KINDS:
    task_fields.refuse(
      file, 'kind', f'must be one of {", ".join(_KINDS)}', fields['kind']
    )
  columns = () if absent else task_fields.read_columns(file, fields)
  if grader and (extra := set(grader.number_columns) - set(columns)):
    task_fields.refuse(
      file, 'grader.number_columns', 'must be of target_columns', min(extra)
    )
  scale = task_fields.read_scale(file, fields)
  entry = pathlib.PurePosixPath(fields['entry'])
  if entry.is_absolute() or '..' in entry.parts:
    task_fields.refuse(
      file, 'entry', 'must be a path inside starter/', fields['entry']
    )
  if not (folder / 'starter' / entry).is_file():
    raise TaskError(
      f'{file}: entry: there is no file {folder / "starter" / entry}'
    )
  stands_for = fields.get('stands_for', '')
  if not isinstance(stands_for, str):
    task_fields.refuse(file, 'stands_for', 'must be a text', stands_for)
  return Task(
    folder=folder,
    target_columns=columns,
    scale=scale,
    limits=task_fields.read_limits(file, fields.get('limits', {})),
    files=task_fields.read_files(
      file, fields['files'], grader, labelled=not pattern
    ),
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

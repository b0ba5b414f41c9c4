"""The fields of task.toml that need more than a look, checked one by one.

Every mistake is a `TaskError` that names file and field; see `task_folder` for
what the fields mean.
"""

import dataclasses
import math
import pathlib
import re
from typing import Any

from mlagent_jax.environment.metrics import METRICS
from mlagent_jax.environment.records import Limits, Scale

LABELS = 'private/labels.csv'
ANSWERS = 'private/answers'
CUSTOM = 'custom'
PRINTED = 'printed'

NUMBERS = ('m_init', 'm_best', 'p_init', 'p_best')
_GRADER = ('number_columns', 'by_rows', 'seconds', 'memory_mb')
_LIMITS = {field.name: field for field in dataclasses.fields(Limits)}


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


def refuse(file, field: str, expected: str, found: Any):
  """Raises the error that says what a field must be, and is."""
  if isinstance(found, dict):
    found = found.get(field)
  raise TaskError(f'{file}: {field}: {expected}, found {found!r}')


def check_names(file, prefix: str, fields, required, optional) -> None:
  """Refuses a table that lacks a field, or has an unknown one."""
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


def read_columns(file, fields) -> tuple[str, ...]:
  """The target columns."""
  columns = fields['target_columns']
  if (
    not isinstance(columns, list)
    or not columns
    or not all(isinstance(c, str) and c for c in columns)
  ):
    refuse(file, 'target_columns', 'must be a list of names', columns)
  reserved = (fields['id_column'], 'split')
  clashes = [c for c in columns if c in reserved or columns.count(c) > 1]
  if fields['id_column'] == 'split' or clashes:
    refuse(
      file,
      'target_columns',
      'must be distinct, and neither the id column nor "split"',
      columns,
    )
  return tuple(columns)


def read_grader(file, fields) -> Grader | None:
  """The table [grader], which is there exactly if the metric is 'custom'."""
  if fields.get('metric') != CUSTOM:
    return None  # a table [grader] is an unknown field then
  table = fields.get('grader')
  if not isinstance(table, dict):
    refuse(file, 'grader', "must be a table: metric is 'custom'", table)
  check_names(file, 'grader.', table, ('script',), _GRADER)
  script = table['script']
  if not isinstance(script, str) or pathlib.PurePath(script).name != script:
    refuse(file, 'grader.script', 'must be the name of a file', script)
  if not (file.parent / 'grader' / script).is_file():
    raise TaskError(
      f'{file}: grader.script: there is no file'
      f' {file.parent / "grader" / script}'
    )
  numbers = table.get('number_columns', [])
  if not isinstance(numbers, list) or not all(
    isinstance(name, str) for name in numbers
  ):
    refuse(file, 'grader.number_columns', 'must be a list of names', numbers)
  by_rows = table.get('by_rows', True)
  if not isinstance(by_rows, bool):
    refuse(file, 'grader.by_rows', 'must be true or false', by_rows)
  chosen = {name: table[name] for name in _GRADER[2:] if name in table}
  default = dataclasses.asdict(Grader('').limits)
  limits = read_limits(file, {**default, **chosen}, 'grader')
  return Grader(script, tuple(numbers), by_rows, limits)


def read_pattern(file, fields) -> str:
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
    refuse(file, 'score_pattern', 'must have one group, the number', pattern)
  return pattern


def read_scale(file, fields) -> Scale:
  """Direction and scores, which must agree with the metric."""
  metric = METRICS.get(fields['metric'])
  custom = fields['metric'] in (CUSTOM, PRINTED)
  if metric is None and not custom:
    known = ', '.join((*METRICS, CUSTOM, PRINTED))
    refuse(file, 'metric', f'must be one of {known}', fields['metric'])
  if not custom and metric.one_column and len(fields['target_columns']) > 1:
    refuse(
      file,
      'target_columns',
      f'metric {fields["metric"]} is defined for one column',
      fields['target_columns'],
    )
  higher = fields['higher_is_better']
  if not isinstance(higher, bool):
    refuse(file, 'higher_is_better', 'must be true or false', higher)
  if not custom and higher != metric.higher_is_better:
    better = 'higher' if metric.higher_is_better else 'lower'
    refuse(
      file,
      'higher_is_better',
      f'of {fields["metric"]}, {better} is better',
      str(higher).lower(),
    )
  for name in NUMBERS:
    if not _is_number(fields[name]):
      refuse(file, name, 'must be a finite number', fields[name])
  scale = Scale(higher, *(float(fields[name]) for name in NUMBERS))
  for init, best in (('m_init', 'm_best'), ('p_init', 'p_best')):
    if scale.sign * (fields[best] - fields[init]) <= 0:
      better = 'above' if higher else 'below'
      refuse(
        file, best, f'must be {better} {init} = {fields[init]}', fields[best]
      )
  if scale.p_init == 0:
    refuse(file, 'p_init', 'must not be 0: relative gain divides by it', 0)
  return scale


def read_limits(file, table, field: str = 'limits') -> Limits:
  """The limits of a table, those of `Limits` where it has none."""
  if not isinstance(table, dict):
    refuse(file, field, 'must be a table', table)
  check_names(file, f'{field}.', table, (), tuple(_LIMITS))
  for name, value in table.items():
    whole = _LIMITS[name].type is int
    if not _is_number(value) or (whole and not isinstance(value, int)):
      expected = 'a whole number' if whole else 'a number'
      refuse(file, f'{field}.{name}', f'must be {expected}', value)
    if value < 0 or (value == 0 and name != 'gpus'):
      refuse(file, f'{field}.{name}', 'must be above 0', value)
  return Limits(**table)


def read_files(
  file, table, grader: Grader | None, *, labelled: bool
) -> dict[str, str]:
  """Path -> SHA-256 of the prepared files."""
  if not isinstance(table, dict):
    refuse(file, 'files', 'must be a table', table)
  for name, digest in table.items():
    path = pathlib.PurePosixPath(name)
    inside = len(path.parts) > 1 and path.parts[0] in ('public', 'private')
    if not inside or '..' in path.parts:
      refuse(file, 'files', 'names must begin with public/ or private/', name)
    if not isinstance(digest, str) or not re.fullmatch('[0-9a-f]{64}', digest):
      refuse(file, f'files."{name}"', 'must be a SHA-256 in hex', digest)
  if labelled and (grader is None or grader.by_rows):
    if LABELS not in table:
      raise TaskError(f'{file}: files: {LABELS} is missing')
    for split in ('validation', 'test') if grader else ():
      if not any(name.startswith(f'{ANSWERS}/{split}/') for name in table):
        raise TaskError(f'{file}: files: no file in {ANSWERS}/{split}/')
  if not any(name.startswith('public/') for name in table):
    raise TaskError(f'{file}: files: there is no public file')
  return dict(table)

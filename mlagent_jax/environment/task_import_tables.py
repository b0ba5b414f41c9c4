"""CSV tables of other people's tasks: cells are text and stay as they are."""

import csv
import dataclasses
import itertools
import math
import pathlib
from collections.abc import Iterable, Iterator, Sequence


class Impossible(Exception):  # noqa: N818 - then the next way is tried
  """A way to split a task's rows is not open to it; says why."""


@dataclasses.dataclass(frozen=True)
class Table:
  """A CSV file in memory."""

  header: list[str]
  rows: list[list[str]]

  def column(self, name: str) -> list[str]:
    """One column's cells."""
    place = self.header.index(name)
    return [row[place] for row in self.rows]

  def select(self, names: Sequence[str]) -> list[list[str]]:
    """The cells of some columns, in their order."""
    places = [self.header.index(name) for name in names]
    return [[row[place] for place in places] for row in self.rows]

  def pick(self, numbers: Sequence[int]) -> 'Table':
    """Some rows."""
    return Table(self.header, [self.rows[n] for n in numbers])


def all_numbers(values: list[str]) -> bool:
  """Whether every cell is a finite number."""
  try:
    return all(math.isfinite(float(value)) for value in values)
  except ValueError:
    return False


def read(path: pathlib.Path) -> Table:
  """Reads a whole file.

  Raises:
    Impossible: if it is empty or not CSV text.
  """
  lines = stream_of(path)
  header = next(lines, [])
  if not header:
    raise Impossible(f'{path.name} is empty')
  return Table(header, list(lines))


def rows_of(path: pathlib.Path) -> Iterator[list[str]]:
  """The rows below the header, one at a time."""
  lines = stream_of(path)
  next(lines)
  yield from lines


def stream_of(path: pathlib.Path) -> Iterator[list[str]]:
  """Header and rows, all of one width, one at a time.

  Raises:
    Impossible: as `read`.
  """
  csv.field_size_limit(2**31 - 1)  # a cell may hold a whole essay
  with path.open(encoding='utf-8-sig', newline='') as stream:
    reader = csv.reader(stream)
    try:
      header = next(reader, [])
      yield header
      for row in reader:
        if not row:
          continue
        if len(row) != len(header):
          raise Impossible(
            f'{path.name}, line {reader.line_num}: {len(row)} fields where the'
            f' header has {len(header)}'
          )
        yield row
    except (UnicodeDecodeError, csv.Error) as error:
      raise Impossible(f'{path.name} is not CSV text: {error}') from error


def write(path: pathlib.Path, rows: Iterable[Sequence[str]]) -> None:
  """Writes header and rows."""
  with path.open('w', encoding='utf-8', newline='') as stream:
    csv.writer(stream, lineterminator='\n').writerows(rows)


def kind_of(file: pathlib.Path) -> str:
  """'text' if cells of a table are sentences, else 'tabular': a guess."""
  if not file.is_file():
    return 'tabular'
  try:
    rows = rows_of(file)
    cells = [cell for row in itertools.islice(rows, 20) for cell in row]
  except Impossible:
    return 'tabular'
  return 'text' if any(cell.count(' ') >= 5 for cell in cells) else 'tabular'

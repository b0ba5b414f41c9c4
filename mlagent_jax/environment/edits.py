"""Edits of a script's text; what they do not name stays as it was.

Lines end with a newline and nothing else (a form feed is a character), as in
the listings that the agent reads. Lines of a file with Windows line ends get
such ends too.
"""

import io

from mlagent_jax.environment import records


class EditError(ValueError):
  """An edit that does not apply; the message is for the agent."""

  kind = records.OutcomeKind.EDIT_FAILED


def split_lines(text: str) -> list[str]:
  """Lines with their ends; together they are the text."""
  return list(io.StringIO(text, newline='\n'))


def replace_once(text: str, search: str, replacement: str) -> str:
  """Replaces the one place where `search` occurs as whole lines.

  Args:
    text: of the file.
    search: one or more whole lines; the last newline may be left out.
    replacement: the lines that take their place; '' deletes them.

  Raises:
    EditError: if `search` is empty, occurs nowhere or more than once, or the
      text would stay as it is.
  """
  lines = split_lines(text)
  wanted = [line.rstrip('\r\n') for line in split_lines(search)]
  if not any(wanted):
    raise EditError(
      'The search text is empty; it must be one or more whole lines of the'
      ' file.'
    )
  bare = [line.rstrip('\r\n') for line in lines]
  places = _places(bare, wanted)
  if len(places) > 1:
    where = ', '.join(str(place + 1) for place in places[:10])
    raise EditError(
      f'The search text occurs {len(places)} times (at lines {where}); it must'
      ' occur exactly once: add the lines around it.'
    )
  if not places:
    raise EditError(_not_found(bare, wanted))
  return _replace(lines, places[0], places[0] + len(wanted), replacement)


def replace_lines(text: str, first: int, last: int, replacement: str) -> str:
  """Replaces lines first to last, counted from 1, both included.

  Args:
    text: of the file.
    first: the first line.
    last: the last line; `first` - 1 inserts before line `first`.
    replacement: the new lines; '' deletes the old ones.

  Raises:
    EditError: if there are no such lines, or the text would stay as it is.
  """
  lines = split_lines(text)
  if first < 1:
    raise EditError(f'Lines are counted from 1; the first line is {first}.')
  if last < first - 1:
    raise EditError(
      f'The last line {last} is before the first line {first} (to insert'
      f' before line {first}, write {first}-{first - 1}).'
    )
  if last > len(lines) or first > len(lines) + 1:
    raise EditError(
      f'Lines {first}-{last} do not exist: the file has {len(lines)} lines.'
    )
  return _replace(lines, first - 1, last, replacement)


def _replace(lines: list[str], start: int, end: int, replacement: str) -> str:
  """The text with lines[start:end] replaced by whole lines."""
  newline = '\r\n' if lines and lines[0].endswith('\r\n') else '\n'
  new = [line.rstrip('\r\n') + newline for line in split_lines(replacement)]
  before, after = lines[:start], lines[end:]
  ends_open = bool(lines) and not lines[-1].endswith('\n')
  if ends_open and not after:
    if new and end > start:
      new[-1] = new[-1].removesuffix(newline)
    elif new and before:
      before[-1] += newline
      new[-1] = new[-1].removesuffix(newline)
  text = ''.join((*before, *new, *after))
  if text == ''.join(lines):
    raise EditError('The edit changes nothing: the new lines are the old ones.')
  return text


def _places(lines: list[str], wanted: list[str]) -> list[int]:
  return [
    start
    for start in range(len(lines) - len(wanted) + 1)
    if lines[start : start + len(wanted)] == wanted
  ]


def _not_found(lines: list[str], wanted: list[str]) -> str:
  """Says why: other white space, or where the first line can be found."""
  message = (
    'The search text does not occur in the file; it must repeat whole lines'
    ' exactly, white space included.'
  )
  squeezed = [' '.join(line.split()) for line in lines]
  places = _places(squeezed, [' '.join(line.split()) for line in wanted])
  if places:
    return f'{message} Line {places[0] + 1} differs in white space only.'
  if len(wanted) > 1 and wanted[0] in lines:
    at = lines.index(wanted[0])
    for offset, line in enumerate(wanted):
      if at + offset >= len(lines) or lines[at + offset] != line:
        return (
          f'{message} Its first line is line {at + 1}, but its line'
          f' {offset + 1} is not line {at + offset + 1}.'
        )
  return message

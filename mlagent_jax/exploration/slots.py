"""Where in a script an idea goes: slots as ranges of lines.

The scripts of the offline tasks read alike: imports, data, `y = …`, a scaler
(reducer, vectorizer) that makes `x` and `x_test`, `model = …`, `model.fit`,
`predictions = …`, submission.
A slot is found by these lines in the script as it is now, so that edits move
what comes after them without harm.
"""

import re

from mlagent_jax.exploration.library import Slot

_IMPORT = re.compile(r'(from|import) ')


def split(script: str) -> list[str]:
  """Lines without their ends, as edits and listings count them."""
  return script.removesuffix('\n').split('\n') if script else []


def find(script: str, slot: Slot) -> tuple[int, int] | None:
  """First and last line of a slot, counted from 1; None if it is not there.

  An empty slot is (n, n - 1): new lines go before line n.
  """
  lines = split(script)
  span = _FINDERS[slot](lines)
  return None if span is None else (span[0] + 1, span[1])


def content(script: str, slot: Slot) -> tuple[str, ...]:
  """The lines that a slot holds now; empty if it is not there."""
  span = find(script, slot)
  return tuple(split(script)[span[0] - 1 : span[1]]) if span else ()


# Finders return (start, end) of a Python slice.


def _first(lines: list[str], start: str, after: int = 0) -> int | None:
  return next(
    (i for i in range(after, len(lines)) if lines[i].startswith(start)), None
  )


def _line(start: str):
  def finder(lines):
    i = _first(lines, start)
    return None if i is None else (i, i + 1)

  return finder


def _with_imports(lines: list[str], i: int) -> int:
  """The first of the imports directly above line i, or i."""
  while i and _IMPORT.match(lines[i - 1]):
    i -= 1
  return i


_FITTED = re.compile(r'x = (\w+)\.fit_transform\(')


def prepared_by(script: str) -> str | None:
  """The variable of the scaler, reducer or vectorizer; None without one."""
  names = [m.group(1) for line in split(script) if (m := _FITTED.match(line))]
  return names[0] if names else None


def _prepare(lines):
  name = prepared_by('\n'.join(lines))
  i = None if name is None else _first(lines, f'{name} = ')
  return None if i is None else (_with_imports(lines, i), i + 1)


def _frame(lines):
  before, last = _prepare(lines), _first(lines, 'x_test = ')
  if before is None or last is None or last < before[1]:
    return None
  return before[1], last + 1


def _model(lines):
  i = _first(lines, 'model = ')
  return None if i is None else (_with_imports(lines, i), i + 1)


def _transform(lines):
  model, features = _model(lines), _first(lines, 'x_test = ')
  if model is None or features is None or features >= model[0]:
    return None
  return features + 1, model[0]


def _fit(lines):
  model = _model(lines)
  if model is None:
    return None
  last = _first(lines, 'predictions = ', model[1])
  return None if last is None else (model[1], last + 1)


def _post(lines):
  fit = _fit(lines)
  if fit is None:
    return None
  end = _first(lines, 'submission = ', fit[1])
  return None if end is None else (fit[1], end)


_FINDERS = {
  Slot.ROWS: _line('train = pd.read_csv('),
  Slot.TARGET: _line('y = '),
  Slot.COLUMNS: _line('columns = '),
  Slot.PREPARE: _prepare,
  Slot.FRAME: _frame,
  Slot.TRANSFORM: _transform,
  Slot.MODEL: _model,
  Slot.FIT: _fit,
  Slot.POST: _post,
}

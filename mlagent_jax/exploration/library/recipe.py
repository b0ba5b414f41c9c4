"""What a piece of general knowledge of machine learning is made of."""

import dataclasses
import enum


class Slot(enum.StrEnum):
  """The places of a script that ideas change, in the order of the script.

  Every idea replaces the whole of one slot, so that ideas of different slots
  commute: the same set of ideas gives the same script in any order.
  """

  ROWS = 'rows'  # how the training table is read
  TARGET = 'target'  # the line `y = …`
  COLUMNS = 'columns'  # the line `columns = …`
  PREPARE = 'prepare'  # the scaler, reducer or vectorizer and its imports
  FRAME = 'frame'  # from there to the line `x_test = …`
  TRANSFORM = 'transform'  # between the features and the model
  MODEL = 'model'  # the line `model = …` and its imports
  FIT = 'fit'  # from `model.fit` to `predictions = …`
  POST = 'post'  # between the predictions and the submission


@dataclasses.dataclass(frozen=True)
class Recipe:
  """An idea for a kind of problem, and the lines that realise it.

  Attributes:
    family: what it has in common with its variants.
    text: the idea in one sentence.
    slot: the place that it changes.
    lines: what it puts there; `{target}` is the target's name, `{y}` the
      expression that the script has for the target, `{prepare}` the variable
      of the scaler, reducer or vectorizer, `{text}` the column of texts.
    needs: tags that a problem must have, separated by spaces (see
      `ideas.problem_of`).
    fix: other lines to put there if these fail; empty if there are none.
  """

  family: str
  text: str
  slot: Slot
  lines: tuple[str, ...]
  needs: str = ''
  fix: tuple[str, ...] = ()


def model(
  family: str,
  text: str,
  module: str,
  names: str,
  expression: str = '',
  *,
  needs: str = '',
  fix: str = '',
) -> Recipe:
  """A model of scikit-learn: `from sklearn.module import names`.

  Args:
    family: see `Recipe`.
    text: see `Recipe`.
    module: below sklearn; several are separated by ';', as are their `names`.
    names: what is imported.
    expression: the model; the name called without arguments if empty.
    needs: see `Recipe`.
    fix: another expression, for a failure of the first.
  """
  imports = _imports(module, names)
  expression = expression or f'{names}()'
  return Recipe(
    family,
    text,
    Slot.MODEL,
    (*imports, f'model = {expression}'),
    needs,
    (*imports, f'model = {fix}') if fix else (),
  )


def prepare(
  family: str,
  text: str,
  module: str,
  names: str,
  expression: str = '',
  *,
  needs: str = '',
  fix: str = '',
) -> Recipe:
  """A transformer of scikit-learn in place of the script's; as `model`."""
  imports = _imports(module, names)
  expression = expression or f'{names}()'
  return Recipe(
    family,
    text,
    Slot.PREPARE,
    (*imports, f'{{prepare}} = {expression}'),
    needs,
    (*imports, f'{{prepare}} = {fix}') if fix else (),
  )


def transform(
  family: str,
  text: str,
  module: str,
  names: str,
  expression: str = '',
  *,
  needs: str = '',
  fix: str = '',
) -> Recipe:
  """A transformer after the script's own, which may see y; as `model`."""

  def lines(change: str) -> tuple[str, ...]:
    return (
      *_imports(module, names),
      f'change = {change}.fit(x, y)',
      'x, x_test = change.transform(x), change.transform(x_test)',
    )

  return Recipe(
    family,
    text,
    Slot.TRANSFORM,
    lines(expression or f'{names}()'),
    needs,
    lines(fix) if fix else (),
  )


def frame(
  family: str, text: str, value: str, *before: str, needs: str
) -> Recipe:
  """Other features: `{rows}` in `value` stands for train and test.

  Args:
    family: see `Recipe`.
    text: see `Recipe`.
    value: expression that the scaler, reducer or vectorizer gets.
    *before: lines before it.
    needs: see `Recipe`.
  """
  train, test = (value.replace('{rows}', rows) for rows in ('train', 'test'))
  lines = (
    *before,
    f'x = {{prepare}}.fit_transform({train})',
    f'x_test = {{prepare}}.transform({test})',
  )
  return Recipe(family, text, Slot.FRAME, lines, needs)


def _imports(module: str, names: str) -> list[str]:
  return [
    f'from sklearn.{one.strip()} import {its.strip()}'
    for one, its in zip(module.split(';'), names.split(';'), strict=True)
  ]

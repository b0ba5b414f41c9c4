"""At least 100 ideas for a task, from its card and its starter script.

An idea is a sentence, a family, and the lines that realise it in one slot of
the script. Ideas come from general knowledge (`library`), chosen by what the
task's card and starter say of the problem. Some are deliberately risky: they
may crash, take long, or make the score worse; finding out is exploration.
"""

import dataclasses
import re
from typing import Protocol

from mlagent_jax.environment.records import Scale
from mlagent_jax.exploration import library, slots
from mlagent_jax.exploration.library import Recipe, Slot


class TaskCard(Protocol):
  """What ideas need to know of a task."""

  name: str
  kind: str
  metric: str
  entry: str
  target_columns: tuple[str, ...]
  scale: Scale


@dataclasses.dataclass(frozen=True)
class Idea:
  """An idea for one task.

  Attributes:
    family: what it has in common with its variants.
    text: the idea in one sentence.
    slot: the place of the script that it changes.
    lines: what it puts there.
    fix: other lines for the same idea if these fail; may be empty.
  """

  family: str
  text: str
  slot: Slot
  lines: tuple[str, ...]
  fix: tuple[str, ...] = ()


_TEXT_COLUMN = re.compile(r"fit_transform\(train\['(\w+)'\]\)")

# What a metric asks of `predictions`.
_ASKS = {
  'accuracy': 'labels',
  'auc': 'probabilities',
  'log_loss': 'probabilities',
  'map_at_5': 'probabilities',
}


def problem_of(task: TaskCard, script: str) -> frozenset[str]:
  """Tags of a problem, which recipes may need.

  - the kind of task: 'tabular', 'image', 'text', 'graph'
  - 'values', 'labels' or 'probabilities': what is predicted; 'classes' is
    either of the latter two
  - 'one' or 'many' target columns (classes count as one)
  - 'dense' unless features are counts of words; '28x28' for such images
  - 'table' if the training rows are a pandas table; 'columns' if the script
    lists its columns
  """
  if 'predict_proba' in script:
    asks = 'probabilities'
  else:
    asks = _ASKS.get(task.metric, 'values')
  tags = {task.kind, asks}
  if asks != 'values':
    tags |= {'classes', 'one'}
  else:
    tags.add('one' if len(task.target_columns) == 1 else 'many')
  if task.kind != 'text':
    tags.add('dense')
  if 'reshape(-1, 784)' in script:
    tags.add('28x28')
  if slots.find(script, Slot.ROWS) is not None:
    tags.add('table')
  if slots.find(script, Slot.COLUMNS) is not None:
    tags.add('columns')
  return frozenset(tags)


def write_ideas(task: TaskCard, script: str) -> list[Idea]:
  """All ideas for a task, in a fixed order; their texts are distinct.

  Args:
    task: the task's card.
    script: its starter.
  """
  problem = problem_of(task, script)
  recipes = (
    *library.TABLES,
    *library.IMAGES,
    *library.TEXTS,
    *(_after(r) if 'text' in problem else r for r in library.SCALERS),
    *library.TRANSFORMS,
    *(library.VALUES if 'values' in problem else library.CLASSES),
    *library.OUTPUTS,
  )
  y = ''.join(slots.content(script, Slot.TARGET)).removeprefix('y = ')
  names = {
    '{y}': y,
    '{target}': task.target_columns[0],
    '{prepare}': slots.prepared_by(script) or '',
    '{text}': ''.join(_TEXT_COLUMN.findall(script)),
  }
  found = {}
  for recipe in recipes:
    if 'many' in problem:
      recipe = _for_many(recipe)
    if not problem.issuperset(recipe.needs.split()):
      continue
    if slots.find(script, recipe.slot) is None:
      continue
    place = _PLACES[recipe.slot]
    if recipe.slot is Slot.PREPARE and 'text' in problem:
      place = 'Words'
    idea = Idea(
      recipe.family,
      f'{place}: {recipe.text[0].lower()}{recipe.text[1:]}',
      recipe.slot,
      _filled(recipe.lines, names),
      _filled(recipe.fix, names),
    )
    found.setdefault(idea.text, idea)
  return list(found.values())


# An idea says first what it changes.
_PLACES = {
  Slot.ROWS: 'Rows',
  Slot.TARGET: 'Target',
  Slot.COLUMNS: 'Columns',
  Slot.PREPARE: 'Scaling',
  Slot.FRAME: 'Features',
  Slot.TRANSFORM: 'Transform',
  Slot.MODEL: 'Model',
  Slot.FIT: 'Training',
  Slot.POST: 'Predictions',
}


def _after(recipe: Recipe) -> Recipe:
  """A scaler as a further transform: a vectorizer cannot be replaced by it."""

  def lines(old: tuple[str, ...]) -> tuple[str, ...]:
    if not old:
      return ()
    change = old[-1].removeprefix('{prepare} = ')
    return (
      *old[:-1],
      f'change = {change}.fit(x)',
      'x, x_test = change.transform(x), change.transform(x_test)',
    )

  return dataclasses.replace(
    recipe,
    slot=Slot.TRANSFORM,
    lines=lines(recipe.lines),
    fix=lines(recipe.fix),
  )


def _for_many(recipe: Recipe) -> Recipe:
  """A model of one target, once for each of several targets."""
  needs = recipe.needs.split()
  if recipe.slot is not Slot.MODEL or 'one' not in needs:
    return recipe
  model = recipe.lines[-1].removeprefix('model = ')
  return dataclasses.replace(
    recipe,
    needs=' '.join(tag for tag in needs if tag != 'one'),
    lines=(
      'from sklearn.multioutput import MultiOutputRegressor',
      *recipe.lines[:-1],
      f'model = MultiOutputRegressor({model})',
    ),
    fix=(),
  )


def _filled(lines: tuple[str, ...], names: dict[str, str]) -> tuple[str, ...]:
  for placeholder, value in names.items():
    lines = tuple(line.replace(placeholder, value) for line in lines)
  return lines

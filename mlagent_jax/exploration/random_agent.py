"""An agent that draws valid actions at random: the floor to stand on.

Every reply parses and names files and lines that exist, and every edit applies;
what the edits do to the script is left to chance. An agent that is
not better than this has learned the protocol and nothing else.
"""

import json
import random
import re
from collections.abc import Collection, Sequence

from mlagent_jax.environment import edits
from mlagent_jax.environment.records import (
  ActionName,
  OutcomeKind,
  Snapshot,
  Step,
)
from mlagent_jax.exploration.ideas import TaskCard

MAX_LINES = 3  # that one edit replaces
# Without a second model, and without what needs one.
ACTIONS = (
  ActionName.LIST_FILES,
  ActionName.INSPECT_SCRIPT_LINES,
  ActionName.EDIT_SCRIPT,
  ActionName.EDIT_SCRIPT_LINES,
  ActionName.COPY_FILE,
  ActionName.UNDO_EDIT_SCRIPT,
  ActionName.EXECUTE_SCRIPT,
  ActionName.FINAL_ANSWER,
)
_NUMBER = re.compile(r'(?<![\w.])\d+(?:\.\d+)?(?![\w.])')
_FACTORS = (0.1, 0.5, 2.0, 10.0)


class RandomAgent:
  """Plays one episode; every action that is possible now is as likely.

  Args:
    allowed: the actions to draw from.
    protocol: 'full' or 'compact'.
    seed: of the draws.

  Raises:
    ValueError: if none of the allowed actions can be drawn.
  """

  name = 'random'

  def __init__(
    self,
    allowed: Collection[ActionName] = ACTIONS,
    *,
    protocol: str = 'compact',
    seed: int = 0,
  ):
    self._actions = [name for name in ACTIONS if name in allowed]
    if not self._actions:
      raise ValueError(f'no action to draw from in {sorted(allowed)}')
    self._protocol = protocol
    self._random = random.Random(seed)

  def reply(
    self,
    task: TaskCard,
    snapshot: Snapshot,
    script: str,
    steps: Sequence[Step],
  ) -> str:
    """A valid action, drawn from those that are possible in this state."""
    lines = [line.rstrip('\r\n') for line in edits.split_lines(script)]
    possible = [
      name
      for name in self._actions
      if _is_possible(name, snapshot, lines, steps)
    ]
    # Where nothing that it may do is possible, it gives up.
    name = self._random.choice(possible or [ActionName.FINAL_ANSWER])
    head = ''
    if self._protocol == 'full':
      head = (
        'Reflection: none\nResearch Plan and Status: none\nFact Check: none\n'
      )
    text = self._input(name, task.entry, lines, len(steps))
    return f'{head}Thought: random.\nAction: {name}\nAction Input: {text}'

  def _input(self, name, entry: str, lines: list[str], step: int) -> str:
    draw = self._random
    if name is ActionName.LIST_FILES:
      return json.dumps({'dir_path': '.'})
    if name is ActionName.INSPECT_SCRIPT_LINES:
      first = draw.randint(1, len(lines))
      last = draw.randint(first, min(len(lines), first + 99))
      return json.dumps(
        {
          'script_name': entry,
          'start_line_number': str(first),
          'end_line_number': str(last),
        }
      )
    if name is ActionName.EDIT_SCRIPT_LINES:
      first = draw.randint(1, len(lines))
      last = draw.randint(first - 1, min(len(lines), first + MAX_LINES - 1))
      new = self._changed(lines[first - 1 : last], lines)
      return '\n'.join((f'{entry} {first}-{last}', *new))
    if name is ActionName.EDIT_SCRIPT:
      old = draw.choice(_unique(lines))
      new = self._changed([old], lines)
      return '\n'.join(
        (
          entry,
          '<<<<<<< SEARCH',
          old,
          '=======',
          *new,
          '>>>>>>> REPLACE',
        )
      )
    if name is ActionName.COPY_FILE:
      copy = f'copy_{step}.py'
      return json.dumps({'source': entry, 'destination': copy})
    if name is ActionName.FINAL_ANSWER:
      return json.dumps({'final_answer': 'The end.'})
    return json.dumps({'script_name': entry})

  def _changed(self, old: list[str], lines: list[str]) -> list[str]:
    """Lines that differ from `old`: other numbers, other lines, or none."""
    draw = self._random
    numbered = [place for place, line in enumerate(old) if _NUMBER.search(line)]
    kinds = ['copied'] + ['number'] * bool(numbered) + ['deleted'] * bool(old)
    kind = draw.choice(kinds)
    if kind == 'deleted':
      return []
    if kind == 'number':
      place = draw.choice(numbered)
      return [
        self._scaled(line) if index == place else line
        for index, line in enumerate(old)
      ]
    # A blank line put in between lines would be no change.
    written = [line for line in lines if line.strip()]
    new = [draw.choice(written) for _ in range(max(1, len(old)))]
    return new if new != old else []

  def _scaled(self, line: str) -> str:
    """The line with one of its numbers made larger or smaller."""
    match = self._random.choice(list(_NUMBER.finditer(line)))
    text = match.group()
    factor = self._random.choice(_FACTORS)
    if '.' in text:
      new = f'{float(text) * factor or 0.1:.6g}'
    else:
      new = str(round(int(text) * factor))
    if new == text:
      new = str(int(text) + 1) if '.' not in text else f'{float(text) + 0.1}'
    return line[: match.start()] + new + line[match.end() :]


def _is_possible(
  name: ActionName,
  snapshot: Snapshot,
  lines: list[str],
  steps: Sequence[Step],
) -> bool:
  if name is ActionName.UNDO_EDIT_SCRIPT:
    # The entry is what the last change changed, if that was no copy.
    changes = [step.outcome.kind for step in steps if step.outcome.edited]
    kinds = (OutcomeKind.COPIED, OutcomeKind.UNDONE)
    return bool(snapshot.undo) and changes[-1:] not in ([k] for k in kinds)
  if name is ActionName.EDIT_SCRIPT:
    return bool(_unique(lines))
  if name in (ActionName.EDIT_SCRIPT_LINES, ActionName.INSPECT_SCRIPT_LINES):
    return any(line.strip() for line in lines)
  return True


def _unique(lines: list[str]) -> list[str]:
  """Lines that a search finds exactly once."""
  bare = [line.strip() for line in lines]
  text = '\n'.join(lines)
  return [
    line
    for line, stripped in zip(lines, bare, strict=True)
    if stripped
    and bare.count(stripped) == 1
    and text.count(line) == 1
    and stripped.strip('=<>')
  ]

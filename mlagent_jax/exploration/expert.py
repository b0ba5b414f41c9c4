"""A scripted expert: turns ideas into edits and goes on from what it sees.

It is an agent like any other: it reads the script and the outcomes of its own
steps, and writes replies. It knows no labels and no scores but those that the
environment reports (and the starter's, which every prompt states). It is
honest about failure: it does not know beforehand which ideas crash, take too
long or hurt, so its trajectories hold all of these.
"""

import dataclasses
import json
import random
from collections.abc import Sequence

from mlagent_jax.environment.records import (
  ActionName,
  Outcome,
  OutcomeKind,
  Snapshot,
  Step,
)
from mlagent_jax.exploration import slots
from mlagent_jax.exploration.ideas import Idea, TaskCard

LOOK_RATE = 0.15  # of episodes that begin with a look
OTHER_RATE = 0.95  # of edits without success that give way to another idea

_FAILED = frozenset(
  {
    OutcomeKind.SCRIPT_FAILED,
    OutcomeKind.MISSING_SUBMISSION,
    OutcomeKind.STALE_SUBMISSION,
    OutcomeKind.REFUSED_SUBMISSION,
    OutcomeKind.TIME_LIMIT,
    OutcomeKind.MEMORY_LIMIT,
  }
)


@dataclasses.dataclass(frozen=True)
class _Move:
  """What a reply says and does."""

  thought: str
  action: ActionName
  text: str


class ScriptedExpert:
  """Plays one episode with the ideas it was given.

  - An idea becomes one edit, of the slot of the script as it is now.
  - After a failure it repairs the edit if the idea has a second form, puts
    another idea for the same slot in its place, or undoes it.
  - After a score that is not better than before it tries another idea in the
    same slot, or undoes the edit.
  - What makes the score better stays, and the next idea is built on it.
  - With nothing left to try it gives its final answer.
  """

  name = 'scripted'

  def __init__(
    self,
    ideas: Sequence[Idea],
    *,
    others: Sequence[Idea] = (),
    protocol: str = 'compact',
    seed: int = 0,
  ):
    """An expert for one episode.

    Args:
      ideas: in the order to try.
      others: what it may put in the place of an idea that did not work, mostly,
        before it takes the edit back.
      protocol: 'full' or 'compact'.
      seed: of its choices.
    """
    self._todo = list(ideas)
    self._others = [idea for idea in others if idea not in ideas]
    self._ideas = tuple(ideas)
    self._protocol = protocol
    self._random = random.Random(seed)
    self._tried: Idea | None = None  # by the last edit, not judged yet
    self._repaired = False
    self._bad_edits = 0  # on top of the last good script
    self._best: float | None = None
    self._log: list[str] = []

  def reply(
    self,
    task: TaskCard,
    snapshot: Snapshot,
    script: str,
    steps: Sequence[Step],
  ) -> str:
    """The next reply; call it once for each step of the episode."""
    del snapshot  # its scores are in the outcomes
    seen = steps[-1].outcome if steps else None
    move = self._next(task, script, seen)
    if self._protocol == 'compact':
      head = ''
    else:
      head = self._report(seen)
    return (
      f'{head}Thought: {move.thought}\n'
      f'Action: {move.action}\n'
      f'Action Input: {move.text}'
    )

  def _next(self, task: TaskCard, script: str, seen: Outcome | None) -> _Move:
    if self._best is None:
      self._best = task.scale.m_init
      if self._random.random() < LOOK_RATE:
        return self._look(task, script)
    if self._tried is not None:
      repair = self._judge(task, script, seen)
      if repair is not None:
        return repair
    if self._bad_edits:
      other = self._instead(script)
      if other is not None:
        return self._edit(task, script, other, other.lines, other.text)
      self._bad_edits -= 1
      thought = (
        'Undo: that failed.'
        if seen.kind in _FAILED
        else 'Undo: that is not better.'
      )
      return _Move(
        thought,
        ActionName.UNDO_EDIT_SCRIPT,
        _json(script_name=task.entry),
      )
    idea = self._take(script)
    if idea is not None:
      return self._edit(task, script, idea, idea.lines, idea.text)
    return _Move(
      'Done: no idea is left.',
      ActionName.FINAL_ANSWER,
      _json(final_answer='The best script is in place.'),
    )

  def _judge(self, task: TaskCard, script: str, seen: Outcome) -> _Move | None:
    """Learns from the last edit; a move if it is to be repaired at once."""
    idea = self._tried
    if seen.kind is OutcomeKind.EDITED and self._is_better(task, seen.score):
      self._best = seen.score
      self._bad_edits = 0
      self._tried = None
      self._log.append(f'{idea.text} It helped.')
    elif seen.kind is OutcomeKind.EDITED or seen.kind in _FAILED:
      failed = seen.kind in _FAILED
      if failed and idea.fix and not self._repaired:
        self._bad_edits += 1
        repair = self._edit(
          task, script, idea, idea.fix, f'Repair: {idea.text}'
        )
        self._repaired = True
        return repair
      if seen.edited:
        self._bad_edits += 1
      self._log.append(
        f'{idea.text} It {"failed" if failed else "did not help"}.'
      )
    return None

  def _is_better(self, task: TaskCard, score: float) -> bool:
    return task.scale.sign * (score - self._best) > 0

  def _instead(self, script: str) -> Idea | None:
    """Another idea for the slot of the edit that did not work, or None."""
    slot = self._tried.slot
    found = self._take(script, slot=slot)
    if found is None and self._random.random() < OTHER_RATE:
      fitting = [idea for idea in self._others if idea.slot is slot]
      if fitting:
        found = self._random.choice(fitting)
        self._others.remove(found)
    return found

  def _take(self, script: str, slot=None) -> Idea | None:
    """The next idea that would change the script (of one slot, if given)."""
    for idea in self._todo:
      if slot is not None and idea.slot is not slot:
        continue
      found = slots.find(script, idea.slot)
      if found is not None and slots.content(script, idea.slot) != idea.lines:
        self._todo.remove(idea)
        return idea
    return None

  def _edit(self, task, script, idea, lines, thought) -> _Move:
    self._tried, self._repaired = idea, False
    first, last = slots.find(script, idea.slot)
    text = '\n'.join((f'{task.entry} {first}-{last}', *lines))
    return _Move(thought, ActionName.EDIT_SCRIPT_LINES, text)

  def _look(self, task: TaskCard, script: str) -> _Move:
    last = len(slots.split(script))
    return self._random.choice(
      (
        _Move(
          'Look: what is there?', ActionName.LIST_FILES, _json(dir_path='.')
        ),
        _Move(
          'Look: how does the script begin?',
          ActionName.INSPECT_SCRIPT_LINES,
          _json(
            script_name=task.entry,
            start_line_number='1',
            end_line_number=str(last),
          ),
        ),
        _Move(
          'Look: what does the script score?',
          ActionName.EXECUTE_SCRIPT,
          _json(script_name=task.entry),
        ),
      )
    )

  def _report(self, seen: Outcome | None) -> str:
    """The parts that only the full protocol has."""
    if seen is None:
      reflection = 'Nothing has been observed yet.'
    elif seen.kind is OutcomeKind.EDITED:
      reflection = f'The edited script runs and scores {seen.score:.6g}.'
    elif seen.kind in _FAILED:
      last = seen.observation.strip().rpartition('\n')[2]
      reflection = f'The edit did not work: {last[:200]}'
    else:
      reflection = 'The last action worked as expected.'
    plan = ' '.join(self._log) or 'Nothing has been tried yet.'
    ahead = ' '.join(idea.text for idea in self._todo) or 'nothing'
    facts = 'Scores above are those that runs reported; the rest is a guess.'
    return (
      f'Reflection: {reflection}\n'
      f'Research Plan and Status: {plan} Still to try: {ahead}\n'
      f'Fact Check: {facts}\n'
    )


def _json(**arguments: str) -> str:
  return json.dumps(arguments)

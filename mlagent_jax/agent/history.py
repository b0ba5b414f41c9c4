"""What an agent is told of its earlier steps, within a budget of tokens."""

import dataclasses
import re
from collections.abc import Callable, Sequence

from mlagent_jax.environment.records import Outcome, OutcomeKind, Step

LEFT_OUT = '(observation left out)'

_THOUGHT = re.compile(r'^Thought:[ \t]*(.*)$', re.MULTILINE)
_ACTION = re.compile(r'^Action:[ \t]*(.*)$', re.MULTILINE)
_INPUT = re.compile(r'^Action Input:[ \t]*(.*)$', re.MULTILINE)
_EXCEPTION = re.compile(
  r'^(?:[a-z_]\w*\.)*([A-Z]\w*(?:Error|Exception|Interrupt|Exit))\b',
  re.MULTILINE,
)


class PromptTooLong(ValueError):  # noqa: N818 - says what happened
  """Not even the prompt without any history fits the budget."""

  def __init__(self, name: str, needed: int, budget_tokens: int):
    super().__init__(
      f'the prompt of task {name!r} needs {needed} tokens without any history,'
      f' but only {budget_tokens} are allowed: raise the prompt length, or'
      ' shorten the script or the description'
    )


@dataclasses.dataclass(frozen=True)
class Turn:
  """One earlier step as a prompt shows it; `observation` None: left out."""

  reply: str
  observation: str | None


def cut_middle(text: str, longest: int) -> str:
  """The text, or its beginning and end with a note of what was cut.

  Args:
    text: any text.
    longest: characters to keep.
  """
  if len(text) <= longest:
    return text
  head, tail = longest // 2, longest - longest // 2
  cut = len(text) - head - tail
  return f'{text[:head]}\n… ({cut} characters cut) …\n{text[-tail:]}'


def fit(
  steps: Sequence[Step],
  build: Callable[[Sequence[Turn], int], list[dict[str, str]]],
  *,
  budget_tokens: int,
  count_tokens: Callable[[list[dict[str, str]]], int],
  longest_observation: int,
  name: str,
) -> list[dict[str, str]]:
  """The prompt with as much history as the budget allows.

  Drops the oldest observation first, then the next, …; when all are gone, the
  oldest step, then the next, ….

  Args:
    steps: the whole history, oldest first.
    build: (turns, number of older steps dropped) -> messages.
    budget_tokens: what `count_tokens` of the messages may be at most.
    count_tokens: of messages, as the policy's tokenizer renders them.
    longest_observation: characters; a longer one is cut in its middle.
    name: of the task, for the error.

  Returns:
    Messages, at most `budget_tokens` tokens long.

  Raises:
    PromptTooLong: with the numbers, if the prompt without history is longer.
  """
  turns = [
    Turn(step.reply, cut_middle(step.outcome.observation, longest_observation))
    for step in steps
  ]
  needed = 0
  for dropped in range(2 * len(turns) + 1):
    steps_dropped = max(0, dropped - len(turns))
    bare = min(dropped, len(turns))
    kept = [Turn(t.reply, None) for t in turns[:bare]] + turns[bare:]
    messages = build(kept[steps_dropped:], steps_dropped)
    needed = count_tokens(messages)
    if needed <= budget_tokens:
      return messages
  raise PromptTooLong(name, needed, budget_tokens)


def number(score: float | None) -> str:
  """A score in at most four or five digits, 'none' for None."""
  if score is None:
    return 'none'
  return f'{score:.0f}' if abs(score) >= 1000 else f'{score:.4g}'


def numbered(script: str, first: int = 1) -> str:
  """The script with a line number and a space before every line."""
  # A newline ends a line and nothing else does, as edits count them.
  lines = script.removesuffix('\n').split('\n') if script else []
  return '\n'.join(
    f'{i} {line}'.rstrip() for i, line in enumerate(lines, first)
  )


def shortened(reply: str) -> str:
  """One line of what a reply did: its action, target and thought."""
  action, target, thought = (
    match.group(1).strip() if (match := pattern.search(reply)) else ''
    for pattern in (_ACTION, _INPUT, _THOUGHT)
  )
  if not action:
    return 'unreadable reply'
  return f'{action} {target}'.strip()[:80] + (
    f': {thought[:80]}' if thought else ''
  )


def outcome_words(outcome: Outcome, *, sign: int, m_init: float) -> str:
  """What became of an action in a few words, e.g. 'better 0.8132'.

  Args:
    outcome: of the action.
    sign: +1 if a higher score is better, else -1.
    m_init: the score that counts if the state had none.
  """
  if outcome.kind is OutcomeKind.EDITED and outcome.score is not None:
    before = m_init if outcome.score_before is None else outcome.score_before
    change = sign * (outcome.score - before)
    word = 'better' if change > 0 else 'worse' if change < 0 else 'equal'
    return f'{word} {number(outcome.score)}'
  if outcome.kind is OutcomeKind.EXECUTED:
    return f'runs {number(outcome.score)}'
  if outcome.kind is OutcomeKind.SCRIPT_FAILED:
    names = _EXCEPTION.findall(outcome.observation)
    return 'failed ' + (names[-1] if names else f'exit {outcome.exit_code}')
  return outcome.kind.value.replace('_', ' ')

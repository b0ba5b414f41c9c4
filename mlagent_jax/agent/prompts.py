"""Prompts of the two protocols, as chat messages.

`full` is the protocol of MLAgentBench (arXiv 2310.03302): the tools and their
usage, the research problem, replies of six parts, earlier steps as turns of
the conversation. `compact` is for models of a million parameters: one message
with the task in a line, the scores so far, the last two steps in a line each,
and the script with line numbers; replies have three parts.

Both end with the state: the entry script with line numbers, because an edit
names lines, and the validation scores so far. Nothing here ever shows a test
score.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from mlagent_jax.agent import history
from mlagent_jax.environment.records import ActionName, Scale, Snapshot, Step

Message = dict[str, str]

PROTOCOLS = ('full', 'compact')


class TaskCard(Protocol):
  """What a prompt needs to know of a task."""

  name: str
  description: str
  metric: str
  entry: str
  scale: Scale


_EDIT_LINES = """train.py 12-13
model = Ridge(alpha=3.0)"""
_EDIT_SEARCH = """train.py
<<<<<<< SEARCH
model = Ridge()
=======
model = Ridge(alpha=3.0)
>>>>>>> REPLACE"""

# Action -> (what it does, what its input looks like).
TOOLS: dict[ActionName, tuple[str, str]] = {
  ActionName.LIST_FILES: (
    'Shows what a folder of the workspace holds.',
    '{"dir_path": "."}',
  ),
  ActionName.UNDERSTAND_FILE: (
    'Has a whole file read for you and your question about it answered.',
    '{"file_name": "train.py",'
    ' "things_to_look_for": "how the model is fitted"}',
  ),
  ActionName.INSPECT_SCRIPT_LINES: (
    'Shows lines of a script, at most 100 of them, with their numbers.',
    '{"script_name": "train.py",'
    ' "start_line_number": "1", "end_line_number": "40"}',
  ),
  ActionName.EDIT_SCRIPT_AI: (
    'Has a script edited as you say in words; the result goes to save_name.',
    '{"script_name": "train.py",'
    ' "edit_instruction": "fit on log prices", "save_name": "train.py"}',
  ),
  ActionName.EDIT_SCRIPT: (
    'Replaces a text in a script; the text must occur exactly once. The input'
    ' is the file name and one block:',
    _EDIT_SEARCH,
  ),
  ActionName.EDIT_SCRIPT_LINES: (
    'Replaces lines of a script. The input is the file name and first-last'
    ' line, then the new lines (none: the old ones are deleted; 12-11 inserts'
    ' before line 12):',
    _EDIT_LINES,
  ),
  ActionName.COPY_FILE: (
    'Copies a file within the workspace.',
    '{"source": "train.py", "destination": "old.py"}',
  ),
  ActionName.UNDO_EDIT_SCRIPT: (
    'Takes back the last edit.',
    '{"script_name": "train.py"}',
  ),
  ActionName.EXECUTE_SCRIPT: (
    'Runs a Python script of the workspace and shows its output and score.',
    '{"script_name": "train.py"}',
  ),
  ActionName.FINAL_ANSWER: (
    'Ends the work when nothing more is worth trying.',
    '{"final_answer": "what was done and what it gave"}',
  ),
}

_SYSTEM = """You are a machine-learning engineer. You improve a script step by\
 step in a workspace: look, change one thing, read what it gave, go on from\
 there. You act only through the tools that you are given, one per reply."""

_FORMAT = """Every reply has exactly these parts, in this order:

Reflection: what the last observation means, and what went wrong if anything\
 did
Research Plan and Status: the whole plan, with what is done, what it gave, and\
 what comes next
Fact Check: which of the statements above an observation has confirmed, and\
 which are guesses
Thought: what you do now, and why
Action: the name of one tool, spelled as above
Action Input: the input of that tool, in the form shown above

Nothing follows the input: the next thing you read is the observation."""

_RULES = """After every edit that applies, {entry} is run for you and its\
 submission.csv is scored on hidden validation labels; that score is what you\
 improve. A run that breaks a limit is stopped. The folder data/ cannot be\
 changed. The workspace has no network. Only tell what you have observed."""


def build_prompt(
  task: TaskCard,
  steps: Sequence[Step],
  snapshot: Snapshot,
  script: str,
  *,
  protocol: str,
  budget_tokens: int,
  count_tokens: Callable[[list[Message]], int],
  allowed: Collection[ActionName] = tuple(ActionName),
  ideas: Sequence[str] = (),
) -> list[Message]:
  """The messages after which the agent's next reply follows.

  Args:
    task: what the agent works on.
    steps: the history, oldest first.
    snapshot: the state's scores.
    script: text of `task.entry` in that state.
    protocol: 'full' or 'compact'.
    budget_tokens: the prompt has at most this many tokens.
    count_tokens: of messages; `lambda m: len(tokenizer.encode_prompt(m))`.
    allowed: the tools to offer (full protocol).
    ideas: suggestions for the first message (full protocol).

  Returns:
    Chat messages, the last one the user's.

  Raises:
    PromptTooLong: if the prompt does not fit even without history.
    ValueError: if there is no such protocol.
  """
  if protocol == 'compact':
    return _fit_compact(
      task, steps, snapshot, script, budget_tokens, count_tokens
    )
  if protocol != 'full':
    raise ValueError(f'protocol {protocol!r} is none of {PROTOCOLS}')
  first = _instructions(task, allowed, ideas)
  state = _state(task, snapshot, script)
  return history.fit(
    steps,
    lambda turns, dropped: _conversation(first, turns, dropped, state),
    budget_tokens=budget_tokens,
    count_tokens=count_tokens,
    longest_observation=8000,
    name=task.name,
  )


def _direction(task: TaskCard) -> str:
  return 'higher' if task.scale.higher_is_better else 'lower'


def _instructions(
  task: TaskCard, allowed: Collection[ActionName], ideas: Sequence[str]
) -> str:
  tools = '\n\n'.join(
    f'- {name}: {does}\n{usage}'
    for name, (does, usage) in TOOLS.items()
    if name in allowed
  )
  parts = [
    'The tools, each with an example of its input:',
    tools,
    f'Research problem: {task.description.strip()}',
    f'The metric is {task.metric}, {_direction(task)} is better.',
    _RULES.format(entry=task.entry),
    _FORMAT,
  ]
  if ideas:
    listed = '\n'.join(f'- {idea}' for idea in ideas)
    parts.insert(4, f'Ideas that are worth trying here:\n{listed}')
  return '\n\n'.join(parts)


def _state(task: TaskCard, snapshot: Snapshot, script: str) -> str:
  return (
    f'Validation {task.metric} of the starter script:'
    f' {history.number(task.scale.m_init)}; of the last run that counted:'
    f' {history.number(snapshot.score)}; best so far:'
    f' {history.number(snapshot.best_score)}.\n'
    f'{task.entry} now:\n{history.numbered(script)}'
  )


def _conversation(
  first: str, turns: Sequence[history.Turn], dropped: int, state: str
) -> list[Message]:
  """Roles alternate, so that any chat template renders the messages."""
  if dropped:
    first += f'\n\n(The first {dropped} steps are left out here.)'
  messages = [
    {'role': 'system', 'content': _SYSTEM},
    {'role': 'user', 'content': first},
  ]
  for turn in turns:
    observation = turn.observation
    seen = history.LEFT_OUT if observation is None else observation
    messages.append({'role': 'assistant', 'content': turn.reply.strip()})
    messages.append({'role': 'user', 'content': f'Observation: {seen}'})
  messages[-1] = {
    'role': 'user',
    'content': f'{messages[-1]["content"]}\n\n{state}',
  }
  return messages


def _fit_compact(
  task: TaskCard,
  steps: Sequence[Step],
  snapshot: Snapshot,
  script: str,
  budget_tokens: int,
  count_tokens: Callable[[list[Message]], int],
) -> list[Message]:
  scale = task.scale
  lines = [
    history.shortened(step.reply)
    + ' -> '
    + history.outcome_words(step.outcome, sign=scale.sign, m_init=scale.m_init)
    for step in steps[-2:]
  ]
  head = [
    f'{task.name}: {task.metric}, {_direction(task)} is better',
    f'init {history.number(scale.m_init)}'
    f' now {history.number(snapshot.score)}'
    f' best {history.number(snapshot.best_score)}',
  ]
  listing = [task.entry, history.numbered(script)]
  needed = 0
  for first in range(len(lines) + 1):
    text = '\n'.join([*head, *lines[first:], *listing])
    messages = [{'role': 'user', 'content': text}]
    needed = count_tokens(messages)
    if needed <= budget_tokens:
      return messages
  raise history.PromptTooLong(task.name, needed, budget_tokens)

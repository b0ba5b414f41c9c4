"""Replies -> actions: a closed set, parsed strictly, errors made to teach.

A reply has the sections of its protocol, each at the start of a line, in
order, once; the input runs to the end of the reply:

  full     Reflection, Research Plan and Status, Fact Check, Thought, Action,
           Action Input (MLAgentBench, arXiv 2310.03302)
  compact  Thought, Action, Action Input

An input is a JSON object of texts, by the argument names of MLAgentBench. The
two edit actions of ours may use a block in its place:

  Edit Script Lines      Edit Script
  train.py 12-13         train.py
  new lines              <<<<<<< SEARCH
                         old lines
                         =======
                         new lines
                         >>>>>>> REPLACE

12-11 inserts before line 12; no new lines delete the old ones. White space
around a section, a name or a number is of no account; nothing else is guessed.
"""

import json
import re
from collections.abc import Collection
from typing import Any, NoReturn

from mlagent_jax.environment.records import Action, ActionName, OutcomeKind

SECTIONS = {
  'full': (
    'Reflection',
    'Research Plan and Status',
    'Fact Check',
    'Thought',
    'Action',
    'Action Input',
  ),
  'compact': ('Thought', 'Action', 'Action Input'),
}
ARGUMENTS: dict[ActionName, tuple[str, ...]] = {
  ActionName.LIST_FILES: ('dir_path',),
  ActionName.UNDERSTAND_FILE: ('file_name', 'things_to_look_for'),
  ActionName.INSPECT_SCRIPT_LINES: (
    'script_name',
    'start_line_number',
    'end_line_number',
  ),
  ActionName.EDIT_SCRIPT_AI: ('script_name', 'edit_instruction', 'save_name'),
  ActionName.EDIT_SCRIPT: ('script_name', 'search', 'replace'),
  ActionName.EDIT_SCRIPT_LINES: (
    'script_name',
    'start_line_number',
    'end_line_number',
    'replacement',
  ),
  ActionName.COPY_FILE: ('source', 'destination'),
  ActionName.UNDO_EDIT_SCRIPT: ('script_name',),
  ActionName.EXECUTE_SCRIPT: ('script_name',),
  ActionName.FINAL_ANSWER: ('final_answer',),
}
_NUMBERS = ('start_line_number', 'end_line_number')
# Texts that may be empty, and keep the white space around them.
_FREE = ('search', 'replace', 'replacement', 'final_answer')
_SEARCH, _MIDDLE, _REPLACE = '<<<<<<< SEARCH', '=======', '>>>>>>> REPLACE'
_RANGE = re.compile(r'(\S+)[ \t]+([0-9]{1,9})[ \t]*-[ \t]*([0-9]{1,9})')


class ActionError(ValueError):
  """A reply that is no action; the message is for the agent.

  Attributes:
    kind: UNPARSED, UNKNOWN_ACTION or BAD_ARGUMENTS.
  """

  def __init__(self, kind: OutcomeKind, message: str):
    super().__init__(message)
    self.kind = kind


def parse_reply(
  reply: str,
  *,
  protocol: str = 'compact',
  allowed: Collection[ActionName] = tuple(ActionName),
) -> Action:
  """Parses one reply of an agent.

  Args:
    reply: word for word.
    protocol: 'full' or 'compact'.
    allowed: the actions that this agent may take.

  Raises:
    ActionError: names the mistake, what was found and what is expected.
  """
  sections = _split_sections(reply, SECTIONS[protocol])
  name = _read_name(sections['Action'], allowed)
  text = sections['Action Input']
  if name is ActionName.EDIT_SCRIPT_LINES and not _looks_like_json(text):
    arguments = _read_lines_block(text)
  elif name is ActionName.EDIT_SCRIPT and not _looks_like_json(text):
    arguments = _read_search_block(text)
  else:
    arguments = _read_json(name, text.strip())
  for key, value in arguments.items():
    if '\0' in value or not _is_encodable(value):
      _bad(name, f'{key} holds a character that no file can hold')
  return Action(name, arguments, sections['Thought'].strip())


def usage(name: ActionName) -> str:
  """What the input of an action looks like, in one line."""
  if name is ActionName.EDIT_SCRIPT_LINES:
    return '"FILE FIRST-LAST", then the new lines'
  if name is ActionName.EDIT_SCRIPT:
    return f'"FILE", then {_SEARCH}, old lines, {_MIDDLE}, new, {_REPLACE}'
  inner = ', '.join(f'"{argument}": "…"' for argument in ARGUMENTS[name])
  return f'{{{inner}}}'


def _split_sections(reply: str, names: tuple[str, ...]) -> dict[str, str]:
  """Section name -> text; the last section runs to the end."""
  wanted = f'a reply has the sections {", ".join(f"{n}:" for n in names)}'
  if not reply.strip():
    _unparsed(f'the reply is empty; {wanted}')
  starts = []  # (start of the header, start of its text)
  position = 0
  for name in names:
    header = re.compile(rf'^[ \t]*{re.escape(name)}[ \t]*:', re.MULTILINE)
    match = header.search(reply, position)
    if match is None:
      if header.search(reply):
        _unparsed(f'the section "{name}:" is not in its place; {wanted}')
      _unparsed(
        f'the section "{name}:" is missing (it must begin a line); {wanted}'
      )
    starts.append(match.span())
    position = match.end()
  if reply[: starts[0][0]].strip():
    _unparsed(f'there is text before "{names[0]}:"; {wanted} and nothing else')
  ends = [start for start, _ in starts[1:]] + [len(reply)]
  sections = {
    name: reply[text:end]
    for name, (_, text), end in zip(names, starts, ends, strict=True)
  }
  header = re.compile(
    rf'^[ \t]*({"|".join(map(re.escape, names))})[ \t]*:', re.MULTILINE
  )
  for name in names[:-1]:
    if again := header.search(sections[name]):
      _unparsed(f'the section "{again.group(1)}:" occurs twice; {wanted}')
  return sections


def _read_name(text: str, allowed: Collection[ActionName]) -> ActionName:
  found = text.strip()
  known = ', '.join(name for name in ActionName if name in allowed)
  if not found:
    _unparsed(f'the section "Action:" is empty; the actions are {known}')
  try:
    name = ActionName(found)
  except ValueError:
    name = None
  if name is None or name not in allowed:
    why = 'there is no action' if name is None else 'you may not use the action'
    raise ActionError(
      OutcomeKind.UNKNOWN_ACTION,
      f'Unknown action: {why} {_short(found)}; the actions are {known}.',
    )
  return name


def _looks_like_json(text: str) -> bool:
  return text.lstrip()[:1] in ('{', '[', '"')


def _read_json(name: ActionName, text: str) -> dict[str, str]:
  if not text:
    _bad(name, 'the section "Action Input:" is empty')
  try:
    found = json.loads(text, object_pairs_hook=_unique_keys)
  except (ValueError, RecursionError) as error:
    _bad(name, f'the input is not valid JSON ({error})')
  if not isinstance(found, dict):
    _bad(name, f'the input is not a JSON object but {_short(text)}')
  expected = ARGUMENTS[name]
  missing = [key for key in expected if key not in found]
  if missing:
    _bad(name, f'the argument {missing[0]} is missing')
  unknown = [key for key in found if key not in expected]
  if unknown:
    _bad(name, f'there is no argument {_short(unknown[0])}')
  return {key: _read_value(name, key, found[key]) for key in expected}


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) != len(pairs):
    raise ValueError('an argument occurs twice')
  return found


def _read_value(name: ActionName, key: str, value: Any) -> str:
  if key in _NUMBERS:
    if isinstance(value, int) and not isinstance(value, bool):
      value = str(value)
    if not isinstance(value, str) or not re.fullmatch(
      r'\s*[0-9]{1,9}\s*', value
    ):
      _bad(name, f'{key} must be a line number, not {_short(str(value))}')
    return str(int(value))
  if not isinstance(value, str):
    _bad(name, f'{key} must be a text, not {_short(json.dumps(value))}')
  if key in _FREE:
    return value
  if not value.strip():
    _bad(name, f'{key} is empty')
  return value.strip()


def _read_lines_block(text: str) -> dict[str, str]:
  name = ActionName.EDIT_SCRIPT_LINES
  first, _, rest = text.lstrip().partition('\n')
  match = _RANGE.fullmatch(first.strip())
  if match is None:
    _bad(
      name,
      'the input must begin with a file and its lines, as in "train.py'
      f' 12-13", not {_short(first)}',
    )
  file, start, end = match.groups()
  return {
    'script_name': file,
    'start_line_number': str(int(start)),
    'end_line_number': str(int(end)),
    'replacement': rest.rstrip(),
  }


def _read_search_block(text: str) -> dict[str, str]:
  name = ActionName.EDIT_SCRIPT
  file, *lines = text.strip().split('\n')
  file = file.strip()
  bare = [line.rstrip() for line in lines]
  for marker in (_SEARCH, _MIDDLE, _REPLACE):
    if bare.count(marker) != 1:
      count = 'is missing' if marker not in bare else 'occurs more than once'
      _bad(name, f'the line "{marker}" {count}')
  start, middle, end = map(bare.index, (_SEARCH, _MIDDLE, _REPLACE))
  if start != 0 or not start < middle < end or end != len(bare) - 1:
    _bad(name, 'the marker lines are not in order, or there is text around')
  if not file:
    _bad(name, 'the file is missing')
  return {
    'script_name': file,
    'search': '\n'.join(lines[1:middle]),
    'replace': '\n'.join(lines[middle + 1 : end]),
  }


def _is_encodable(text: str) -> bool:
  try:
    text.encode('utf-8')
  except UnicodeEncodeError:
    return False
  return True


def _short(text: str) -> str:
  return repr(text if len(text) <= 60 else text[:60] + '…')


def _unparsed(mistake: str) -> NoReturn:
  raise ActionError(OutcomeKind.UNPARSED, f'Reply not understood: {mistake}.')


def _bad(name: ActionName, mistake: str) -> NoReturn:
  raise ActionError(
    OutcomeKind.BAD_ARGUMENTS,
    f'Bad input of {name}: {mistake}; expected: {usage(name)}.',
  )

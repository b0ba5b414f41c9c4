"""Random replies of an agent, each with what must come of it.

Good ones lead the walk on. Faulty ones (crashes, limits, survivors, litter)
are single actions in a state, as step-wise RL takes them: the walk goes on
from the state before, so that its script always works.
"""

import dataclasses
import io
import json
import random
import tokenize

from mlagent_jax.environment.records import OutcomeKind as Kind

_EDITED = frozenset({Kind.EDITED})
_FAILED = frozenset({Kind.SCRIPT_FAILED})
# Before the last line of a script, which writes the submission.
_FAULTS = {
  'crash': ('raise RuntimeError("soak")', _FAILED),
  'wrong syntax': ('def', _FAILED),
  'exit code': ('import sys; sys.exit(3)', _FAILED),
  'killed by itself': (
    'import os; os.kill(os.getpid(), 9)',
    _FAILED,
  ),
  'memory': (
    'hog = b"x" * (3 << 30)',
    frozenset({Kind.MEMORY_LIMIT}),
  ),
  'time': (
    'import time; time.sleep(100_000)',
    frozenset({Kind.TIME_LIMIT}),
  ),
  'disk': (
    'for i in range(40): open(f"big{i}", "wb").write(bytes(8 << 20))',
    _FAILED,
  ),
  'output': ('while True: print("soak " * 1000)', _FAILED),
  'survivor': (
    'import os, time\nif os.fork() == 0:\n  os.setsid()\n  time.sleep(100_000)',
    _EDITED,
  ),
  'silent survivor': (
    'import os, time\n'
    'if os.fork() == 0:\n'
    '  os.setsid()\n'
    '  for number in range(3): os.close(number)\n'
    '  time.sleep(100_000)',
    _EDITED,
  ),
  'litter': (
    'import os\n'
    'assert not os.listdir("/tmp") and not os.listdir("/dev/shm")\n'
    'for place in (".", "/tmp", "/dev/shm"):\n'
    '  open(place + "/litter", "wb").write(bytes(1 << 20))',
    _EDITED,
  ),
}
_LAST = {
  'no submission': ('pass', frozenset({Kind.MISSING_SUBMISSION})),
  'half a submission': (
    "submission.head(3).to_csv('submission.csv', index=False)",
    frozenset({Kind.REFUSED_SUBMISSION}),
  ),
}
# How often, out of the sum.
_WEIGHTS = {
  'number': 200,
  'note': 160,
  'look': 110,
  'list': 80,
  'run': 80,
  'undo': 60,
  'copy': 50,
  'no reply': 40,
  'no such action': 30,
  'no such lines': 30,
  'no change': 30,
  'answer': 20,
  **dict.fromkeys(_FAULTS, 10),
  'time': 3,
  **dict.fromkeys(_LAST, 15),
}


@dataclasses.dataclass(frozen=True)
class Planned:
  """A reply, and what must come of it.

  Attributes:
    tag: what it is.
    text: the reply.
    expect: the kinds of outcome that are right.
    leads_on: whether the walk goes on from where it leads, if its script runs.
  """

  tag: str
  text: str
  expect: frozenset[Kind]
  leads_on: bool = True


def draw(
  chance: random.Random, script: str, *, entry: str, can_undo: bool
) -> Planned:
  """A random reply.

  Args:
    chance: decides.
    script: text of the entry script, which works.
    entry: its path.
    can_undo: whether there was an edit, and of this script.
  """
  (tag,) = chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
  lines = script.splitlines()
  end = len(lines)
  if tag in _FAULTS:
    code, expect = _FAULTS[tag]
    return Planned(tag, _lines(entry, end, end - 1, code), expect, False)
  if tag in _LAST:
    code, expect = _LAST[tag]
    return Planned(tag, _lines(entry, end, end, code), expect, False)
  if tag == 'number':
    found = _numbers(script)
    if found:
      line, old, new = chance.choice(found)
      text = lines[line - 1].replace(old, new, 1)
      # It need not work: a size may have to be what it was.
      expect = frozenset(
        {Kind.EDITED, Kind.SCRIPT_FAILED, Kind.REFUSED_SUBMISSION}
      )
      return Planned(tag, _lines(entry, line, line, text), expect)
    tag = 'note'
  if tag == 'note':
    note = f'# note {chance.randrange(2)}'
    return Planned(tag, _lines(entry, end, end - 1, note), _EDITED)
  if tag == 'undo':
    expect = {Kind.UNDONE} if can_undo else {Kind.EDIT_FAILED}
    text = _json('Undo Edit Script', script_name=entry)
    return Planned(tag, text, frozenset(expect))
  if tag == 'copy':
    # The same name again would change nothing.
    name = f'copy-{chance.randrange(10**9)}.py'
    text = _json('Copy File', source=entry, destination=name)
    return Planned(tag, text, frozenset({Kind.COPIED}), False)
  text, kind = {
    'look': (_inspect(entry, 1, end), Kind.LOOKED),
    'list': (_json('List Files', dir_path='.'), Kind.LOOKED),
    'run': (_json('Execute Script', script_name=entry), Kind.EXECUTED),
    'no reply': ('I do not know what to do.', Kind.UNPARSED),
    'no such action': (_json('Buy GPUs', number='8'), Kind.UNKNOWN_ACTION),
    'no such lines': (_inspect(entry, 5, 2), Kind.BAD_ARGUMENTS),
    'no change': (_lines(entry, 1, 1, lines[0]), Kind.EDIT_FAILED),
    'answer': (_json('Final Answer', final_answer='done'), Kind.FINAL_ANSWER),
  }[tag]
  return Planned(tag, text, frozenset({kind}))


def _numbers(script: str) -> list[tuple[int, str, str]]:
  """(line, number, another number) of the numbers in the arguments."""
  found = []
  for token in tokenize.generate_tokens(io.StringIO(script).readline):
    before = token.line[: token.start[1]].rstrip()
    if token.type == tokenize.NUMBER and before.endswith('='):
      old = token.string
      new = str(int(old) + 1) if old.isdigit() else f'{float(old) * 1.5:.6g}'
      if token.line.count(old) == 1:
        found.append((token.start[0], old, new))
  return found


def _reply(action: str, text: str) -> str:
  return f'Thought: soak\nAction: {action}\nAction Input: {text}'


def _json(action: str, **arguments: str) -> str:
  return _reply(action, json.dumps(arguments))


def _lines(path: str, first: int, last: int, text: str) -> str:
  return _reply('Edit Script Lines', f'{path} {first}-{last}\n{text}')


def _inspect(path: str, first: int, last: int) -> str:
  return _json(
    'Inspect Script Lines',
    script_name=path,
    start_line_number=str(first),
    end_line_number=str(last),
  )

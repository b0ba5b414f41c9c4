"""Texts that the agent reads: short, numbered as edits count, never a label."""

from mlagent_jax.environment import edits
from mlagent_jax.environment.task_folder import Task

MAX_LINES = 100  # that one inspection shows, as in MLAgentBench
_MAX_LINE = 400  # characters of one line
_MAX_OUTPUT = 4000  # characters of a script's output
_MAX_FILES = 200
_CONTEXT = 2  # lines around an edit
# Control characters become their pictures (U+2400 on), or the sign for what
# cannot be shown: names and contents of files were chosen by scripts.
_PICTURES = {
  **{code: 0x2400 + code for code in range(0x20) if chr(code) not in '\t\n'},
  0x7F: 0x2421,
  **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
}


def listing(names: list[tuple[str, int | None]], folder: str) -> str:
  """What a folder holds.

  Args:
    names: (name, size in bytes; None for a folder), any order.
    folder: as the agent calls it.
  """
  lines = [
    f'{_name(name)}/' if size is None else f'{_name(name)} ({size} bytes)'
    for name, size in sorted(names)
  ]
  if len(lines) > _MAX_FILES:
    left_out = len(lines) - _MAX_FILES
    lines = [*lines[:_MAX_FILES], f'… and {left_out} more']
  inside = '\n'.join(lines) if lines else '(nothing)'
  return f'{folder} holds:\n{inside}'


def numbered(lines: list[str], first: int) -> str:
  """Lines with their numbers, counted from `first`; long ones are cut."""
  return '\n'.join(
    f'{number} {_cut(line)}'.rstrip()
    for number, line in enumerate(lines, first)
  )


def change(path: str, before: str, after: str) -> str:
  """What an edit did: old lines with -, new ones with + and their numbers."""
  old, new = edits.split_lines(before), edits.split_lines(after)
  start = 0
  while start < min(len(old), len(new)) and old[start] == new[start]:
    start += 1
  end = 0
  while (
    end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]
  ):
    end += 1
  removed, added = old[start : len(old) - end], new[start : len(new) - end]
  lines = [
    *_marked(' ', new[max(0, start - _CONTEXT) : start], start - _CONTEXT),
    *_marked('-', removed, start),
    *_marked('+', added, start),
    *_marked(
      ' ',
      new[len(new) - end : len(new) - end + _CONTEXT],
      len(new) - end,
    ),
  ]
  return f'{path} was edited:\n' + '\n'.join(lines)


def output(text: str) -> str:
  """The end of what a script printed, where errors and results are."""
  text = text.rstrip()
  if not text:
    return 'The script printed nothing.'
  if len(text) > _MAX_OUTPUT:
    cut = len(text) - _MAX_OUTPUT
    text = f'… ({cut} characters cut)\n{text[-_MAX_OUTPUT:]}'
  lines = '\n'.join(_cut(line) for line in text.split('\n'))
  return f'The script printed:\n{lines}'


def score(task: Task, value: float, before: float | None) -> str:
  """The validation score beside the one before and the direction."""
  better = 'higher' if task.scale.higher_is_better else 'lower'
  earlier = task.scale.m_init if before is None else before
  return (
    f'Validation {task.metric}: {number(value)} (before {number(earlier)},'
    f' {better} is better)'
  )


def number(value: float) -> str:
  """A score with as many digits as tell scores apart."""
  return f'{value:.1f}' if abs(value) >= 1000 else f'{value:.4f}'


def plain(text: str) -> str:
  """A text without what a terminal obeys or UTF-8 cannot hold."""
  return text.translate(_PICTURES).encode('utf-8', 'replace').decode('utf-8')


def _marked(mark: str, lines: list[str], start: int) -> list[str]:
  first = max(0, start) + 1
  texts = [f'{mark} {n} {_cut(line)}' for n, line in enumerate(lines, first)]
  if len(texts) > 40:
    texts = [*texts[:30], f'{mark} … {len(texts) - 35} lines …', *texts[-5:]]
  return [text.rstrip() for text in texts]


def _name(name: str) -> str:
  """A file's name in one line, whatever a script called it."""
  return name.replace('\n', '\u240a').replace('\t', '\u2409')


def _cut(line: str) -> str:
  line = line.rstrip('\r\n')
  return line if len(line) <= _MAX_LINE else line[:_MAX_LINE] + '…'

import random

import pytest

from mlagent_jax.environment import edits

TEXT = 'a\n  b\nc\n  b\n'


@pytest.mark.parametrize(
  'first, last, new, expected',
  [
    (1, 1, 'x', 'x\n  b\nc\n  b\n'),
    (2, 3, 'x\ny\nz\n', 'a\nx\ny\nz\n  b\n'),
    (2, 3, '', 'a\n  b\n'),
    (1, 4, '', ''),
    (1, 0, 'x', 'x\na\n  b\nc\n  b\n'),
    (5, 4, 'x', 'a\n  b\nc\n  b\nx\n'),
  ],
)
def test_replace_lines(first, last, new, expected):
  assert edits.replace_lines(TEXT, first, last, new) == expected


@pytest.mark.parametrize(
  'first, last, new, words',
  [
    (0, 1, 'x', 'counted from 1'),
    (3, 1, 'x', 'write 3-2'),
    (4, 5, 'x', 'has 4 lines'),
    (6, 5, 'x', 'has 4 lines'),
    (1, 1, 'a', 'changes nothing'),
    (2, 1, '', 'changes nothing'),
  ],
)
def test_replace_lines_refuses(first, last, new, words):
  with pytest.raises(edits.EditError, match=words):
    edits.replace_lines(TEXT, first, last, new)


def test_replace_lines_equals_list_slicing():
  draw = random.Random(0)
  for _ in range(500):
    lines = [draw.choice('abc\x0c\x85') for _ in range(draw.randrange(8))]
    new = [draw.choice('xyz') for _ in range(draw.randrange(4))]
    first = draw.randrange(1, len(lines) + 2)
    last = draw.randrange(first - 1, len(lines) + 1)
    expected = lines[: first - 1] + new + lines[last:]
    text, wanted = (
      ''.join(f'{line}\n' for line in part) for part in (lines, expected)
    )
    if text == wanted:
      continue
    assert edits.replace_lines(text, first, last, '\n'.join(new)) == wanted


@pytest.mark.parametrize(
  'first, last, new, expected',
  [
    (1, 1, 'x', 'x\nb'),
    (2, 2, 'x', 'a\nx'),
    (3, 2, 'x', 'a\nb\nx'),
  ],
)
def test_a_file_without_a_last_newline_keeps_it_so(first, last, new, expected):
  assert edits.replace_lines('a\nb', first, last, new) == expected


def test_windows_line_ends_stay():
  assert edits.replace_lines('a\r\nb\r\n', 2, 2, 'x') == 'a\r\nx\r\n'
  assert edits.replace_once('a\r\nb\r\n', 'a\nb', 'x') == 'x\r\n'


def test_replace_once_takes_whole_lines():
  assert edits.replace_once(TEXT, 'a\n  b', 'x') == 'x\nc\n  b\n'
  assert edits.replace_once('x = 1\nx = 10\n', 'x = 1', 'y') == 'y\nx = 10\n'
  assert edits.replace_once(TEXT, 'c\n', '') == 'a\n  b\n  b\n'


@pytest.mark.parametrize(
  'search, words',
  [
    ('', 'empty'),
    ('\n', 'empty'),
    ('  b', r'occurs 2 times \(at lines 2, 4\)'),
    ('z', 'does not occur'),
    ('b\nc', 'Line 2 differs in white space only'),
    ('a\n  b\nd', 'its line 3 is not line 3'),
    ('c', 'changes nothing'),
  ],
)
def test_replace_once_refuses(search, words):
  with pytest.raises(edits.EditError, match=words):
    edits.replace_once(TEXT, search, 'c')

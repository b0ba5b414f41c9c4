"""Which tokens may come next so that a reply names an action that exists.

The first line of a reply that begins with "Action:" is where the parser reads
the action's name (a reply with an earlier or a second one is refused
whatever it names, see `environment.actions`). From there on a reply must go on
with an optional space, one of the names, a line break and "Action Input:"; all
else is free. That is a finite automaton over characters. `token_automaton`
runs it over the text of every token of a vocabulary, so that it is one over
tokens: a token may hold the marker and the beginning of a name, or the end of
one and the beginning of the input. Tokens that do the same from every state
are one class, which keeps the table small.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from mlagent_jax.agent.tokenizer import Tokenizer

_MARKER, _AFTER = 'Action', '\nAction Input:'
_BLANKS = ' \t'
_DEAD = -1


class TokenAutomaton(NamedTuple):
  """The automaton over tokens; a reply begins in state 0.

  Attributes:
    classes: [V] int32, the class of each token.
    table: [N, C] int32, the state after a token of a class, -1 where it may
      not be drawn.
  """

  classes: np.ndarray
  table: np.ndarray


def token_automaton(
  tokenizer: Tokenizer, names: Collection[str], vocab_size: int
) -> TokenAutomaton:
  """The automaton of a tokenizer's tokens.

  Args:
    tokenizer: whose tokens are drawn.
    names: of the actions that may be taken.
    vocab_size: of the model; ids beyond the tokenizer's have no text.

  Raises:
    ValueError: if no sequence of tokens spells one of the names.
  """
  texts = token_texts(tokenizer) + [''] * (vocab_size - tokenizer.vocab_size)
  missing = [name for name in names if not _can_spell(texts, f'{name}{_AFTER}')]
  if missing or not names:
    raise ValueError(f'no tokens of this tokenizer spell the actions {missing}')
  steps, forced = _character_steps(names)
  table = _over_tokens(steps, texts)
  # No token without text, such as the end of a reply, inside of a name.
  silent = np.array([not text for text in texts])
  table[np.ix_(forced, silent)] = _DEAD
  table, classes = np.unique(table, axis=1, return_inverse=True)
  _forbid_dead_ends(table, forced)
  return TokenAutomaton(
    classes.reshape(-1).astype(np.int32), table.astype(np.int32)
  )


def token_texts(tokenizer: Tokenizer) -> list[str]:
  """What each token adds to a text, by what the tokenizer itself decodes.

  A token of some bytes of a character gives U+FFFD: no name holds either.
  """
  before = tokenizer.encode_text('x')
  start = len(tokenizer.decode(before))  # where a first token may differ
  return [
    tokenizer.decode([*before, token])[start:]
    for token in range(tokenizer.vocab_size)
  ]


def _can_spell(texts: Sequence[str], wanted: str) -> bool:
  """Whether tokens put together give exactly that text."""
  known = set(texts) - {''}
  reached = {0}
  for end in range(1, len(wanted) + 1):
    if any(wanted[start:end] in known for start in reached):
      reached.add(end)
  return len(wanted) in reached


def _character_steps(names: Collection[str]):
  """The automaton over characters.

  Returns:
    (steps, forced): for each state a dict from characters to states, '' for
    all others, and the states in which only what the dict has may follow.
  """
  steps: list[dict[str, int]] = []

  def state(otherwise):
    steps.append({'': otherwise})
    return len(steps) - 1

  # The start of a line and each prefix of the marker; then a line's rest.
  line = [state(len(_MARKER) + 1) for _ in range(len(_MARKER) + 1)]
  rest = state(len(_MARKER) + 1)
  ended = state(rest + 1)
  for number, character in enumerate(_MARKER):
    steps[line[number]][character] = line[number + 1]
  for blank in _BLANKS:
    steps[line[0]][blank] = line[0]
    steps[line[-1]][blank] = line[-1]
  for each in (*line, rest):
    steps[each]['\n'] = line[0]
  after = {'': ended}  # what is left to write -> the state in front of it
  for number in reversed(range(len(_AFTER))):
    left = _AFTER[number:]
    after[left] = state(_DEAD)
    steps[after[left]][left[0]] = after[left[1:]]
  prefixes = {'': state(_DEAD)}
  for name in sorted(names):
    for end in range(1, len(name) + 1):
      if name[:end] not in prefixes:
        prefixes[name[:end]] = state(_DEAD)
        before = prefixes[name[: end - 1]]
        steps[before][name[end - 1]] = prefixes[name[:end]]
    steps[prefixes[name]][_AFTER[0]] = after[_AFTER[1:]]
  marked = state(_DEAD)
  steps[marked] |= steps[prefixes['']] | {' ': prefixes['']}
  steps[line[-1]][':'] = marked
  return steps, [n for n, step in enumerate(steps) if step[''] == _DEAD]


def _over_tokens(steps, texts: Sequence[str]) -> np.ndarray:
  """[N, V] int16: the state after each token from each state."""
  alphabet = sorted({character for step in steps for character in step})
  code = {character: number for number, character in enumerate(alphabet)}
  N, dead = len(steps), len(steps)
  moves = np.full((N + 1, len(alphabet)), dead, np.int16)
  for number, step in enumerate(steps):
    for character in alphabet:
      to = step.get(character, step[''])
      moves[number, code[character]] = dead if to == _DEAD else to
  order = sorted(range(len(texts)), key=lambda token: -len(texts[token]))
  lengths = np.array([len(texts[token]) for token in order])
  states = np.repeat(np.arange(N, dtype=np.int16)[:, None], len(texts), axis=1)
  for place in range(lengths[0]):
    count = int(np.sum(lengths > place))
    codes = [code.get(texts[token][place], code['']) for token in order[:count]]
    states[:, :count] = moves[states[:, :count], codes]
  table = np.empty_like(states)
  table[:, order] = np.where(states == dead, _DEAD, states)
  return table


def _forbid_dead_ends(table: np.ndarray, forced: Sequence[int]) -> None:
  """Forbids what leads to where no token is left to finish a name."""
  alive = np.ones(len(table), bool)
  alive[forced] = False
  while True:
    reaches = ((table >= 0) & alive[table]).any(axis=1)
    if (reaches <= alive).all():
      break
    alive |= reaches
  table[(table >= 0) & ~alive[table]] = _DEAD

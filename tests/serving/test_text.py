"""Text that may be sent while a sample still grows."""

import pytest

from mlagent_jax.agent.stop_text import TextStop
from mlagent_jax.serving.text import GrowingText

TEXT = 'Thought: naïve 模型\nAction: stop\nObservation: none'


def decode(ids):
  """A token is a byte, as in byte-level vocabularies."""
  return bytes(ids).decode('utf-8', 'replace')


def pieces(text, strings, size):
  """What is sent, `size` tokens at a time, and what is kept of the tokens."""
  ids, stop = list(text.encode()), TextStop(decode, strings)
  growing, sent, taken = GrowingText(decode, stop, strings), [], []
  while len(taken) < len(ids):
    new = ids[len(taken) : len(taken) + size]
    taken += new
    kept = stop(taken)
    if kept is not None:
      new = new[: kept - (len(taken) - len(new))]
      taken = taken[:kept]
    ended = kept is not None or len(taken) == len(ids)
    sent.append(growing.add(new, ended=ended))
    if ended:
      break
  return sent, taken


@pytest.mark.parametrize('size', [1, 2, 7, 1000])
@pytest.mark.parametrize(
  'strings, wanted',
  [
    ((), TEXT),
    (('\nObservation:',), TEXT[: TEXT.index('\nObservation:')]),
    (('nothing', '型'), 'Thought: naïve 模'),
    (('Thought',), ''),
    (('none at all',), TEXT),  # held back, and sent at the end
  ],
)
def test_what_is_sent_is_the_text_up_to_the_stop_string(size, strings, wanted):
  sent, taken = pieces(TEXT, strings, size)
  assert ''.join(sent) == wanted
  # The tokens that are kept end with the one that completes the stop string.
  stop = next((s for s in strings if s in TEXT), '')
  assert decode(taken) == (wanted + stop if stop else TEXT)


def test_a_token_that_goes_beyond_the_stop_string_is_kept_whole():
  words = ['Act', 'ion', ': a\nOb', 'servation: x']
  stop = TextStop(lambda ids: ''.join(words[i] for i in ids), ['\nObs'])
  assert stop([0, 1, 2]) is None
  assert stop([0, 1, 2, 3, 0]) == 4
  assert stop.cut(''.join(words)) == 'Action: a'


def test_an_empty_stop_string_is_refused():
  with pytest.raises(ValueError, match='stop string is empty'):
    TextStop(decode, ['a', ''])

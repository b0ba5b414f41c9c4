"""Where a reply should have ended, by its text.

A model that has not learned to end its turn goes on and writes the
environment's next observation itself. The protocol's stop strings end it
there.
"""

from collections.abc import Callable, Sequence

# What a reply of a protocol never holds.
STOP_STRINGS = {'full': ('\nObservation:',), 'compact': ()}


class TextStop:
  """Finds the first stop string in what a sample decodes to.

  Args:
    decode: token ids -> text.
    strings: the stop strings; without any, nothing is ever cut.
  """

  def __init__(
    self, decode: Callable[[Sequence[int]], str], strings: Sequence[str]
  ):
    if not all(strings):
      raise ValueError('a stop string is empty')
    self._decode = decode
    self._strings = tuple(strings)

  def __call__(self, ids: Sequence[int]) -> int | None:
    """How many ids to keep: up to the one that completes a stop string.

    None if there is no stop string. That last token was sampled like the
    others, and may hold characters beyond the stop string; `cut` leaves both
    out of the text.
    """
    if not self._strings or not self._holds(ids):
      return None
    none, all_of_it = 0, len(ids)  # a prefix that holds none, and one that does
    while all_of_it - none > 1:
      middle = (none + all_of_it) // 2
      if self._holds(ids[:middle]):
        all_of_it = middle
      else:
        none = middle
    return all_of_it

  def _holds(self, ids: Sequence[int]) -> bool:
    text = self._decode(ids)
    return any(string in text for string in self._strings)

  def cut(self, text: str) -> str:
    """The text before the first stop string."""
    starts = [text.find(string) for string in self._strings]
    return text[: min((start for start in starts if start >= 0), default=None)]

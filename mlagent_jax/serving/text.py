"""Token ids -> text that may be sent while a sample still grows."""

from collections.abc import Callable, Sequence

from mlagent_jax.agent.stop_text import TextStop

_INCOMPLETE = '\ufffd'  # what bytes of half a character decode to


class GrowingText:
  """The text of one sample, as far as it is certain.

  What is sent is a prefix of what the whole sample will decode to: the bytes
  of half a character are held back, and so is whatever a stop string may
  begin with.

  Args:
    decode: token ids -> text.
    stop: the request's stop strings.
    strings: the same, as they are.
  """

  def __init__(
    self,
    decode: Callable[[Sequence[int]], str],
    stop: TextStop,
    strings: Sequence[str],
  ):
    self._decode = decode
    self._stop = stop
    self._strings = strings
    self._ids: list[int] = []
    self._sent = 0

  def add(self, ids: Sequence[int], *, ended: bool) -> str:
    """The text that is certain after these ids, and was not sent yet."""
    self._ids += ids
    text = self._stop.cut(self._decode(self._ids))
    if not ended:
      text = text[: self._certain(text)]
    new = text[self._sent :]
    self._sent = max(self._sent, len(text))
    return new

  def _certain(self, text: str) -> int:
    length = len(text.rstrip(_INCOMPLETE))
    for string in self._strings:
      for part in range(min(len(string) - 1, length), 0, -1):
        if text[:length].endswith(string[:part]):
          length -= part
          break
    return length

"""What a run prints, in bounded memory and as plain text."""

import re

# Escape sequences of terminals, in 7-bit and 8-bit form (ECMA-48): control
# sequences, strings (title, hyperlink, ...) up to their end or the end of the
# line, and the short ones.
_ESCAPES = re.compile(
  '(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]?'
  '|(?:\x1b[\\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*'
  '(?:\x07|\x1b\\\\|\x9c)?'
  '|\x1b[ -/]*[0-~]?'
)
_CONTROLS = {
  code: None
  for code in (*range(0x20), 0x7F, *range(0x80, 0xA0))
  if chr(code) not in '\t\n'
}


class Output:
  """Keeps the beginning and the end of a stream of bytes.

  Attributes:
    total: bytes that came so far.
  """

  def __init__(self, limit: int):
    """Keeps at most `limit` bytes (in memory, twice as much for a moment)."""
    self.total = 0
    self._limit = limit
    self._head_size = limit // 2
    self._tail_size = limit - self._head_size
    self._head = bytearray()
    self._tail = bytearray()

  def add(self, chunk: bytes) -> None:
    """Takes the next bytes of the stream."""
    self.total += len(chunk)
    room = self._head_size - len(self._head)
    if room > 0:
      self._head += chunk[:room]
      chunk = chunk[room:]
    self._tail += chunk[-self._tail_size :]
    if len(self._tail) > 2 * self._tail_size:
      del self._tail[: -self._tail_size]

  def text(self) -> str:
    """The stream as text: at most `limit` bytes of UTF-8.

    What is no UTF-8 becomes U+FFFD, terminal escapes and control characters
    go, and each line ends with a line feed. If something was cut out of the
    middle, a line says how much.
    """
    tail = self._tail[-self._tail_size :]
    cut = self.total - len(self._head) - len(tail)
    if not cut:
      return _shorten(plain_text(bytes(self._head + tail)), self._limit, 0)
    head_text = plain_text(bytes(self._head))
    return _shorten(
      head_text + plain_text(bytes(tail)), self._limit, cut, len(head_text)
    )


def plain_text(raw: bytes) -> str:
  """Decodes bytes of a terminal stream; see `Output.text`."""
  text = raw.decode('utf-8', errors='replace')
  text = _ESCAPES.sub('', text)
  text = text.replace('\r\n', '\n').replace('\r', '\n')
  return text.translate(_CONTROLS)


def _shorten(text: str, limit: int, cut: int, where: int = 0) -> str:
  """Cuts the middle of `text` so that it fits; `cut` bytes are gone already.

  Replacement characters are three bytes long: what fitted as raw bytes may
  not fit any more.
  """
  encoded = text.encode()
  if not cut and len(encoded) <= limit:
    return text
  marker = '\n[… {} bytes cut …]\n'
  room = max(0, limit - len(marker.format(cut + len(encoded)).encode()))
  split = len(text[:where].encode()) if cut else len(encoded) // 2
  head = encoded[: min(split, room // 2)]
  tail_size = min(len(encoded) - split, room - len(head))
  tail = encoded[len(encoded) - tail_size :]
  cut += len(encoded) - len(head) - len(tail)
  # A character cut in two at either edge is dropped.
  middle = marker.format(cut).encode() if limit > 64 else b''
  return b''.join((head, middle, tail)).decode('utf-8', errors='ignore')

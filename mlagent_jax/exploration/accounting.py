"""What an endpoint has cost so far, and the two brakes on it.

A `Ledger` is one append-only file: every answered request adds a line, which
is on disk before the answer is used, so that a resumed run knows what the
killed one spent. Before a request its worst case is reserved: requests that
run at the same time cannot pass the ceiling together.
"""

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator


class CostCeilingError(RuntimeError):
  """The next request might cost more than what is left to spend."""


@dataclasses.dataclass(frozen=True)
class Prices:
  """Money for a million tokens, in any one currency.

  Attributes:
    prompt: of the prompt's tokens.
    completion: of written tokens.
    cached: of prompt tokens that the endpoint had cached; None: as `prompt`.
  """

  prompt: float = 0.0
  completion: float = 0.0
  cached: float | None = None

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if value is not None and value < 0:
        raise ValueError(f'price {field.name} is {value}, less than 0')

  def of(self, usage: 'Usage') -> float:
    """What these tokens cost."""
    cached = self.prompt if self.cached is None else self.cached
    fresh = usage.prompt_tokens - usage.cached_tokens
    return (
      fresh * self.prompt
      + usage.cached_tokens * cached
      + usage.completion_tokens * self.completion
    ) / 1e6


@dataclasses.dataclass(frozen=True)
class Usage:
  """What some requests used; usages add up.

  Attributes:
    requests: answered ones.
    prompt_tokens: all of them, cached ones too.
    cached_tokens: of the prompts, those that the endpoint had cached.
    completion_tokens: written ones.
    seconds: of waiting for answers.
    money: as of `Prices`.
  """

  requests: int = 0
  prompt_tokens: int = 0
  cached_tokens: int = 0
  completion_tokens: int = 0
  seconds: float = 0.0
  money: float = 0.0

  def __add__(self, other: 'Usage') -> 'Usage':
    fields = (field.name for field in dataclasses.fields(self))
    return Usage(
      **{name: getattr(self, name) + getattr(other, name) for name in fields}
    )


class Ledger:
  """The requests of a run, and how much may still be spent. Thread-safe.

  Args:
    file: where lines are appended; None keeps the sums in memory only.
    ceiling: money that all requests in the file may cost; None for no limit.

  Raises:
    ValueError: if the ceiling is negative, or the file is damaged (names the
      line).
  """

  def __init__(
    self,
    file: str | os.PathLike | None = None,
    *,
    ceiling: float | None = None,
  ):
    if ceiling is not None and ceiling < 0:
      raise ValueError(f'the cost ceiling is {ceiling}, less than 0')
    self._file = None if file is None else pathlib.Path(file)
    self._ceiling = ceiling
    self._lock = threading.Lock()
    self._reserved = 0.0
    self._total = Usage()
    if self._file is not None and self._file.exists():
      self._total = _read(self._file)

  @property
  def total(self) -> Usage:
    """Of all requests, those of earlier runs with the same file too."""
    return self._total

  @property
  def left(self) -> float | None:
    """Money that may still be spent; None without a ceiling."""
    if self._ceiling is None:
      return None
    return self._ceiling - self._total.money - self._reserved

  @contextlib.contextmanager
  def reserve(self, worst_case: float) -> Iterator[Callable[[Usage], None]]:
    """Holds money back for one request; yields what takes its usage.

    Args:
      worst_case: money that the request may cost at most.

    Raises:
      CostCeilingError: if that much is not left.
    """
    with self._lock:
      left = self.left
      if left is not None and worst_case > left:
        raise CostCeilingError(
          f'{self._total.money:.4f} of at most {self._ceiling:.4f} are spent'
          f' ({self._reserved:.4f} more are held for requests on their way);'
          f' the next request may cost {worst_case:.4f}. Raise the ceiling to'
          ' go on from here'
        )
      self._reserved += worst_case
    try:
      yield self._add
    finally:
      with self._lock:
        self._reserved -= worst_case

  def _add(self, usage: Usage) -> None:
    with self._lock:
      if self._file is not None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open('a', encoding='utf-8') as stream:
          stream.write(json.dumps(dataclasses.asdict(usage)) + '\n')
          stream.flush()
          os.fsync(stream.fileno())
      self._total += usage


def _read(file: pathlib.Path) -> Usage:
  total = Usage()
  text = file.read_text(encoding='utf-8')
  # A line without its end was being written when its process was killed.
  for number, line in enumerate(text.split('\n')[:-1], 1):
    try:
      total += Usage(**json.loads(line))
    except (ValueError, TypeError) as error:
      raise ValueError(
        f'{file}:{number}: damaged line of the ledger ({error}); what was'
        ' spent is not known any more: put the file right, or use another'
        ' folder'
      ) from error
  if not text.endswith('\n') and text:
    with file.open('r+', encoding='utf-8') as stream:
      stream.truncate(
        len(text.rpartition('\n')[0].encode()) + (1 if '\n' in text else 0)
      )
  return total


class RateLimit:
  """At most so many requests and tokens in any 60 seconds. Thread-safe.

  Args:
    requests: a minute; 0 for no limit.
    tokens: a minute, prompt and completion; 0 for no limit.
    clock: seconds.
    sleep: waits for seconds.
  """

  WINDOW = 60.0

  def __init__(
    self,
    *,
    requests: int = 0,
    tokens: int = 0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
  ):
    if requests < 0 or tokens < 0:
      raise ValueError(
        f'a rate limit is negative: {requests} requests, {tokens} tokens'
      )
    self._requests, self._tokens = requests, tokens
    self._clock, self._sleep = clock, sleep
    self._lock = threading.Lock()
    self._recent: collections.deque[tuple[float, int]] = collections.deque()

  def wait(self, tokens: int) -> float:
    """Waits until a request of so many tokens may begin; returns seconds.

    Raises:
      ValueError: if the request alone is more than a minute allows.
    """
    if 0 < self._tokens < tokens:
      raise ValueError(
        f'a request of up to {tokens} tokens never fits a limit of'
        f' {self._tokens} tokens a minute; lower max_tokens or raise the limit'
      )
    waited = 0.0
    while (pause := self._try(tokens)) > 0:
      self._sleep(pause)
      waited += pause
    return waited

  def _try(self, tokens: int) -> float:
    """0 if the request may begin now (it is counted), else when to ask."""
    with self._lock:
      now = self._clock()
      while self._recent and now - self._recent[0][0] >= self.WINDOW:
        self._recent.popleft()
      count = len(self._recent)
      used = sum(size for _, size in self._recent)
      full = 0 < self._requests <= count
      if full or (self._tokens and used + tokens > self._tokens):
        return max(1e-3, self.WINDOW - (now - self._recent[0][0]))
      self._recent.append((now, tokens))
      return 0.0

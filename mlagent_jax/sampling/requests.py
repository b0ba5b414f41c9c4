"""What is asked of the sampler, and what comes of it."""

import dataclasses
import math
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Settings:
  """How the samples of a request are drawn.

  Attributes:
    temperature: divides the logits; 0 is greedy.
    top_p: see `drawing.restrict`; 1 for none.
    top_k: see `drawing.restrict`; 0 for none.
    max_tokens: of a sample, its stop token included; None for as many as the
      engine has room for.
    top_logprobs: how many of the likeliest tokens are told beside each that
      was drawn.
  """

  temperature: float = 1.0
  top_p: float = 1.0
  top_k: int = 0
  max_tokens: int | None = None
  top_logprobs: int = 0

  def __post_init__(self):
    for name, fine in (
      ('temperature', 0 <= self.temperature < math.inf),
      ('top_p', 0 < self.top_p <= 1),
      ('top_k', self.top_k >= 0),
      ('max_tokens', self.max_tokens is None or self.max_tokens >= 1),
      ('top_logprobs', self.top_logprobs >= 0),
    ):
      if not fine:
        raise ValueError(f'sampler: {name} is {getattr(self, name)}')


@dataclasses.dataclass
class Sample:
  """One sample, while it grows and when it has ended.

  Attributes:
    seed: uint32.
    tokens: ids; the token that ended it, if one did, is the last.
    logps: log-probability of each, nats.
    likeliest: in place of each token, (id, log-probability) of the likeliest
      ones; empty unless they were asked for.
    ended_by: '' as long as it grows; then 'stop_token', 'stop' (the request's
      own), 'length' or 'cancelled'.
  """

  seed: int
  tokens: list[int] = dataclasses.field(default_factory=list)
  logps: list[float] = dataclasses.field(default_factory=list)
  likeliest: list[tuple[tuple[int, float], ...]] = dataclasses.field(
    default_factory=list
  )
  ended_by: str = ''


@dataclasses.dataclass(eq=False)
class Request:
  """What `Engine.submit` returns.

  Attributes:
    prompt: token ids.
    settings: how samples are drawn.
    samples: one for each seed.
    stop: token ids of a sample -> how many of them to keep, or None to go on.
  """

  prompt: tuple[int, ...]
  settings: Settings
  samples: list[Sample]
  stop: Callable[[list[int]], int | None] | None = None

  @property
  def done(self) -> bool:
    """Whether every sample has ended."""
    return all(sample.ended_by for sample in self.samples)

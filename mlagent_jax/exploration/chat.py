"""The one interface of everything that writes text for the explorer.

An endpoint (`llm.Endpoint`) and the policy itself (`serving.policy_chat`)
both are a `ChatModel`: experts, writers of ideas and the editor take either.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

Message = Mapping[str, str]


class TooLongError(RuntimeError):
  """A prompt has more tokens than the model reads."""


@dataclasses.dataclass(frozen=True)
class Completion:
  """One answer.

  Attributes:
    text: without the stop text.
    finish_reason: 'stop'; 'length' if max_tokens cut it.
    prompt_tokens: of the request that it answers.
    completion_tokens: of this answer; of a request for several, its share.
    money: likewise.
  """

  text: str
  finish_reason: str
  prompt_tokens: int = 0
  completion_tokens: int = 0
  money: float = 0.0


class ChatModel(Protocol):
  """Writes answers to chat messages. Thread-safe.

  Attributes:
    name: under which its work is recorded.
  """

  name: str

  def complete(
    self,
    messages: Sequence[Message],
    *,
    n: int = 1,
    max_tokens: int,
    temperature: float = 1.0,
    stop: Sequence[str] = (),
    seed: int | None = None,
  ) -> list[Completion]:
    """N answers.

    Args:
      messages: {'role', 'content'} each; the last one is the user's.
      n: how many.
      max_tokens: of one answer.
      temperature: 0 takes the likeliest token.
      stop: an answer ends before any of these texts.
      seed: for the same answers again, as far as the model can.

    Raises:
      TooLongError: if the model cannot read so many tokens.
    """

  def count_tokens(self, messages: Sequence[Message]) -> int:
    """Tokens of a prompt; an upper estimate if the tokenizer is not known."""

"""What was generated -> bodies of replies and of the chunks of a stream."""

import dataclasses
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from mlagent_jax.agent.stop_text import TextStop
from mlagent_jax.serving.driver import Progress
from mlagent_jax.serving.requests import Generation
from mlagent_jax.serving.text import GrowingText

_REASONS = {'stop_token': 'stop', 'stop': 'stop', 'length': 'length'}


@dataclasses.dataclass
class _Choice:
  """One sample as its client sees it."""

  growing: GrowingText
  text: str = ''
  tokens: list[int] = dataclasses.field(default_factory=list)
  logps: list[float] = dataclasses.field(default_factory=list)
  likeliest: list[tuple] = dataclasses.field(default_factory=list)
  ended_by: str = ''

  @property
  def reason(self) -> str | None:
    """OpenAI's finish_reason."""
    return _REASONS.get(self.ended_by)


class Reply:
  """The reply to one generation, whole or as a stream.

  Args:
    generation: what was asked for.
    model: the name that is served.
    decode: token ids -> text, without stop tokens.
    chat: a chat completion, or a plain one.
  """

  def __init__(
    self,
    generation: Generation,
    model: str,
    decode: Callable[[Sequence[int]], str],
    *,
    chat: bool,
  ):
    self._generation = generation
    self._decode = decode
    self._chat = chat
    kind = 'chat.completion' if chat else 'text_completion'
    prefix = 'chatcmpl' if chat else 'cmpl'
    self._head = {
      'id': f'{prefix}-{uuid.uuid4().hex}',
      'object': kind + ('.chunk' if generation.stream and chat else ''),
      'created': int(time.time()),
      'model': model,
    }
    self.stop = TextStop(decode, generation.stop)
    self._choices = [
      _Choice(GrowingText(decode, self.stop, generation.stop))
      for _ in generation.seeds
    ]

  def first_chunks(self) -> list[dict]:
    """What a stream of a chat begins with: who speaks."""
    if not self._chat:
      return []
    delta = {'delta': {'role': 'assistant', 'content': ''}}
    return [
      self._chunk(index, delta, None, None, ())
      for index in range(len(self._choices))
    ]

  def add(self, progress: Progress) -> dict | None:
    """Takes what a sample has added; its chunk, if there is news to send."""
    choice = self._choices[progress.index]
    choice.ended_by = progress.ended_by
    new = choice.growing.add(progress.tokens, ended=bool(progress.ended_by))
    choice.text += new
    choice.tokens += progress.tokens
    choice.logps += progress.logps
    choice.likeliest += progress.likeliest
    logprobs = self._logprobs(progress)
    if not (new or choice.reason or logprobs):
      return None
    part = {'delta': {'content': new}} if self._chat else {'text': new}
    return self._chunk(
      progress.index, part, choice.reason, logprobs, progress.tokens
    )

  def usage_chunk(self) -> dict:
    """What a stream ends with if the client asked for token counts."""
    return self._head | {'choices': [], 'usage': self._usage()}

  def body(self) -> dict:
    """The whole reply."""
    choices = []
    for index, choice in enumerate(self._choices):
      part: dict[str, Any] = {'text': choice.text}
      if self._chat:
        message = {'role': 'assistant', 'content': choice.text}
        part = {'message': message | {'refusal': None}}
      logprobs = self._logprobs(choice)
      choices.append(
        self._choice(index, part, choice.reason, logprobs, choice.tokens)
      )
    return self._head | {'choices': choices, 'usage': self._usage()}

  def _usage(self) -> dict:
    prompt = len(self._generation.prompt)
    completion = sum(len(choice.tokens) for choice in self._choices)
    return {
      'prompt_tokens': prompt,
      'completion_tokens': completion,
      'total_tokens': prompt + completion,
    }

  def _chunk(self, *choice) -> dict:
    return self._head | {'choices': [self._choice(*choice)]}

  def _choice(self, index, part, reason, logprobs, tokens) -> dict:
    made = {'index': index, **part, 'logprobs': logprobs}
    made['finish_reason'] = reason
    if self._generation.token_ids:
      made['token_ids'] = list(tokens)
    return made

  def _logprobs(self, grown: Progress | _Choice) -> dict | None:
    """Log-probabilities of tokens, in the form of the endpoint.

    The token that ended the turn has no text, and is left out as OpenAI does.
    """
    tokens = grown.tokens
    if grown.ended_by == 'stop_token':
      tokens = tokens[:-1]
    if not self._generation.logprobs or not tokens:
      return None
    drawn = list(zip(tokens, grown.logps))
    rivals = grown.likeliest or [()] * len(drawn)
    if self._chat:
      content = [
        self._token(pair) | {'top_logprobs': [self._token(r) for r in others]}
        for pair, others in zip(drawn, rivals)
      ]
      return {'content': content, 'refusal': None}
    top = None
    if grown.likeliest:
      # As OpenAI's: the token that was drawn is always among them.
      top = [
        {self._decode([token]): logp for token, logp in (pair, *others)}
        for pair, others in zip(drawn, rivals)
      ]
    return {
      'tokens': [self._decode([token]) for token in tokens],
      'token_logprobs': [logp for _, logp in drawn],
      'top_logprobs': top,
      'text_offset': None,
    }

  def _token(self, pair: tuple[int, float]) -> dict:
    token, logp = pair
    text = self._decode([token])
    bytes_ = list(text.encode('utf-8', 'replace'))
    return {'token': text, 'logprob': logp, 'bytes': bytes_}

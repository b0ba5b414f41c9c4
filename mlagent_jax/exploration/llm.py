"""Any OpenAI-compatible endpoint as a `ChatModel`.

The `openai` client (extra `llm`) does HTTP, and tries again, with back-off and
the server's Retry-After, what may pass: lost connections, 408, 409, 429, 5xx.
Here are the brakes (rate limits, a cost ceiling, see `accounting`), the
accounting, and one clear error for everything that does not pass.

Prompts of this project begin with what stays the same in an episode (tools,
problem) and end with what changes, so that caches of prefixes work.
"""

import dataclasses
import os
import time
from collections.abc import Sequence

from mlagent_jax.exploration import accounting
from mlagent_jax.exploration.chat import Completion, Message, TooLongError

# Characters a token of English or code, at the least; for reservations.
_CHARACTERS_PER_TOKEN = 2.5
_TOKENS_PER_MESSAGE = 8


class EndpointError(RuntimeError):
  """The endpoint cannot be used; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class EndpointConfig:
  """Which endpoint, and how hard it may be driven.

  Attributes:
    model: the model's name there.
    base_url: such as http://127.0.0.1:8000/v1; empty: $OPENAI_BASE_URL, or
      OpenAI's own.
    api_key_variable: environment variable that holds the key.
    timeout: seconds for one request.
    max_retries: of one request; waits double from 0.5 s up to 8 s, or are what
      the server asks for.
    requests_per_minute: 0 for no limit.
    tokens_per_minute: 0 for no limit.
    prices: of tokens.
  """

  model: str
  base_url: str = ''
  api_key_variable: str = 'OPENAI_API_KEY'
  timeout: float = 120.0
  max_retries: int = 6
  requests_per_minute: int = 0
  tokens_per_minute: int = 0
  prices: accounting.Prices = accounting.Prices()


class Endpoint:
  """A model behind an endpoint; see `chat.ChatModel`. Thread-safe.

  Args:
    config: which one.
    ledger: takes what requests use, and may stop them.

  Raises:
    EndpointError: if the client is not installed, or there is no key.
  """

  def __init__(
    self,
    config: EndpointConfig,
    ledger: accounting.Ledger | None = None,
  ):
    try:
      import openai
    except ModuleNotFoundError as error:
      raise EndpointError(
        "endpoints need the openai client: pip install 'mlagent_jax[llm]'"
      ) from error
    self._openai = openai
    key = os.environ.get(config.api_key_variable)
    if not key:
      raise EndpointError(
        f'no key for {config.model!r}: set ${config.api_key_variable} (any text'
        ' if the server wants none)'
      )
    self.config = config
    self.name = config.model
    self.ledger = ledger or accounting.Ledger()
    self._limit = accounting.RateLimit(
      requests=config.requests_per_minute, tokens=config.tokens_per_minute
    )
    self._client = openai.OpenAI(
      api_key=key,
      base_url=config.base_url or None,
      timeout=config.timeout,
      max_retries=config.max_retries,
    )

  @property
  def where(self) -> str:
    """Model and address, for messages."""
    return f'{self.name!r} at {self._client.base_url}'

  def check(self) -> None:
    """Asks the endpoint for its models: fails at start-up, costs nothing.

    Raises:
      EndpointError: if it cannot be reached, refuses the key, or does not have
        the model.
    """
    with self._translated():
      known = [model.id for model in self._client.models.list()]
    if known and self.name not in known:
      shown = ', '.join(sorted(known)[:8])
      raise EndpointError(
        f'{self._client.base_url} has no model {self.name!r}; it has'
        f' {len(known)}: {shown}'
      )

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
    """See `chat.ChatModel`.

    Raises:
      TooLongError: if the endpoint says so of the prompt.
      EndpointError: if the endpoint fails for good.
      CostCeilingError: if the answer might cost more than what is left.
    """
    prompt_tokens = self.count_tokens(messages)
    worst = accounting.Usage(
      prompt_tokens=prompt_tokens, completion_tokens=n * max_tokens
    )
    options = {'stop': list(stop)} if stop else {}
    if seed is not None:
      options['seed'] = seed
    with self.ledger.reserve(self.config.prices.of(worst)) as settle:
      self._limit.wait(prompt_tokens + n * max_tokens)
      start = time.monotonic()
      with self._translated():
        answer = self._client.chat.completions.create(
          model=self.name,
          messages=[dict(message) for message in messages],
          n=n,
          max_tokens=max_tokens,
          temperature=temperature,
          **options,
        )
      usage = self._usage(answer, worst, time.monotonic() - start)
      settle(usage)
    choices = answer.choices or []
    if len(choices) != n:
      raise EndpointError(
        f'{self.where} gave {len(choices)} answers to a request for {n}'
      )
    return [
      Completion(
        # An empty answer is the agent's: it will not parse.
        _encodable(choice.message.content or ''),
        choice.finish_reason or 'stop',
        usage.prompt_tokens,
        usage.completion_tokens // n,
        usage.money / n,
      )
      for choice in choices
    ]

  def count_tokens(self, messages: Sequence[Message]) -> int:
    """An upper estimate from the number of characters."""
    characters = sum(len(message['content']) for message in messages)
    extra = _TOKENS_PER_MESSAGE * len(messages)
    return int(characters / _CHARACTERS_PER_TOKEN) + extra

  def _usage(self, answer, worst, seconds) -> accounting.Usage:
    said = answer.usage
    if said is None:
      # Servers that do not count: what it may have been at most.
      used = worst
    else:
      details = getattr(said, 'prompt_tokens_details', None)
      used = accounting.Usage(
        prompt_tokens=said.prompt_tokens,
        cached_tokens=getattr(details, 'cached_tokens', None) or 0,
        completion_tokens=said.completion_tokens,
      )
    return dataclasses.replace(
      used, requests=1, seconds=seconds, money=self.config.prices.of(used)
    )

  def _translated(self):
    return _Translated(self)


def _encodable(text: str) -> str:
  """The text without half characters, which JSON can hold and no file can."""
  return text.encode('utf-8', 'replace').decode('utf-8')


class _Translated:
  """A context: the client's errors become `EndpointError`, with advice."""

  def __init__(self, endpoint: Endpoint):
    self._endpoint = endpoint

  def __enter__(self):
    return self

  def __exit__(self, kind, error, traceback):
    openai, config = self._endpoint._openai, self._endpoint.config
    if not isinstance(error, openai.OpenAIError | ValueError):
      return
    tries = f'after {config.max_retries + 1} tries'
    if isinstance(
      error, openai.AuthenticationError | openai.PermissionDeniedError
    ):
      advice = f'refuses the key of ${config.api_key_variable}'
    elif isinstance(error, openai.RateLimitError):
      advice = (
        f'is over its rate limit or quota {tries}; set requests_per_minute or'
        ' tokens_per_minute to what it allows'
      )
    elif isinstance(error, openai.NotFoundError):
      advice = 'does not have this model or address'
    elif isinstance(error, openai.APITimeoutError):
      advice = f'did not answer within {config.timeout:g} s {tries}'
    elif isinstance(error, openai.APIConnectionError):
      advice = f'cannot be reached {tries}'
    elif isinstance(error, openai.BadRequestError):
      advice = 'refuses the request'
    elif isinstance(error, openai.InternalServerError):
      advice = f'fails {tries}'
    else:
      advice = 'sent what is no answer'
    kind = EndpointError
    if getattr(error, 'code', None) == 'context_length_exceeded':
      kind = TooLongError
    raise kind(
      f'{self._endpoint.where} {advice}: {str(error)[:500]}'
    ) from error

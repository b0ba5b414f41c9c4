"""Bodies of requests -> what to generate; whatever is wrong is said.

Parameters that would change the reply and that we do not carry out are
refused; those that cannot (user, metadata, store, …) are ignored.
"""

import dataclasses
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlagent_jax import sampling
from mlagent_jax.serving import errors

MAX_SAMPLES = 128  # n of one request, as OpenAI's
MAX_STOPS = 16
_IGNORED = frozenset(
  {
    'user',
    'metadata',
    'store',
    'service_tier',
    'safety_identifier',
    'prompt_cache_key',
    'parallel_tool_calls',
  }
)
# Parameter -> the values that ask for nothing.
_NEUTRAL = {
  'frequency_penalty': (0, None),
  'presence_penalty': (0, None),
  'logit_bias': ({}, None),
  'tools': ([], None),
  'tool_choice': ('none', 'auto', None),
  'functions': ([], None),
  'response_format': ({'type': 'text'}, None),
  'modalities': (['text'], None),
  'echo': (False, None),
  'suffix': ('', None),
  'best_of': (1, None),
}
_COMMON = {
  'model',
  'n',
  'temperature',
  'top_p',
  'top_k',
  'max_tokens',
  'stop',
  'stream',
  'stream_options',
  'seed',
  'logprobs',
  'return_token_ids',
}
_CHAT = _COMMON | {'messages', 'max_completion_tokens', 'top_logprobs'}
_COMPLETION = _COMMON | {'prompt'}
_ROLES = ('system', 'developer', 'user', 'assistant')


@dataclasses.dataclass(frozen=True)
class Generation:
  """What a request asks for.

  Attributes:
    prompt: token ids.
    settings: of the sampler.
    seeds: one a sample.
    stop: strings.
    stream: send text as it grows.
    usage: the stream ends with a chunk of token counts.
    logprobs: send them.
    token_ids: send them too (an extension, as vLLM's).
  """

  prompt: tuple[int, ...]
  settings: sampling.Settings
  seeds: tuple[int, ...]
  stop: tuple[str, ...]
  stream: bool
  usage: bool
  logprobs: bool
  token_ids: bool


def parse_chat(
  body: Any, model: str, encode: Callable, limits: sampling.Room
) -> Generation:
  """A body of /v1/chat/completions.

  Args:
    body: decoded JSON.
    model: the name that is served.
    encode: messages -> token ids.
    limits: of the engine.

  Raises:
    ApiError: says what is wrong.
  """
  body = _checked(body, _CHAT, model)
  messages = _messages(body.get('messages'))
  logprobs = _boolean(body, 'logprobs')
  top = _number(body, 'top_logprobs', int, 0, sampling.LIKELIEST, 0)
  if top and not logprobs:
    raise errors.bad_value('top_logprobs', 'needs logprobs to be true')
  limit = body.get('max_completion_tokens')
  limit = body.get('max_tokens') if limit is None else limit
  prompt = encode(messages)
  return _generation(body, prompt, limit, logprobs, top, limits)


def parse_completion(
  body: Any, model: str, encode: Callable, limits: sampling.Room
) -> Generation:
  """A body of /v1/completions: the prompt is a text or token ids.

  Args:
    body: decoded JSON.
    model: the name that is served.
    encode: text -> token ids.
    limits: of the engine.

  Raises:
    ApiError: says what is wrong.
  """
  body = _checked(body, _COMPLETION, model)
  prompt = body.get('prompt')
  if isinstance(prompt, list) and len(prompt) == 1:
    (prompt,) = prompt if isinstance(prompt[0], (str, list)) else (prompt,)
  if isinstance(prompt, str) and prompt:
    prompt = encode(prompt)
  elif not (
    isinstance(prompt, list)
    and prompt
    and all(type(token) is int and token >= 0 for token in prompt)
  ):
    raise errors.bad_value(
      'prompt', 'one text that is not empty, or one list of token ids'
    )
  top = _number(body, 'logprobs', int, 0, sampling.LIKELIEST, None)
  limit = body.get('max_tokens')
  return _generation(body, prompt, limit, top is not None, top or 0, limits)


def _checked(body: Any, known: set[str], model: str) -> Mapping[str, Any]:
  if not isinstance(body, dict):
    raise errors.ApiError(400, 'the body must be a JSON object')
  for name, value in body.items():
    if name in known or name in _IGNORED:
      continue
    if name not in _NEUTRAL:
      raise errors.ApiError(
        400,
        f'unrecognized request argument: {name}',
        param=name,
        code='unknown_parameter',
      )
    if value not in _NEUTRAL[name]:
      raise errors.bad_value(
        name, 'is not supported by this server', 'unsupported_parameter'
      )
  if body.get('model') != model:
    raise errors.no_model(body.get('model'), model)
  return body


def _generation(
  body, prompt, max_tokens, logprobs, top_logprobs, limits
) -> Generation:
  param = 'messages' if 'messages' in body else 'prompt'
  if len(prompt) > limits.prompt_length:
    raise errors.too_long(param, len(prompt), limits.prompt_length)
  if not prompt:
    raise errors.bad_value(param, 'is a prompt of no token')
  n = _number(body, 'n', int, 1, MAX_SAMPLES, 1)
  top = limits.sample_length
  if max_tokens is not None:
    max_tokens = _number({'max_tokens': max_tokens}, 'max_tokens', int, 1, top)
  settings = sampling.Settings(
    temperature=_number(body, 'temperature', float, 0, 2, 1.0),
    top_p=_number(body, 'top_p', float, 0, 1, 1.0) or 1e-9,
    top_k=_number(body, 'top_k', int, 0, 2**31 - 1, 0),
    max_tokens=max_tokens,
    top_logprobs=top_logprobs,
  )
  seed = _number(body, 'seed', int, -(2**63), 2**63 - 1, None)
  options = body.get('stream_options') or {}
  if not isinstance(options, dict):
    raise errors.bad_value('stream_options', 'must be an object')
  return Generation(
    tuple(prompt),
    settings,
    sample_seeds(seed, n),
    _stops(body.get('stop')),
    _boolean(body, 'stream'),
    bool(options.get('include_usage')),
    logprobs,
    _boolean(body, 'return_token_ids'),
  )


def sample_seeds(seed: int | None, n: int) -> tuple[int, ...]:
  """One seed a sample; sample i of a seed is the same whatever n is."""
  if seed is None:
    seed = secrets.randbits(63)
  return tuple(
    int(np.random.SeedSequence([seed % 2**64, i]).generate_state(1)[0])
    for i in range(n)
  )


def _messages(messages: Any) -> list[dict[str, str]]:
  if not isinstance(messages, list) or not messages:
    raise errors.bad_value('messages', 'must be a list with a message')
  plain = []
  for number, message in enumerate(messages):
    where = f'messages[{number}]'
    if not isinstance(message, dict) or message.get('role') not in _ROLES:
      raise errors.bad_value(where, f'needs a role, one of {_ROLES}')
    content = message.get('content')
    if isinstance(content, list):
      content = _joined(content, where)
    if not isinstance(content, str):
      raise errors.bad_value(where, 'needs a content that is a text')
    role = message['role']
    role = 'system' if role == 'developer' else role
    plain.append({'role': role, 'content': content})
  return plain


def _joined(parts: Sequence[Any], where: str) -> str:
  texts = []
  for part in parts:
    fine = isinstance(part, dict) and part.get('type') == 'text'
    if not fine or not isinstance(part.get('text'), str):
      raise errors.bad_value(where, 'only parts of type text are supported')
    texts.append(part['text'])
  return ''.join(texts)


def _stops(stop: Any) -> tuple[str, ...]:
  if stop is None:
    return ()
  stops = [stop] if isinstance(stop, str) else stop
  if (
    not isinstance(stops, list)
    or len(stops) > MAX_STOPS
    or not all(isinstance(s, str) and s for s in stops)
  ):
    raise errors.bad_value(
      'stop', f'must be a text or at most {MAX_STOPS} texts, none of them empty'
    )
  return tuple(stops)


def _boolean(body, name: str) -> bool:
  value = body.get(name)
  if value not in (None, True, False):
    raise errors.bad_value(name, f'must be true or false, not {value!r}')
  return bool(value)


def _number(body, name: str, kind: type, low, high, default=None):
  """A number of the body within [low, high]; the default if it is absent."""
  value = body.get(name)
  if value is None:
    return default
  types = (int,) if kind is int else (int, float)
  if type(value) not in types or not low <= value <= high:
    what = 'an integer' if kind is int else 'a number'
    raise errors.bad_value(
      name, f'must be {what} from {low} to {high}, not {value!r}'
    )
  return kind(value)

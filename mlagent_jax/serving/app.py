"""The HTTP side: routes, keys, errors, streams (aiohttp)."""

import contextlib
import dataclasses
import hmac
import json
import time
from collections.abc import Callable

from aiohttp import web

from mlagent_jax.serving import driver as driver_lib
from mlagent_jax.serving import errors, replies, requests

_MAX_BODY = 16 * 2**20  # bytes


@dataclasses.dataclass
class Served:
  """What the application serves.

  Attributes:
    driver: of the engine.
    tokenizer: from `agent.tokenizer`.
    model: its name.
    limits: room of the engine.
    api_key: what clients must send; '' for none.
    draining: no new requests are taken.
  """

  driver: driver_lib.Driver
  tokenizer: object
  model: str
  limits: object
  api_key: str = ''
  draining: bool = False
  created: int = dataclasses.field(default_factory=lambda: int(time.time()))


def make_app(served: Served) -> web.Application:
  """The application; run it with handler_cancellation, see `serve`."""

  @web.middleware
  async def middleware(request, handler):
    try:
      if request.path.startswith('/v1/'):
        _check_key(request, served.api_key)
      return await handler(request)
    except errors.ApiError as error:
      return web.json_response(error.body, status=error.status)
    except driver_lib.QueueFullError as error:
      body = errors.queue_full(str(error)).body
      return web.json_response(body, status=429, headers={'Retry-After': '1'})
    except driver_lib.EngineFailedError as error:
      error = errors.unavailable(str(error))
      return web.json_response(error.body, status=error.status)
    except web.HTTPException as error:
      told = errors.ApiError(
        error.status, f'{request.method} {request.path}: {error.reason}'
      )
      headers = {k: v for k, v in error.headers.items() if k == 'Allow'}
      return web.json_response(told.body, status=told.status, headers=headers)

  async def chat(request):
    body = await _json(request)
    encode = _encoder(served.tokenizer)
    generation = requests.parse_chat(body, served.model, encode, served.limits)
    return await _generate(request, served, generation, chat=True)

  async def completions(request):
    body = await _json(request)
    generation = requests.parse_completion(
      body, served.model, served.tokenizer.encode_text, served.limits
    )
    _check_ids(generation.prompt, served.tokenizer.vocab_size)
    return await _generate(request, served, generation, chat=False)

  async def models(request):
    del request
    return web.json_response({'object': 'list', 'data': [_model(served)]})

  async def model(request):
    name = request.match_info['name']
    if name != served.model:
      raise errors.no_model(name, served.model)
    return web.json_response(_model(served))

  async def health(request):
    del request
    failed = served.driver.failure is not None
    status = 'failed' if failed else 'draining' if served.draining else 'ok'
    open_samples, slots = served.driver.open_samples, served.driver.slots
    body = {
      'status': status,
      'model': served.model,
      'slots': slots,
      'decoding': min(open_samples, slots),
      'waiting': max(open_samples - slots, 0),
    }
    return web.json_response(body, status=200 if status == 'ok' else 503)

  app = web.Application(middlewares=[middleware], client_max_size=_MAX_BODY)
  app.add_routes(
    [
      web.post('/v1/chat/completions', chat),
      web.post('/v1/completions', completions),
      web.get('/v1/models', models),
      web.get('/v1/models/{name:.+}', model),
      web.get('/health', health),
    ]
  )
  return app


def _check_key(request, key: str) -> None:
  if not key:
    return
  kind, _, sent = request.headers.get('Authorization', '').partition(' ')
  same = hmac.compare_digest(sent.strip().encode(), key.encode())
  if kind.lower() != 'bearer' or not same:
    raise errors.wrong_key()


async def _json(request):
  try:
    return json.loads(await request.read())
  except (ValueError, RecursionError) as error:
    raise errors.ApiError(
      400, f'the body is not valid JSON: {error}', code='invalid_json'
    ) from error


def _encoder(tokenizer) -> Callable:
  def encode(messages):
    import jinja2  # comes with transformers' chat templates

    try:
      return tokenizer.encode_prompt(messages)
    except jinja2.TemplateError as error:
      raise errors.bad_value(
        'messages', f"the model's chat template refuses them: {error}"
      ) from error

  return encode


def _check_ids(ids, vocab_size: int) -> None:
  if max(ids) >= vocab_size:
    raise errors.bad_value(
      'prompt', f'token {max(ids)} is not below {vocab_size}'
    )


def _model(served: Served) -> dict:
  return {
    'id': served.model,
    'object': 'model',
    'created': served.created,
    'owned_by': 'mlagent_jax',
    'max_prompt_tokens': served.limits.prompt_length,
    'max_tokens': served.limits.sample_length,
  }


async def _generate(request, served: Served, generation, *, chat: bool):
  """Generates, and replies at once or as a stream.

  When the client goes away, aiohttp cancels this coroutine or a write fails;
  either way the samples are cancelled and their slots are free again.
  """
  if served.draining:
    raise errors.unavailable('the server is shutting down')
  reply = replies.Reply(
    generation, served.model, served.tokenizer.decode, chat=chat
  )
  listener = served.driver.submit(
    generation.prompt,
    generation.settings,
    generation.seeds,
    reply.stop if generation.stop else None,
  )
  try:
    if generation.stream:
      return await _stream(request, served, listener, reply, generation.usage)
    async for progress in served.driver.listen(listener):
      reply.add(progress)
    return web.json_response(reply.body())
  finally:
    served.driver.cancel(listener)


async def _stream(request, served, listener, reply, usage: bool):
  response = web.StreamResponse(
    headers={'Content-Type': 'text/event-stream', 'Cache-Control': 'no-cache'}
  )

  async def send(text: str):
    await response.write(f'data: {text}\n\n'.encode())

  # A client that went away has nobody to be told.
  with contextlib.suppress(ConnectionResetError):
    await response.prepare(request)
    for chunk in reply.first_chunks():
      await send(json.dumps(chunk))
    try:
      async for progress in served.driver.listen(listener):
        chunk = reply.add(progress)
        if chunk is not None:
          await send(json.dumps(chunk))
    except driver_lib.EngineFailedError as error:
      await send(json.dumps(errors.unavailable(str(error)).body))
      return response
    if usage:
      await send(json.dumps(reply.usage_chunk()))
    await send('[DONE]')
  return response

"""Errors as OpenAI's API reports them: a status and an error object."""


class ApiError(Exception):
  """What the client is told.

  Attributes:
    status: of HTTP.
    body: {'error': {'message', 'type', 'param', 'code'}}.
  """

  def __init__(
    self,
    status: int,
    message: str,
    *,
    kind: str = 'invalid_request_error',
    param: str | None = None,
    code: str | None = None,
  ):
    super().__init__(message)
    self.status = status
    error = {'message': message, 'type': kind, 'param': param, 'code': code}
    self.body = {'error': error}


def bad_value(param: str, message: str, code: str = 'invalid_value'):
  """A 400 about one parameter of the request."""
  return ApiError(400, f'{param}: {message}', param=param, code=code)


def no_model(name: object, known: str) -> ApiError:
  """A 404 about a model that is not served."""
  return ApiError(
    404,
    f'the model {name!r} is not served here; {known!r} is',
    param='model',
    code='model_not_found',
  )


def wrong_key() -> ApiError:
  """A 401."""
  return ApiError(
    401,
    'missing or wrong API key; send it as "Authorization: Bearer KEY"',
    code='invalid_api_key',
  )


def queue_full(message: str) -> ApiError:
  """A 429."""
  return ApiError(
    429, message, kind='rate_limit_error', code='rate_limit_exceeded'
  )


def too_long(param: str, prompt: int, limit: int) -> ApiError:
  """A 400 about a prompt."""
  return ApiError(
    400,
    f"this model's prompts have at most {limit} tokens; yours has {prompt}",
    param=param,
    code='context_length_exceeded',
  )


def unavailable(message: str) -> ApiError:
  """A 503: shutting down, or the engine is gone."""
  return ApiError(503, message, kind='server_error', code='unavailable')

"""Chat models of a config: who `collect.expert` and `agent.editor` name.

They cost money, so everything about them that can be wrong is found before a
stage begins; what they cost is in `endpoint.jsonl` of the work directory, and
counts against `endpoint.max_cost` in every later start too.
"""

import pathlib

from mlagent_jax.exploration import accounting, chat_editor, llm
from mlagent_jax.exploration.chat import ChatModel

KINDS = ('endpoint',)
EXPERTS = ('scripted', *KINDS)
EDITORS = ('', *KINDS)


class ChatModels:
  """Makes each chat model of a config once, when it is first asked for.

  Args:
    config: the whole config.
    folder: the work directory; the ledger is in it.
  """

  def __init__(self, config, folder: pathlib.Path):
    self._config = config
    self._folder = folder
    self._made: dict[str, ChatModel] = {}

  def get(self, kind: str) -> ChatModel:
    """The chat model of a kind.

    Raises:
      EndpointError: if it cannot be used.
      ValueError: if the config's numbers make no sense.
    """
    if kind not in self._made:
      self._made[kind] = make_endpoint(self._config.endpoint, self._folder)
    return self._made[kind]

  def editor(self) -> chat_editor.ChatEditor | None:
    """The config's editor, or None."""
    kind = self._config.agent.editor
    if not kind:
      return None
    return chat_editor.ChatEditor(
      self.get(kind), max_tokens=self._config.endpoint.max_edit_tokens
    )


def make_endpoint(settings, folder: pathlib.Path) -> llm.Endpoint:
  """The endpoint of a config, asked for its models.

  Raises:
    EndpointError, ValueError: as `ChatModels.get`.
  """
  if not settings.model:
    raise ValueError(
      'endpoint.model is empty: name the model that collect.expert or'
      ' agent.editor is to be'
    )
  prices = accounting.Prices(
    settings.prompt_price,
    settings.completion_price,
    None if settings.cached_price < 0 else settings.cached_price,
  )
  if settings.max_cost and not (prices.prompt or prices.completion):
    raise ValueError(
      f'endpoint.max_cost is {settings.max_cost}, but the prices of tokens are'
      ' 0: set endpoint.prompt_price and endpoint.completion_price (for a'
      ' million tokens)'
    )
  endpoint = llm.Endpoint(
    llm.EndpointConfig(
      model=settings.model,
      base_url=settings.base_url,
      api_key_variable=settings.api_key_variable,
      timeout=settings.timeout_seconds,
      max_retries=settings.max_retries,
      requests_per_minute=settings.requests_per_minute,
      tokens_per_minute=settings.tokens_per_minute,
      prices=prices,
    ),
    accounting.Ledger(
      folder / 'endpoint.jsonl', ceiling=settings.max_cost or None
    ),
  )
  endpoint.check()
  return endpoint

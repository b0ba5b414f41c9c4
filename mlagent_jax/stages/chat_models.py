"""Chat models of a config: who `collect.expert` and `agent.editor` name.

Everything about them that can be wrong is found before a stage begins. What an
endpoint costs is in `endpoint.jsonl` of the work directory, and counts against
`endpoint.max_cost` in every later start too; what a policy of our own takes is
in `policy.jsonl`.
"""

import contextlib
import pathlib
from collections.abc import Callable

from mlagent_jax.exploration import accounting, chat_editor, llm
from mlagent_jax.exploration.chat import ChatModel

KINDS = ('endpoint', 'policy')
EXPERTS = ('scripted', *KINDS)
EDITORS = ('', *KINDS)


class ChatModels:
  """Makes each chat model of a config once, when it is first asked for.

  Use it in a `with` statement: a policy's engine ends with it.

  Args:
    config: the whole config.
    folder: the work directory; ledgers are in it.
    open_policy: (config, folder) -> a context that gives the policy; from
      `serving.policy_chat`, which only entries know.
  """

  def __init__(
    self,
    config,
    folder: pathlib.Path,
    open_policy: Callable[..., contextlib.AbstractContextManager[ChatModel]],
  ):
    self._config = config
    self._folder = folder
    self._open_policy = open_policy
    self._made: dict[str, ChatModel] = {}
    self._opened = contextlib.ExitStack()

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self._opened.close()

  def get(self, kind: str) -> ChatModel:
    """The chat model of a kind.

    Raises:
      EndpointError: if it cannot be used.
      ConfigError, WeightsError, CheckpointError: if a policy cannot be opened.
      ValueError: if the config's numbers make no sense.
    """
    if kind not in self._made:
      if kind == 'policy':
        made = self._opened.enter_context(
          self._open_policy(self._config, self._folder)
        )
      else:
        made = make_endpoint(self._config.endpoint, self._folder)
      self._made[kind] = made
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

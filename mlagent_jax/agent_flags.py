"""Flags of whoever lets agents play (`evaluate`, `solve`): one meaning each."""

import pathlib

from absl import flags

PROTOCOL = flags.DEFINE_enum(
  'protocol',
  None,
  ['compact', 'full'],
  "Of replies; default: a training run's own, 'full' for endpoints, else"
  " 'compact'.",
)
TEMPERATURE = flags.DEFINE_float('temperature', 1.0, 'Of sampling.')
SEED = flags.DEFINE_integer('seed', 0, 'Of everything that is drawn.')
SANDBOX = flags.DEFINE_enum(
  'sandbox',
  'auto',
  ['auto', 'docker', 'bubblewrap', 'process'],
  'Where scripts run; auto: the strongest that is ready.',
)
WORKERS = flags.DEFINE_integer('workers', 2, 'Scripts at once.')
_BASE_URL = flags.DEFINE_string(
  'base_url', '', "Of endpoint:MODEL; default: $OPENAI_BASE_URL or OpenAI's."
)
_KEY = flags.DEFINE_string(
  'api_key_variable', 'OPENAI_API_KEY', 'Variable that holds the key.'
)
_PROMPT_PRICE = flags.DEFINE_float('prompt_price', 0.0, 'Per million tokens.')
_COMPLETION_PRICE = flags.DEFINE_float(
  'completion_price', 0.0, 'Per million tokens.'
)
_MAX_COST = flags.DEFINE_float('max_cost', 0.0, 'Money to spend; 0: no limit.')
_MAX_REPLY_TOKENS = flags.DEFINE_integer(
  'max_reply_tokens', 1000, 'Of a reply of endpoint:MODEL.'
)


def endpoint_options(folder: pathlib.Path, **more):
  """Where endpoint:MODEL is and what it costs, accounted for in a folder."""
  from mlagent_jax.stages.evaluation import contestants

  return contestants.EndpointOptions(
    base_url=_BASE_URL.value,
    api_key_variable=_KEY.value,
    prompt_price=_PROMPT_PRICE.value,
    completion_price=_COMPLETION_PRICE.value,
    max_cost=_MAX_COST.value,
    ledger=folder / 'endpoint.jsonl',
    max_reply_tokens=_MAX_REPLY_TOKENS.value,
    **more,
  )

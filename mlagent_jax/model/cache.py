"""Keys and values of past tokens as explicit pytrees, stacked over layers.

A prompt is computed once for its G samples, so there are two caches: one of
the prompts, [L, S, P, K, H], which all samples of a state share and nobody
writes, and one of what each sample has added, [L, S, G, A, K, H].
"""

import dataclasses

import jax
import jax.numpy as jnp

from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.sharding import constrain

_PROMPT_AXES = ('layers', 'batch', None, 'kv_heads', None)
_SUFFIX_AXES = ('layers', 'batch', None, None, 'kv_heads', None)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """Keys and values after the rotary embedding, in the computation's dtype.

  Attributes:
    keys: [L, S, P, K, H] (prompts) or [L, S, G, A, K, H] (suffixes).
    values: the same shape.
  """

  keys: jax.Array
  values: jax.Array


def prompt_cache(keys: jax.Array, values: jax.Array) -> Cache:
  """The cache of S prompts from [L, S, P, K, H] keys and values."""
  return Cache(constrain(keys, _PROMPT_AXES), constrain(values, _PROMPT_AXES))


def empty_suffix_cache(
  config: ModelConfig, states: int, samples: int, length: int
) -> Cache:
  """An empty cache for `states` x `samples` suffixes of `length` tokens."""
  shape = (
    config.num_layers,
    states,
    samples,
    length,
    config.num_kv_heads,
    config.head_dim,
  )
  empty = constrain(jnp.zeros(shape, config.dtype), _SUFFIX_AXES)
  return Cache(empty, empty)


def append(cache: Cache, step: jax.Array, keys, values) -> Cache:
  """Writes one token of every sample at suffix index `step`.

  Args:
    cache: the suffix cache [L, S, G, A, K, H].
    step: scalar int, the index on axis A.
    keys: [L, S, G, K, H].
    values: [L, S, G, K, H].
  """

  def write(old, new):
    new = new[:, :, :, None]
    new = jax.lax.dynamic_update_slice_in_dim(old, new, step, axis=3)
    return constrain(new, _SUFFIX_AXES)

  return Cache(write(cache.keys, keys), write(cache.values, values))

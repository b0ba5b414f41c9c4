"""A Hugging Face model's logits and greedy continuation, computed by ours."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mlagent_jax.model.decoder import abstract_model
from mlagent_jax.model.hf_source import Source
from mlagent_jax.model.hf_weights import from_hf
from mlagent_jax.model.layout import right_padded
from mlagent_jax.model.safetensors_files import WeightsError


class Forward:
  """A source's model on the default device.

  Attributes:
    config: its shape.
  """

  def __init__(self, source: Source, dtype: str = 'float32'):
    self.config = source.model_config(dtype=dtype)
    self._params = from_hf(source.tensors, self.config)
    self._graphdef, _ = abstract_model(self.config)

  def check_tokens(self, tokens: np.ndarray) -> None:
    """Raises WeightsError if a token is not below the vocabulary's size."""
    V = self.config.vocab_size
    if tokens.size == 0 or tokens.min() < 0 or tokens.max() >= V:
      raise WeightsError(
        f'tokens {list(tokens.shape)} must be some, and from 0 to {V - 1}'
      )

  def logits(self, tokens: np.ndarray) -> np.ndarray:
    """float32 logits [B, T, V] of [B, T] tokens."""
    return np.asarray(self._logits(self._params, tokens.astype(np.int32)))

  def greedy(self, tokens: list[int], new_tokens: int) -> list[int]:
    """The most likely next tokens after `tokens`, one after another.

    Every token is computed from the whole text, so that no cache can be at
    fault; `sampling` is the quick way.
    """
    row = np.zeros((1, len(tokens) + new_tokens), np.int32)
    row[0, : len(tokens)] = tokens
    for length in range(len(tokens), row.shape[1]):
      row[0, length] = self._next(self._params, row, length)
    return row[0, len(tokens) :].tolist()

  @functools.cached_property
  def _logits(self):
    def logits(params, tokens):
      model = nnx.merge(self._graphdef, params)
      B, T = tokens.shape
      layout = right_padded(jnp.full(B, T), T)
      return model.logits(model(tokens, layout))

    return jax.jit(logits)

  @functools.cached_property
  def _next(self):
    def next_token(params, tokens, length):
      model = nnx.merge(self._graphdef, params)
      layout = right_padded(jnp.full(1, length), tokens.shape[1])
      last = jnp.take(model(tokens, layout), length - 1, axis=1)
      return jnp.argmax(model.logits(last)[0])

    return jax.jit(next_token)

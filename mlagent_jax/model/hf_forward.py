"""The logits of a Hugging Face model, computed by ours."""

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

  @functools.cached_property
  def _logits(self):
    def logits(params, tokens):
      model = nnx.merge(self._graphdef, params)
      B, T = tokens.shape
      layout = right_padded(jnp.full(B, T), T)
      return model.logits(model(tokens, layout))

    return jax.jit(logits)

"""Weights in eight bits for decoding, which reads each of them for each token.

Symmetric, one scale a channel of the output: w is round(w / s) * s with s =
max |w| / 127 over the inputs of its channel, so that no weight moves by more
than s / 2 (LLM.int8(), arXiv 2208.07339, section 2.1, without outliers: the
activations stay as they are). The compiler reads the bytes and multiplies on
their way into the product.
"""

import dataclasses

import jax
import jax.numpy as jnp

# Weight of a block -> how many of its axes, the first ones, are the input's.
INPUT_AXES = {
  'wq': 1,
  'wk': 1,
  'wv': 1,
  'wo': 2,
  'gate': 1,
  'up': 1,
  'down': 1,
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8:
  """A weight, to stand where an array stands in a parameter.

  Attributes:
    values: int8, of the shape of the weight.
    scales: float32, of that shape with 1 for each input axis.
  """

  values: jax.Array
  scales: jax.Array

  def __getitem__(self, index) -> 'Int8':
    if index is not ...:
      raise IndexError(f'an int8 weight is read whole, not at {index}')
    return self

  def astype(self, dtype) -> jax.Array:
    """The weight in `dtype`."""
    return (self.values.astype(jnp.float32) * self.scales).astype(dtype)


def quantise(weight: jax.Array, inputs: int) -> Int8:
  """Rounds a weight.

  Args:
    weight: any float dtype.
    inputs: how many of its axes, the first ones, are summed over.
  """
  weight = weight.astype(jnp.float32)
  axes = tuple(range(inputs))
  scales = jnp.max(jnp.abs(weight), axis=axes, keepdims=True) / 127
  scales = jnp.where(scales > 0, scales, 1.0)
  return Int8(jnp.round(weight / scales).astype(jnp.int8), scales)

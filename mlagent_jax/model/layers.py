"""RMSNorm, rotary embedding, SwiGLU: the parts of Qwen2 and Llama blocks."""

import jax
import jax.numpy as jnp
from flax import nnx

from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.linear import Projections, constant
from mlagent_jax.model.sharding import constrain


class RMSNorm(nnx.Module):
  """x / rms(x) * scale over the last axis (arXiv 1910.07467), in float32."""

  def __init__(self, dim: int, epsilon: float):
    self.scale = constant(1.0, (dim,), ('norm',))
    self.epsilon = epsilon

  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalises [..., D]."""
    wide = x.astype(jnp.float32)
    variance = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    normed = wide * jax.lax.rsqrt(variance + self.epsilon)
    return normed.astype(x.dtype) * self.scale[...].astype(x.dtype)


def rotary_angles(
  positions: jax.Array, head_dim: int, theta: float
) -> tuple[jax.Array, jax.Array]:
  """Cosine and sine of the rotary embedding (arXiv 2104.09864).

  Args:
    positions: [...] int32.
    head_dim: H.
    theta: base of the frequencies theta ** (-2 i / H), i < H / 2.

  Returns:
    Two arrays [..., H / 2], float32.
  """
  exponents = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
  angles = positions[..., None].astype(jnp.float32) * (theta**-exponents)
  return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Rotates the pairs (x[i], x[i + H / 2]): the pairing of Hugging Face.

  Args:
    x: [..., N, H], queries or keys.
    angles: cosine and sine, [..., H / 2], as of `rotary_angles`.
  """
  cos, sin = (angle[..., None, :].astype(x.dtype) for angle in angles)
  first, second = jnp.split(x, 2, axis=-1)
  return jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )


class SwiGLU(Projections):
  """down(silu(gate(x)) * up(x)), arXiv 2002.05202."""

  def __init__(self, config: ModelConfig, out_scale: float, rngs: nnx.Rngs):
    super().__init__(config)
    D, F = config.embed_dim, config.ffn_dim
    self.add('gate', rngs, (D, F), ('embed', 'ffn'), 1, D**-0.5)
    self.add('up', rngs, (D, F), ('embed', 'ffn'), 1, D**-0.5)
    self.add('down', rngs, (F, D), ('ffn', 'embed'), 1, out_scale * F**-0.5)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, T, D] to [B, T, D]."""
    gate = self.project('gate', 'btd,df->btf', x)
    up = self.project('up', 'btd,df->btf', x)
    hidden = constrain(jax.nn.silu(gate) * up, ('batch', None, 'ffn'))
    return self.project('down', 'btf,fd->btd', hidden)

"""RMSNorm, rotary embedding, SwiGLU: the parts of Qwen2 and Llama blocks.

Parameters are float32; every layer casts them to the dtype of its input, so
that a bfloat16 model keeps float32 master weights.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from mlagent_jax.model.sharding import constrain


def parameter(rngs: nnx.Rngs, shape, axes, scale: float) -> nnx.Param:
  """A float32 parameter drawn from a normal distribution.

  Args:
    rngs: source of the random key (stream `params`).
    shape: its shape.
    axes: the logical axis of each dimension (see sharding.RULES).
    scale: standard deviation.
  """
  value = scale * jax.random.normal(rngs.params(), shape, jnp.float32)
  # Sharded by make_model through out_shardings, not eagerly.
  return nnx.Param(value, out_sharding=axes, eager_sharding=False)


def constant(value: float, shape, axes) -> nnx.Param:
  """A float32 parameter filled with `value`."""
  full = jnp.full(shape, value, jnp.float32)
  return nnx.Param(full, out_sharding=axes, eager_sharding=False)


def contract(equation: str, x: jax.Array, y: jax.Array, dtype=None):
  """jnp.einsum of two operands, with a backward pass that suits XLA on CPU.

  There, the left operand of the product that gives y's gradient is transposed
  in memory. Autodiff puts the output's gradient in that place; in front of a
  wide layer it is large, and XLA fuses what computes it into the strided copy.
  This backward pass puts the smaller of the two there.

  Args:
    equation: such as 'btd,df->btf'; every axis is in two of the three terms,
      or in all.
    x: left operand.
    y: right operand, of the dtype of x.
    dtype: of the output; by default that of the operands, which the gradient
      of the output is always cast to.
  """
  return _contract(equation, dtype, x, y)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _contract(equation, dtype, x, y):
  return jnp.einsum(equation, x, y, preferred_element_type=dtype)


def _contract_forward(equation, dtype, x, y):
  return _contract(equation, dtype, x, y), (x, y)


def _contract_backward(equation, dtype, operands, g):
  del dtype
  x, y = operands
  g = g.astype(x.dtype)
  inputs, g_axes = equation.split('->')
  x_axes, y_axes = inputs.split(',')
  dx = jnp.einsum(f'{g_axes},{y_axes}->{x_axes}', g, y)
  (left, left_axes), (right, right_axes) = sorted(
    [(x, x_axes), (g, g_axes)], key=lambda operand: operand[0].size
  )
  # Axes of y in the order in which the product has them, then in y's order.
  product_axes = sorted(y_axes, key=(left_axes + right_axes).index)
  product_axes = ''.join(product_axes)
  dy = jnp.einsum(f'{left_axes},{right_axes}->{product_axes}', left, right)
  return dx, jnp.einsum(f'{product_axes}->{y_axes}', dy)


_contract.defvjp(_contract_forward, _contract_backward)


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


class SwiGLU(nnx.Module):
  """down(silu(gate(x)) * up(x)), arXiv 2002.05202."""

  def __init__(self, embed_dim: int, ffn_dim: int, out_scale: float, rngs):
    D, F = embed_dim, ffn_dim
    self.gate = parameter(rngs, (D, F), ('embed', 'ffn'), D**-0.5)
    self.up = parameter(rngs, (D, F), ('embed', 'ffn'), D**-0.5)
    self.down = parameter(rngs, (F, D), ('ffn', 'embed'), out_scale * F**-0.5)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, T, D] to [B, T, D]."""
    gate = contract('btd,df->btf', x, self.gate[...].astype(x.dtype))
    up = contract('btd,df->btf', x, self.up[...].astype(x.dtype))
    hidden = constrain(jax.nn.silu(gate) * up, ('batch', None, 'ffn'))
    return contract('btf,fd->btd', hidden, self.down[...].astype(x.dtype))

"""Parameters with named axes, and the products of activations with them.

Parameters are float32; a product casts them to the dtype of its input, so that
a bfloat16 model keeps float32 master weights.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from mlagent_jax.model.config import ModelConfig

# The name of a projection's result, for policies of rematerialisation: they do
# not see the product inside `contract`.
PRODUCT = 'product'


def parameter(
  rngs: nnx.Rngs, shape, axes, scale: float, kind: type[nnx.Param] = nnx.Param
) -> nnx.Param:
  """A float32 parameter drawn from a normal distribution.

  Args:
    rngs: source of the random key (stream `params`).
    shape: its shape.
    axes: the logical axis of each dimension (see sharding.RULES).
    scale: standard deviation.
    kind: nnx.LoRAParam for an adapter.
  """
  value = scale * jax.random.normal(rngs.params(), shape, jnp.float32)
  # Sharded by make_model through out_shardings, not eagerly.
  return kind(value, out_sharding=axes, eager_sharding=False)


def constant(
  value: float, shape, axes, kind: type[nnx.Param] = nnx.Param
) -> nnx.Param:
  """A float32 parameter filled with `value`."""
  full = jnp.full(shape, value, jnp.float32)
  return kind(full, out_sharding=axes, eager_sharding=False)


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


class Projections(nnx.Module):
  """Weight matrices, each with a low-rank adapter if the config asks for it.

  LoRA (arXiv 2106.09685, section 4.1): y = x W + alpha / r * (x A) B, with A
  normal and B zero at first, so that an adapter starts as nothing.
  """

  def __init__(self, config: ModelConfig):
    self._adapted = config.lora_targets if config.lora_rank else ()
    self._rank = config.lora_rank
    self._adapter_scale = config.lora_alpha / max(config.lora_rank, 1)

  def add(self, name: str, rngs: nnx.Rngs, shape, axes, inputs, scale) -> None:
    """Makes the weight `name`, and its adapter `name`_a, `name`_b.

    Args:
      name: of the attribute.
      rngs: source of random keys.
      shape: of the weight.
      axes: its logical axes.
      inputs: so many axes of it, the first ones, are those of the input.
      scale: standard deviation of the weight.
    """
    setattr(self, name, parameter(rngs, shape, axes, scale))
    if name not in self._adapted:
      return
    down = (*shape[:inputs], self._rank)
    down_axes = (*axes[:inputs], 'rank')
    scale = math.prod(shape[:inputs]) ** -0.5
    a = parameter(rngs, down, down_axes, scale, nnx.LoRAParam)
    up = (self._rank, *shape[inputs:])
    b = constant(0.0, up, ('rank', *axes[inputs:]), nnx.LoRAParam)
    setattr(self, f'{name}_a', a)
    setattr(self, f'{name}_b', b)

  def project(self, name: str, equation: str, x: jax.Array) -> jax.Array:
    """The product of `x` with weight `name`, its adapter included.

    Args:
      name: of the weight.
      equation: such as 'btd,dnh->btnh'; no axis is called z.
      x: the input; the weight is cast to its dtype.
    """
    y = contract(equation, x, getattr(self, name)[...].astype(x.dtype))
    if name not in self._adapted:
      return checkpoint_name(y, PRODUCT)
    inputs, y_axes = equation.split('->')
    x_axes, w_axes = inputs.split(',')
    summed = ''.join(axis for axis in w_axes if axis not in y_axes)
    new = ''.join(axis for axis in w_axes if axis in y_axes)
    rows = ''.join(axis for axis in x_axes if axis in y_axes)
    a = getattr(self, f'{name}_a')[...].astype(x.dtype)
    b = getattr(self, f'{name}_b')[...].astype(x.dtype)
    low = contract(f'{x_axes},{summed}z->{rows}z', x, a)
    y += self._adapter_scale * contract(f'{rows}z,z{new}->{y_axes}', low, b)
    return checkpoint_name(y, PRODUCT)

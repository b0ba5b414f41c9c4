"""The kernel of TPUs, interpreted, against plain attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlagent_jax.model import sharding, splash
from mlagent_jax.model.attention import plain_attention
from mlagent_jax.model.layout import Layout

B, N, K, H, T = 2, 4, 2, 8, 200  # two tiles of 128, the last one half empty


def _random(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _layout(slots):
  """Two packed examples and padding; a prompt with a hole before its slots."""
  order = np.arange(T)
  packed = 1 + (order > 70) - 2 * (order > 180)
  padded = (order < 90) | (order >= T - slots[0] * slots[1])
  segments = np.stack([packed, padded]).astype(np.int32)
  return Layout(jnp.zeros((B, T), jnp.int32), jnp.asarray(segments), slots)


def _value_and_gradients(attend, layout, mesh=None):
  q, k, v = (
    _random(0, B, T, N, H),
    _random(1, B, T, K, H),
    _random(2, B, T, K, H),
  )
  if mesh is not None:
    q, k, v = jax.device_put((q, k, v), sharding.batch_sharding(mesh))
  real = (layout.segment_ids != 0)[:, :, None, None]

  def run(q, k, v):
    with sharding.on_mesh(mesh):
      out = attend(q, k, v)
    out = jnp.where(real, out, 0.0)
    return jnp.sum(out * _random(3, B, T, N, H)), out

  return jax.jit(jax.value_and_grad(run, (0, 1, 2), has_aux=True))(q, k, v)


@pytest.mark.parametrize('slots', [(0, 1), (3, 25)])
def test_splash_equals_plain_attention(slots):
  layout = _layout(slots)
  expected = _value_and_gradients(
    lambda *qkv: plain_attention(*qkv, layout), layout
  )
  # On two devices of the batch and two of the heads.
  mesh = sharding.make_mesh(1, 2, 2, jax.devices()[:4])
  for where in (None, mesh):
    got = _value_and_gradients(
      lambda *qkv: splash.prepare(layout, block=128, interpret=True)(*qkv),
      layout,
      where,
    )
    (_, out), gradients = got
    np.testing.assert_allclose(out, expected[0][1], atol=2e-6)
    for mine, theirs in zip(gradients, expected[1]):
      np.testing.assert_allclose(mine, theirs, atol=1e-5)

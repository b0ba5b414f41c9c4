"""The kernels of TPUs and GPUs, interpreted, against plain attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlagent_jax import losses, optim, train_state
from mlagent_jax.model import sharding, splash, triton
from mlagent_jax.model.attention import plain_attention
from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.decoder import abstract_model
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


KERNELS = {
  'splash': lambda layout: splash.prepare(layout, block=128, interpret=True),
  'triton': lambda layout: triton.prepare(
    layout, plain_attention, interpret=True
  ),
}


# Heads split over two devices; keys that four do not divide, and neither keys
# nor queries that three do: whole on every device then.
@pytest.mark.parametrize(
  'slots, split', [((0, 1), 2), ((3, 25), 2), ((3, 25), 4), ((0, 1), 3)]
)
@pytest.mark.parametrize('kernel', KERNELS)
def test_a_kernel_equals_plain_attention(kernel, slots, split):
  layout = _layout(slots)
  expected = _value_and_gradients(
    lambda *qkv: plain_attention(*qkv, layout), layout
  )
  mesh = sharding.make_mesh(1, 2, split, jax.devices()[: 2 * split])
  (_, out), gradients = _value_and_gradients(
    lambda *qkv: KERNELS[kernel](layout)(*qkv), layout, mesh
  )
  np.testing.assert_allclose(out, expected[0][1], atol=2e-6)
  for mine, theirs in zip(gradients, expected[1]):
    np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize('slots', [(0, 1), (2, 16)])
def test_a_step_lowers_for_gpus(slots):
  mesh = jax.sharding.AbstractMesh(
    (1, 2, 2),
    sharding.MESH_AXES,
    (jax.sharding.AxisType.Auto,) * 3,
    abstract_device=jax.sharding.AbstractDevice('NVIDIA H100', None, 'gpu'),
  )
  model = ModelConfig(2, 64, 4, 2, 16, 96, 128, dtype='bfloat16', remat='full')
  graphdef, shapes = abstract_model(model)
  tx = optim.make_optimizer(1e-4)
  step = train_state.make_train_step(
    graphdef, losses.make_sft_loss(), tx, mesh=mesh
  )
  state = train_state.train_state_shapes(shapes, tx, mesh)
  split = sharding.batch_sharding(mesh)
  shape = (2, 128)
  batch = dict.fromkeys(('tokens', 'positions', 'segment_ids'), shape)
  targets = (2, *slots) if slots[0] else shape
  batch |= {'targets': targets, 'mask': targets}
  if slots[0]:
    batch['lengths'] = (2,)
  batch = {
    name: jax.ShapeDtypeStruct(
      shape, 'float32' if name == 'mask' else 'int32', sharding=split
    )
    for name, shape in batch.items()
  }
  kernel = '__gpu$xla.gpu.triton'
  exported = jax.export.export(
    step,
    platforms=['cuda'],
    disabled_checks=[jax.export.DisabledSafetyCheck.custom_call(kernel)],
  )(state, batch)
  assert exported.nr_devices == 4
  assert kernel in exported.mlir_module()

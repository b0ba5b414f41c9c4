"""The table of rules, and errors with numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlagent_jax.model import sharding
from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.decoder import make_model

P = jax.sharding.PartitionSpec


def test_mesh_has_auto_axes_and_counts_devices():
  mesh = sharding.make_mesh(2, 2, 2)
  assert mesh.shape == {'data': 2, 'fsdp': 2, 'model': 2}
  assert mesh.are_all_axes_auto
  with pytest.raises(ValueError, match='has 4 places, but there are 8 devices'):
    sharding.make_mesh(1, 2, 2)
  with pytest.raises(ValueError, match='has 0 places'):
    sharding.make_mesh(0, 2, 2)
  assert sharding.make_mesh(1, 1, 1, jax.devices()[:1]).size == 1


def test_rules_name_known_axes_only():
  for logical, mesh_axes in sharding.RULES:
    mesh_axes = (mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes
    assert set(mesh_axes or ()) <= set(sharding.MESH_AXES), logical
  assert sharding.logical_spec(('batch', None, 'heads')) == P(
    ('data', 'fsdp'), None, 'model'
  )
  with pytest.raises(ValueError, match="no logical axis 'haeds'"):
    sharding.logical_spec(('haeds',))


def test_batch_that_does_not_divide():
  mesh = sharding.make_mesh(2, 2, 2)
  sharding.check_batch_divides(mesh, 8, 'sft.batch_size')
  sharding.check_batch_divides(None, 7, 'sft.batch_size')
  with pytest.raises(
    ValueError, match='sft.batch_size.*size 6.*4 devices.*data x fsdp'
  ):
    sharding.check_batch_divides(mesh, 6, 'sft.batch_size')


def test_parameter_that_does_not_divide_is_named():
  config = ModelConfig(1, 16, 6, 2, 4, 20, 32)
  with pytest.raises(
    ValueError, match="blocks.mlp.down.*'ffn' of size 20.*8 devices"
  ):
    make_model(config, 0, sharding.make_mesh(1, 1, 8))


def test_heads_that_do_not_divide_are_whole_on_every_device():
  mesh = sharding.make_mesh(1, 2, 4)
  _, params = make_model(ModelConfig(1, 16, 8, 2, 4, 24, 32), 0, mesh)
  attention = params['blocks']['attention']
  for name, spec in (
    ('wq', P(None, 'fsdp', 'model', None)),
    ('wk', P(None, 'fsdp', None, None)),
    ('bv', P(None, None, None)),
  ):
    leaf = attention[name].get_value()
    wanted = jax.sharding.NamedSharding(mesh, spec)
    assert leaf.sharding.is_equivalent_to(wanted, leaf.ndim), name


def test_constrain_follows_the_mesh_and_needs_none():
  x = jnp.zeros((8, 4, 16))
  axes = ('batch', 'sequence', None)
  assert sharding.constrain(x, axes) is x
  mesh = sharding.make_mesh(2, 2, 2)
  with jax.set_mesh(mesh):
    y = jax.jit(lambda x: sharding.constrain(x, axes))(x)
    expected = sharding.logical_sharding(mesh, axes)
    assert y.sharding.is_equivalent_to(expected, 3)
    with pytest.raises(ValueError, match="'sequence' of size 3 is not divis"):
      sharding.constrain(x[:, :3], axes)


def test_parameters_are_the_same_on_every_mesh():
  config = ModelConfig(1, 16, 4, 2, 4, 24, 32)
  _, alone = make_model(config, 0)
  _, sharded = make_model(config, 0, sharding.make_mesh(2, 2, 2))
  jax.tree.map(np.testing.assert_array_equal, alone, sharded)

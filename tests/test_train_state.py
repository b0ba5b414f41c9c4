"""The train step: the same on every mesh, in its place, exact when split."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.decoder import abstract_model
from mlagent_jax.model.layout import right_padded
from mlagent_jax.model.sharding import make_mesh, state_shardings
from mlagent_jax.optim import make_optimizer
from mlagent_jax.train_state import (
  make_train_state,
  make_train_step,
  put_batch,
)

P = jax.sharding.PartitionSpec
MESHES = [(1, 8, 1), (2, 4, 1), (2, 2, 2), (1, 1, 8)]
CONFIG = ModelConfig(
  num_layers=2,
  embed_dim=16,
  num_heads=8,
  num_kv_heads=8,
  head_dim=4,
  ffn_dim=32,
  vocab_size=40,
  remat='full',
)
GRAPHDEF, SHAPES = abstract_model(CONFIG)
LENGTH = 8
# Plain gradient descent of rate 1: what a step subtracts is the gradient.
DESCENT = optax.sgd(1.0)


def _params(mesh=None):
  generator = np.random.default_rng(0)
  params = jax.tree.map(
    lambda s: jnp.asarray(generator.normal(size=s.shape) * 0.3, s.dtype),
    SHAPES,
  )
  if mesh is None:
    return params
  return jax.device_put(params, state_shardings(SHAPES, mesh))


def _batch(size=8):
  """Rows of very different token counts."""
  generator = np.random.default_rng(1)
  tokens = generator.integers(0, 40, (size, LENGTH)).astype(np.int32)
  lengths = np.array([LENGTH, 2, 3, 2, LENGTH, 5, 2, 4] * 9, np.int32)[:size]
  return {'tokens': tokens, 'lengths': lengths}


def _loss(model, batch):
  """Cross-entropy summed over next tokens, and their count."""
  tokens, lengths = batch['tokens'], batch['lengths']
  logits = model.logits(model(tokens, right_padded(lengths, LENGTH)))
  logps = jax.nn.log_softmax(logits[:, :-1])
  taken = jnp.take_along_axis(logps, tokens[:, 1:, None], axis=-1)[..., 0]
  mask = jnp.arange(1, LENGTH) < lengths[:, None]
  hits = (jnp.argmax(logps, axis=-1) == tokens[:, 1:]) & mask
  metrics = {'accuracy': (hits.sum(), mask.sum())}
  return -jnp.sum(taken * mask), mask.sum(), metrics


def _mean_loss(params, batch):
  loss_sum, weight, _ = _loss(nnx.merge(GRAPHDEF, params), batch)
  return loss_sum / weight


@functools.cache
def _reference():
  """Loss and gradients of the whole batch on one device."""
  return jax.jit(jax.value_and_grad(_mean_loss))(_params(), _batch())


@functools.cache
def _descent_step(mesh=None, micro_batches=4):
  return make_train_step(
    GRAPHDEF, _loss, DESCENT, micro_batches=micro_batches, mesh=mesh
  )


def _assert_descends_by_reference(mesh=None, micro_batches=4):
  """What one accumulated step reports, and the gradient that it used."""
  state = make_train_state(_params(mesh), DESCENT, mesh)
  step = _descent_step(mesh, micro_batches)
  state, metrics = step(state, put_batch(_batch(), mesh))
  before = _params()
  grads = jax.tree.map(
    lambda a, b: np.asarray(a) - np.asarray(b), before, state.params
  )
  _assert_is_reference(metrics, grads)
  assert metrics['weight'] == (_batch()['lengths'] - 1).sum()


def _assert_is_reference(metrics, grads):
  loss, expected = _reference()
  np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-5)
  norm = optax.tree.norm(expected)
  np.testing.assert_allclose(metrics['grad_norm'], norm, rtol=1e-5)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=1e-5), grads, expected
  )


def test_accumulation_equals_the_big_batch():
  _assert_descends_by_reference()


def test_accumulation_on_a_mesh_equals_the_big_batch():
  _assert_descends_by_reference(make_mesh(2, 2, 2), micro_batches=2)


# What each parameter's sharding must be, written out from the design.
SPECS = {
  'embedding': P('model', 'fsdp'),
  'output': P('fsdp', 'model'),
  'final_norm.scale': P(None),
  'blocks.attention_norm.scale': P(None, None),
  'blocks.mlp_norm.scale': P(None, None),
  'blocks.attention.wq': P(None, 'fsdp', 'model', None),
  'blocks.attention.wk': P(None, 'fsdp', 'model', None),
  'blocks.attention.wv': P(None, 'fsdp', 'model', None),
  'blocks.attention.bq': P(None, 'model', None),
  'blocks.attention.bk': P(None, 'model', None),
  'blocks.attention.bv': P(None, 'model', None),
  'blocks.attention.wo': P(None, 'model', None, 'fsdp'),
  'blocks.mlp.gate': P(None, 'fsdp', 'model'),
  'blocks.mlp.up': P(None, 'fsdp', 'model'),
  'blocks.mlp.down': P(None, 'model', 'fsdp'),
}


def _name(path):
  name = jax.tree_util.keystr(path, simple=True, separator='.')
  return name.removesuffix('.value')


def _assert_specs(shardings, mesh):
  """shardings: name -> (sharding, number of dimensions)."""
  assert shardings.keys() == SPECS.keys()
  for name, (sharding, ndim) in shardings.items():
    wanted = jax.sharding.NamedSharding(mesh, SPECS[name])
    assert sharding.is_equivalent_to(wanted, ndim), (name, sharding)


def _shardings(state):
  return {
    _name(path): (x.sharding, x.ndim)
    for path, x in jax.tree_util.tree_leaves_with_path(state)
  }


def _spy(seen):
  """Passes gradients on; records their shardings inside the compiled step."""

  def update(grads, state, params=None):
    del params

    def look(path, x):
      jax.debug.inspect_array_sharding(
        x, callback=lambda s: seen.update({_name(path): (s, x.ndim)})
      )

    jax.tree.map_with_path(look, grads)
    return grads, state

  return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


@pytest.mark.parametrize('mesh', MESHES, ids=str)
def test_meshes_agree_and_everything_is_in_its_place(mesh):
  mesh = make_mesh(*mesh)
  seen = {}
  rest = optax.scale_by_adam(), optax.add_decayed_weights(0.1)
  keep = optax.GradientTransformation(  # its state is the last gradient
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda grads, _, params=None: (grads, grads),
  )
  tx = optax.chain(_spy(seen), keep, *rest)
  state = make_train_state(_params(mesh), tx, mesh)

  def moments(state):
    get = functools.partial(optax.tree.get, state.opt_state)
    return get('mu'), get('nu')

  for moment in moments(state):
    _assert_specs(_shardings(moment), mesh)
  step = make_train_step(GRAPHDEF, _loss, tx, mesh=mesh)
  state, metrics = step(state, put_batch(_batch(), mesh))
  _assert_specs(seen, mesh)
  for tree in (state.params, *moments(state)):
    _assert_specs(_shardings(tree), mesh)
  _assert_is_reference(metrics, state.opt_state[1])


def test_training_reports_and_learns_and_donates():
  tx = make_optimizer(3e-2)
  state = make_train_state(_params(), tx)
  step = make_train_step(GRAPHDEF, _loss, tx)
  batch = put_batch(_batch())
  losses = []
  for _ in range(20):
    previous = state
    state, metrics = step(state, batch)
    losses.append(float(metrics['loss']))
  assert losses[-1] < 0.5 * losses[0]
  assert 0 < metrics['accuracy'] <= 1
  assert int(state.step) == 20
  assert jax.tree.leaves(previous.params)[0].is_deleted()


def test_a_batch_without_tokens_has_no_gradient():
  state = make_train_state(_params(), DESCENT)
  batch = put_batch(_batch() | {'lengths': np.ones(8, np.int32)})
  state, metrics = _descent_step()(state, batch)
  assert metrics['weight'] == metrics['grad_norm'] == 0
  assert np.isnan(metrics['loss'])
  jax.tree.map(np.testing.assert_array_equal, state.params, _params())


def test_batches_that_do_not_divide():
  mesh = make_mesh(2, 2, 2)
  with pytest.raises(ValueError, match='size 6 .* the 4 devices'):
    put_batch(_batch(6), mesh)
  state = make_train_state(_params(), DESCENT)
  step = make_train_step(GRAPHDEF, _loss, DESCENT, micro_batches=3)
  with pytest.raises(ValueError, match='8 is not divisible by 3 micro-batches'):
    step(state, put_batch(_batch()))
  sharded = make_train_state(_params(mesh), DESCENT, mesh)
  step = make_train_step(GRAPHDEF, _loss, DESCENT, micro_batches=4, mesh=mesh)
  with pytest.raises(ValueError, match='micro-batch.*size 2 .* 4 devices'):
    step(sharded, put_batch(_batch(), mesh))

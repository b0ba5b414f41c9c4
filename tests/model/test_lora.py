"""Adapters: nothing at first, trained alone, and merged into the weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from mlagent_jax import checkpoint, train_state
from mlagent_jax.model import lora
from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.decoder import abstract_model, make_model
from mlagent_jax.model.layout import right_padded
from mlagent_jax.model.sharding import logical_sharding, make_mesh
from mlagent_jax.optim import make_optimizer

PLAIN = ModelConfig(2, 16, 4, 2, 4, 24, 32)
CONFIG = dataclasses.replace(PLAIN, lora_rank=3, lora_alpha=6.0)
TARGETS = {
  'blocks.attention.wq': ((16,), (4, 4)),
  'blocks.attention.wk': ((16,), (2, 4)),
  'blocks.attention.wv': ((16,), (2, 4)),
  'blocks.attention.wo': ((4, 4), (16,)),
  'blocks.mlp.gate': ((16,), (24,)),
  'blocks.mlp.up': ((16,), (24,)),
  'blocks.mlp.down': ((24,), (16,)),
}


def by_name(params):
  return {
    jax.tree_util.keystr(path, simple=True, separator='.').removesuffix(
      '.value'
    ): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  }


def tokens(rows=4):
  generator = np.random.default_rng(0)
  return generator.integers(0, 32, (rows, 8)).astype(np.int32)


def forward(config, params):
  graphdef, _ = abstract_model(config)

  @jax.jit
  def logits(params, tokens):
    model = nnx.merge(graphdef, params)
    return model.logits(model(tokens, right_padded(jnp.full(4, 8), 8)))

  return logits(params, tokens())


def loss_fn(model, batch):
  x = batch['tokens']
  logits = model.logits(model(x, right_padded(jnp.full(len(x), 8), 8)))
  logps = jax.nn.log_softmax(logits[:, :-1])
  taken = jnp.take_along_axis(logps, x[:, 1:, None], axis=-1)
  return -taken.sum(), jnp.float32(taken.size), {}


def test_adapters_are_nothing_at_first_and_have_their_shapes():
  _, plain = make_model(PLAIN, seed=0)
  adapters = lora.make_adapters(CONFIG, seed=1)
  params = lora.join(adapters, plain)
  np.testing.assert_array_equal(forward(CONFIG, params), forward(PLAIN, plain))
  shapes = {name: leaf.shape for name, leaf in by_name(adapters).items()}
  expected = {}
  for name, (inputs, outputs) in TARGETS.items():
    expected[f'{name}_a'] = (2, *inputs, 3)
    expected[f'{name}_b'] = (2, 3, *outputs)
  assert shapes == expected
  trained, frozen = lora.split(params)
  assert by_name(trained).keys() == expected.keys()
  assert by_name(frozen).keys() == by_name(plain).keys()
  assert lora.split(plain)[0] is plain


def test_merged_equals_unmerged_and_the_formula():
  _, params = make_model(CONFIG, seed=0)
  generator = np.random.default_rng(0)
  params = jax.tree.map(  # B too
    lambda x: jnp.asarray(x + 0.3 * generator.normal(size=x.shape), x.dtype),
    params,
  )
  merged, plain = lora.merged(params, CONFIG)
  assert plain == dataclasses.replace(CONFIG, lora_rank=0)
  np.testing.assert_allclose(
    forward(plain, merged), forward(CONFIG, params), atol=1e-4
  )
  before, after = by_name(params), by_name(merged)
  for name in TARGETS:  # W + alpha / r * A B, of layer 1
    a, b = (np.asarray(before[f'{name}_{x}'][1]) for x in 'ab')
    expected = before[name][1] + 6.0 / 3 * np.tensordot(a, b, axes=1)
    np.testing.assert_allclose(after[name][1], expected, atol=1e-5)
    assert np.abs(after[name][1] - before[name][1]).max() > 0.1
  for name in after.keys() - TARGETS.keys():
    np.testing.assert_array_equal(after[name], before[name])


def test_the_train_step_trains_adapters_alone(tmp_path):
  mesh = make_mesh(2, 2, 2)
  config = dataclasses.replace(CONFIG, lora_targets=('wq', 'down'))
  graphdef, params = make_model(config, 0, mesh)
  start = jax.tree.map(np.asarray, params)
  tx = make_optimizer(3e-2, weight_decay=0.1)
  state = train_state.make_train_state(params, tx, mesh)
  moments = by_name(optax.tree.get(state.opt_state, 'mu'))
  assert moments.keys() == {
    f'blocks.{name}_{x}' for name in ('attention.wq', 'mlp.down') for x in 'ab'
  }
  wanted = logical_sharding(mesh, ('layers', 'rank', 'heads', 'head_dim'))
  for tree in (moments, by_name(state.params)):
    found = tree['blocks.attention.wq_b'].sharding
    assert found.is_equivalent_to(wanted, 4)
  step = train_state.make_train_step(graphdef, loss_fn, tx, mesh=mesh)
  batch = train_state.put_batch({'tokens': tokens()}, mesh)
  losses = []
  for _ in range(30):
    state, metrics = step(state, batch)
    losses.append(float(metrics['loss']))
  assert losses[-1] < 0.8 * losses[0]
  before, after = by_name(start), by_name(state.params)
  for name in before:
    changed = not np.array_equal(before[name], after[name])
    assert changed == name.endswith(('_a', '_b')), name

  # A checkpoint gives back adapters and weights.
  template = train_state.train_state_shapes(abstract_model(config)[1], tx, mesh)
  with checkpoint.Checkpointer(tmp_path, fingerprint='x') as checkpoints:
    checkpoints.save(30, state, {})
    again, _ = checkpoints.restore(template)
  jax.tree.map(np.testing.assert_array_equal, state, again)


def test_adapters_that_cannot_be_are_refused():
  for change in (
    {'lora_targets': ('wz',)},
    {'lora_rank': -1},
    {'lora_targets': ()},
  ):
    with pytest.raises(ValueError, match='lora_rank .* with lora_targets'):
      dataclasses.replace(CONFIG, **change)

"""Step-wise RL through the real model and train step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from mlagent_jax import batching, losses
from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.decoder import make_model
from mlagent_jax.model.layout import layout_of
from mlagent_jax.model.logps import action_hidden, make_compute_logps
from mlagent_jax.train_state import make_train_state, make_train_step

CONFIG = ModelConfig(
  num_layers=2,
  embed_dim=16,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  ffn_dim=24,
  vocab_size=61,
)
S, G, A = 4, 3, 5


@functools.cache
def model():
  return make_model(CONFIG, seed=0)


def make_batch(seed=0):
  rng = np.random.default_rng(seed)

  def ids(low, high):
    return rng.integers(1, 61, rng.integers(low, high + 1)).tolist()

  batch = batching.group_layout(
    [ids(1, 8) for _ in range(S)],
    [[ids(1, A) for _ in range(G)] for _ in range(S)],
    prompt_length=8,
    action_length=A,
  )
  batch['advantages'] = rng.normal(size=(S, G)).astype(np.float32)
  sampler = -rng.uniform(2, 6, size=(S, G, A)).astype(np.float32)
  batch['logps_sampler'] = sampler * batch['mask']
  return jax.tree.map(jnp.asarray, batch)


@functools.cache
def train_step(micro_batches, **options):
  """A step of plain gradient descent with a rate of 1.

  Compiled as training compiles it: without optimisation, as other tests are,
  the roundings of two layouts differed by 1.2e-6 on one machine.
  """
  graphdef, _ = model()
  loss_fn = losses.make_step_rl_loss(**options)
  tx = optax.sgd(1.0)
  step = make_train_step(graphdef, loss_fn, tx, micro_batches=micro_batches)

  def run(params, batch):
    state = make_train_state(jax.tree.map(jnp.copy, params), tx)
    compiled = step.lower(state, batch).compile(
      {'xla_backend_optimization_level': 3}
    )
    state, metrics = compiled(state, batch)
    return state.params, metrics

  return run


def assert_close(left, right, tolerance):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=tolerance), left, right
  )


@pytest.mark.parametrize('micro_batches', [1, 4])
def test_the_ratio_is_exactly_one_before_the_first_update(micro_batches):
  _, metrics = train_step(micro_batches)(model()[1], make_batch())
  assert metrics['ratio'] == 1.0
  assert metrics['clip_fraction'] == 0.0
  assert metrics['kl_old'] == 0.0


@pytest.mark.parametrize(
  'options',
  [
    {},
    {
      'ratio_kind': 'sequence',
      'aggregation': 'seq-mean-token-mean',
      'kl_coef': None,
    },
  ],
  ids=['ppo', 'gspo'],
)
def test_accumulation_equals_the_big_batch(options):
  batch = make_batch()
  counts = batch['mask'].sum(axis=(1, 2))
  assert len(set(counts.tolist())) > 1
  if options:
    batch['kl_coef'] = jnp.full(S, 0.3)
    batch['logps_ref'] = batch['logps_sampler'] + 0.5
    batch['logps_old'] = batch['logps_sampler'] - 0.1
  whole, figures = train_step(1, **options)(model()[1], batch)
  parts, part_figures = train_step(4, **options)(model()[1], batch)
  assert figures.keys() == part_figures.keys()
  assert_close(figures, part_figures, 2e-6)
  assert_close(whole, parts, 1e-6)


def test_no_advantage_no_gradient():
  batch = make_batch()
  batch['advantages'] = jnp.zeros((S, G))
  params, metrics = train_step(1)(model()[1], batch)
  assert metrics['grad_norm'] == 0.0
  assert_close(params, model()[1], 0.0)


def test_what_is_outside_the_mask_does_not_matter():
  batch = make_batch()
  expected, _ = train_step(1)(model()[1], batch)
  outside = batch['mask'] == 0
  batch['targets'] = jnp.where(outside, 60, batch['targets'])
  batch['logps_sampler'] = jnp.where(outside, -99.0, batch['logps_sampler'])
  padding = batch['segment_ids'] == 0
  batch['tokens'] = jnp.where(padding, 60, batch['tokens'])
  got, _ = train_step(1)(model()[1], batch)
  assert_close(got, expected, 1e-7)


def test_computed_logps_old_the_kl_and_the_entropy_bonus():
  graphdef, params = model()
  reference = make_model(CONFIG, seed=1)[1]
  batch = make_batch()
  compute_logps = make_compute_logps(graphdef)
  batch['logps_old'] = compute_logps(params, batch)
  batch['logps_ref'] = compute_logps(reference, batch)
  # Equal rewards: what is left is the KL and the entropy.
  batch['advantages'] = jnp.zeros((S, G))
  step = train_step(1, kl_coef=0.1, kl_kind='k2', entropy_coef=0.2)
  updated, metrics = step(params, batch)
  np.testing.assert_allclose(metrics['ratio'], 1.0, atol=1e-6)

  def penalty(params):
    decoder = nnx.merge(graphdef, params)
    layout = layout_of(batch)
    hidden = action_hidden(decoder(batch['tokens'], layout), batch)
    all_logps = jax.nn.log_softmax(decoder.logits(hidden))
    targets = batch['targets'][..., None]
    logps = jnp.take_along_axis(all_logps, targets, axis=-1)[..., 0]
    entropy = -jnp.sum(jnp.exp(all_logps) * all_logps, axis=-1)
    kl = (logps - batch['logps_ref']) ** 2 / 2
    tokens = jnp.sum(batch['mask'])
    kl, entropy = (jnp.sum(x * batch['mask']) / tokens for x in (kl, entropy))
    return 0.1 * kl - 0.2 * entropy, (kl, entropy)

  gradient, (kl, entropy) = jax.jit(jax.grad(penalty, has_aux=True))(params)
  np.testing.assert_allclose(metrics['kl'], kl, rtol=1e-5)
  np.testing.assert_allclose(metrics['entropy'], entropy, rtol=1e-5)
  descent = jax.tree.map(jnp.subtract, params, updated)
  assert_close(descent, gradient, 1e-6)
  assert metrics['grad_norm'] > 1e-2

  # One update later the ratio is against the old log-probabilities.
  _, metrics = step(updated, batch)
  after = compute_logps(updated, batch)
  mask = batch['mask']
  ratio = jnp.sum(jnp.exp(after - batch['logps_old']) * mask) / jnp.sum(mask)
  np.testing.assert_allclose(metrics['ratio'], ratio, rtol=1e-5)
  assert metrics['kl_old'] > 0

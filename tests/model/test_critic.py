"""The critic: per-token values that equal those of one action at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from mlagent_jax import batching, losses, train_state
from mlagent_jax.model import lora
from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.critic import (
  abstract_critic,
  critic_from_policy,
  make_compute_values,
)
from mlagent_jax.model.decoder import make_model
from mlagent_jax.model.layout import right_padded
from mlagent_jax.model.sharding import make_mesh
from mlagent_jax.optim import make_optimizer

# An output head of its own: the critic must not carry it along.
CONFIG = ModelConfig(2, 16, 2, 2, 8, 24, 64)
GRAPHDEF, SHAPES = abstract_critic(CONFIG)
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12]]
ACTIONS = [[[20, 21, 22, 23], [24]], [[25, 26], [27, 28, 29]]]


def batch_of(prompts, actions):
  batch = batching.group_layout(
    prompts, actions, prompt_length=6, action_length=4
  )
  return jax.tree.map(jnp.asarray, batch)


def critic_params(mesh=None, seed=3):
  """From a policy, with a head that is not zero."""
  params = critic_from_policy(make_model(CONFIG, 0, mesh)[1], SHAPES, mesh)
  weight = np.random.default_rng(seed).normal(size=16).astype(np.float32)
  params['weight'] = params['weight'].replace(
    jax.device_put(weight, params['weight'].get_value().sharding)
  )
  return params


def test_a_critic_is_the_policy_with_a_head_of_zeros():
  policy = make_model(CONFIG, 0)[1]
  params = critic_from_policy(policy, SHAPES)
  decoder = dict(nnx.to_flat_state(params['decoder']))
  expected = dict(nnx.to_flat_state(policy))
  del expected['output',]
  assert decoder.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(decoder[name][...], value[...])
    # A copy: the policy's update donates its own.
    ours, theirs = decoder[name].get_value(), value.get_value()
    assert ours.unsafe_buffer_pointer() != theirs.unsafe_buffer_pointer()
  values = make_compute_values(GRAPHDEF)(params, batch_of(PROMPTS, ACTIONS))
  assert values.shape == (2, 2, 4) and not values.any()


def test_values_equal_those_of_each_sequence_alone():
  params = critic_params()
  batch = batch_of(PROMPTS, ACTIONS)
  values = make_compute_values(GRAPHDEF)(params, batch)
  critic = nnx.merge(GRAPHDEF, params)
  for s, prompt in enumerate(PROMPTS):
    for g, action in enumerate(ACTIONS[s]):
      tokens = jnp.array([[*prompt, *action]])
      layout = right_padded(jnp.array([tokens.shape[1]]), tokens.shape[1])
      hidden = critic.decoder(tokens, layout)[0]
      alone = hidden @ critic.weight[...] + critic.bias[...]
      # The state before token t ends with token t - 1.
      before = alone[len(prompt) - 1 : -1]
      np.testing.assert_allclose(
        values[s, g, : len(action)], before, rtol=1e-5, atol=1e-5
      )
  # Before an action's first token there is the prompt alone.
  assert values[0, 0, 0] == values[0, 1, 0]


def test_on_a_mesh_and_in_parts():
  mesh = make_mesh(1, 2, 2, jax.devices()[:4])
  host = jax.tree.map(np.asarray, batch_of(PROMPTS * 2, ACTIONS * 2))
  whole = make_compute_values(GRAPHDEF)(critic_params(), host)
  compute = make_compute_values(GRAPHDEF, micro_batches=2, mesh=mesh)
  split = compute(critic_params(mesh), train_state.put_batch(host, mesh))
  np.testing.assert_allclose(split, whole, rtol=1e-5, atol=1e-5)


def test_beside_adapters_the_head_is_trained_and_the_rest_is_not():
  config = dataclasses.replace(CONFIG, lora_rank=2, lora_alpha=4.0)
  _, shapes = abstract_critic(config)
  params = critic_from_policy(make_model(config, 0)[1], shapes)
  trained, frozen = lora.split(params)
  assert {'weight', 'bias', 'decoder'} == set(trained.keys())
  assert 'embedding' in frozen['decoder']


def test_accumulation_equals_the_big_batch():
  host = batch_of(PROMPTS * 2, ACTIONS * 2)
  rng = np.random.default_rng(0)
  host['returns'] = jnp.float32(rng.uniform(size=(4, 2, 4)))
  host['values'] = jnp.float32(rng.uniform(size=(4, 2, 4)))
  tx = optax.sgd(1.0)
  results = []
  for micro_batches in (1, 4):
    step = train_state.make_train_step(
      GRAPHDEF,
      losses.make_critic_loss(value_clip=0.2),
      tx,
      micro_batches=micro_batches,
    )
    state = train_state.make_train_state(critic_params(), tx)
    state, metrics = step(state, host)
    results.append((jax.tree.leaves(state.params), metrics))
  (whole, figures), (parts, part_figures) = results
  for x, y in zip(whole, parts, strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)
  for name, value in figures.items():
    np.testing.assert_allclose(value, part_figures[name], rtol=1e-5)


def test_a_critic_learns_its_returns():
  batch = batch_of(PROMPTS, ACTIONS)
  rng = np.random.default_rng(0)
  returns = rng.uniform(size=(2, 2, 4))
  returns[:, :, 0] = returns[:, :1, 0]  # nothing tells these samples apart
  batch['returns'] = jnp.float32(returns)
  batch['values'] = jnp.zeros((2, 2, 4))
  tx = make_optimizer(1e-2)
  params = critic_from_policy(make_model(CONFIG, 0)[1], SHAPES)
  state = train_state.make_train_state(params, tx)
  loss = losses.make_critic_loss(value_clip=10.0)
  step = train_state.make_train_step(GRAPHDEF, loss, tx)
  errors = []
  for _ in range(60):
    state, metrics = step(state, batch)
    errors.append(float(metrics['value_error']))
  assert errors[-1] < 0.05 * errors[0]

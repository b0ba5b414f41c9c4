"""A whole RL update on a real model, for every algorithm of the config."""

import functools
import json
import types

import jax
import numpy as np
import pytest

from configs import base
from mlagent_jax import checkpoint, rollout, train_state
from mlagent_jax.environment import records
from mlagent_jax.model import config as model_config
from mlagent_jax.model import decoder
from mlagent_jax.stages import (
  journal,
  not_finite,
  processes,
  rl_batch,
  rl_checks,
  rl_update,
  rollouts,
)
from mlagent_jax.stages import learner as learner_lib

S, G, A = 4, 3, 5
MODEL = model_config.ModelConfig(
  num_layers=1,
  embed_dim=16,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  ffn_dim=24,
  vocab_size=61,
)
STATES = types.SimpleNamespace(prompt_length=8)


def executed(rng, reward=None):
  count = rng.integers(1, A + 1)
  reply = rollout.Reply(
    'text',
    tuple(rng.integers(1, 61, count).tolist()),
    tuple((-rng.uniform(3, 5, count)).tolist()),
    True,
  )
  outcome = records.Outcome(
    records.OutcomeKind.LOOKED, '', seconds=float(rng.uniform(0, 9))
  )
  reward = rng.uniform() if reward is None else reward
  return rollout.Executed(reply, outcome, None, reward)


def batch_of(slots, owners=None):
  """A batch as the rollouts hand it over."""
  rewards = [[done.reward if done else 0.0 for done in row] for row in slots]
  valid = [[done is not None for done in row] for row in slots]
  rows = [
    journal.Row(
      'task',
      f't{s}',
      0,
      records.Snapshot(''),
      tuple(np.random.default_rng(s).integers(1, 61, 3 + s).tolist()),
      (),
    )
    for s in range(len(slots))
  ]
  if owners is None:
    owners = np.arange(S * G).reshape(S, G)
  return rollouts.Batch(
    rows, slots, np.float32(rewards), np.float32(valid), owners
  )


def slots_of(seed=0, reward=None):
  rng = np.random.default_rng(seed)
  return [[executed(rng, reward) for _ in range(G)] for _ in range(S)]


def groups_of(seed=0, reward=None):
  return batch_of(slots_of(seed, reward))


def estimate(learner, taken, kl_coef=0.0, **arrays):
  """(estimates, figures, the batch as host arrays)."""
  host = rl_batch.host_batch(learner, STATES.prompt_length, taken)
  batch = train_state.put_batch(host) | arrays
  return *rl_batch.estimate(learner.config.rl, batch, taken, kl_coef), host


@functools.cache
def setup(**options):
  """(learner, trainer, reference) of the base config with these rl keys."""
  config = base.get_config()
  config.agent.max_prompt_tokens = STATES.prompt_length
  config.agent.max_action_tokens = A
  config.rl.update(
    {'states_per_batch': S, 'samples_per_state': G, 'learning_rate': 1e-2}
  )
  for name, value in options.items():
    section, _, key = name.rpartition('__')
    (config.rl[section] if section else config.rl)[key] = value
  rl_checks.check(config)
  graphdef, shapes = decoder.abstract_model(MODEL)
  learner = learner_lib.Learner(
    config,
    MODEL,
    graphdef,
    shapes,
    mesh=None,
    sampler_mesh=None,
    tokenizer=types.SimpleNamespace(pad_id=0),
    processes=processes.Processes(),
  )
  reference = decoder.make_model(MODEL, 0)[1]
  return learner, rl_update.make_trainer(learner), reference


def update(options, groups, folder, state=None, number=1):
  """(the state after one batch, metrics); from the reference by default."""
  learner, trainer, reference = setup(**options)
  if state is None:
    state = rl_update.make_state(learner, reference)
  return rl_update.update(
    learner,
    trainer,
    STATES,
    reference,
    state,
    groups,
    number=number,
    folder=folder,
  )


def params_of(state):
  return [np.asarray(x) for x in jax.tree.leaves(state.params)]


def assert_equal(left, right):
  for x, y in zip(left, right, strict=True):
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
  'options',
  [
    {},
    {'micro_batches': 2, 'ratio': 'sequence', 'dual_clip': 0.0},
    {'micro_batches': 2, 'mini_batches': 2, 'epochs': 2},
  ],
  ids=str,
)
def test_the_ratio_is_exactly_one_at_the_first_mini_batch(options, tmp_path):
  _, metrics = update(options, groups_of(), tmp_path)
  assert metrics['ratio_first'] == 1.0
  later = options.get('epochs', 1) > 1
  assert (metrics['ratio'] == 1.0) is not later


@pytest.mark.parametrize(
  'layout',
  [{}, {'layout': 'packed_groups', 'batch_size': 2, 'max_length': 64}],
  ids=str,
)
@pytest.mark.parametrize('number, expected', [(1, 0.5), (2, 1.0), (3, 1.5)])
def test_an_update_is_of_the_temperature_of_its_step(
  layout, number, expected, tmp_path
):
  steps = {**layout, 'steps': 3}
  changing = {**steps, 'temperature': 0.5, 'temperature_last': 1.5}
  groups = groups_of()
  state, metrics = update(changing, groups, tmp_path, number=number)
  alike, same = update({**steps, 'temperature': expected}, groups, tmp_path)
  assert metrics == pytest.approx(same, rel=1e-5, abs=1e-7)
  for x, y in zip(params_of(state), params_of(alike), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
  _, other = update({**steps, 'temperature': 3.0}, groups, tmp_path)
  assert abs(other['entropy'] - metrics['entropy']) > 0.01


def test_all_updates_of_a_run_are_one_program(tmp_path):
  options = {'mini_batches': 2, 'epochs': 2, 'kl_coef': 0.125}
  learner, trainer, reference = setup(**options)
  # As a checkpoint gives them back: committed to their device.
  device = jax.devices()[0]
  state = rl_update.make_state(learner, jax.device_put(reference, device))
  assert all(x.committed for x in jax.tree.leaves(state.policy))
  for number in (1, 2):
    groups = groups_of(seed=number)
    state, _ = update(options, groups, tmp_path, state, number)
  assert trainer.update_policy._cache_size() == 1
  assert trainer.compute_logps._cache_size() == 1  # of the reference, too


def test_mini_batches_are_rows_of_the_batch_and_every_row_comes_once():
  _, trainer, _ = setup(mini_batches=2)
  batch = {'x': np.arange(S), 'y': np.arange(2 * S).reshape(S, 2)}
  parts = [trainer.take(batch, index) for index in range(2)]
  assert sorted(np.concatenate([p['x'] for p in parts])) == list(range(S))
  for part in parts:
    np.testing.assert_array_equal(part['y'][:, 0], 2 * part['x'])


@pytest.mark.parametrize('advantage', ['grpo', 'rloo'])
def test_equal_rewards_leave_the_kl_alone(advantage, tmp_path):
  equal = groups_of(reward=0.7)
  learner, _, reference = setup(advantage=advantage, kl_coef=0.0)
  state, metrics = update(
    {'advantage': advantage, 'kl_coef': 0.0}, equal, tmp_path
  )
  assert metrics['grad_norm'] == 0.0
  assert_equal(
    params_of(state), [np.asarray(x) for x in jax.tree.leaves(reference)]
  )
  # Away from the reference the KL pulls: the same with and without the rewards.
  other = decoder.make_model(MODEL, 1)[1]
  options = {'advantage': advantage, 'kl_coef': 0.5}
  found = []
  for groups in (equal, groups_of(reward=0.2)):
    start = rl_update.make_state(learner, other)
    state, metrics = update(options, groups, tmp_path, start)
    assert metrics['grad_norm'] > 1e-3
    found.append(params_of(state))
  assert_equal(*found)


def test_states_whose_samples_earn_alike_give_way_to_others(tmp_path):
  slots = slots_of()
  flat = slots_of(seed=1, reward=0.5)
  flat[2][0] = None  # what was dropped is no difference
  mixed = batch_of([flat[0], slots[1], flat[2], slots[3]])
  state, metrics = update({'update_share': 0.5}, mixed, tmp_path)
  alone = rl_batch.most_telling(mixed, 2)
  assert [row.trajectory_id for row in alone.rows] == ['t1', 't3']
  assert alone.owners.tolist() == [[3, 4, 5], [9, 10, 11]]
  # The same states in a batch of their own.
  own = rollouts.Batch(
    [mixed.rows[1], mixed.rows[3]],
    [slots[1], slots[3]],
    mixed.rewards[[1, 3]],
    mixed.valid[[1, 3]],
    np.arange(2 * G).reshape(2, G),
  )
  expected, of_own = update({'states_per_batch': 2}, own, tmp_path)
  jax.tree.map(np.testing.assert_array_equal, state.params, expected.params)
  assert metrics['loss'] == of_own['loss']
  # Fewer than asked for: the first of the others fill up.
  rows = rl_batch.most_telling(mixed, 3).rows
  assert [row.trajectory_id for row in rows] == ['t0', 't1', 't3']
  assert rl_batch.most_telling(mixed, 4) is mixed


def test_a_dropped_sample_is_in_no_mean_and_no_loss(tmp_path):
  slots = slots_of()
  tokens = sum(len(d.reply.token_ids) for g in slots for d in g)
  gone = len(slots[1][2].reply.token_ids)
  slots[1][2] = None
  taken = batch_of(slots)
  _, metrics = update({}, taken, tmp_path)
  assert metrics['weight'] == tokens - gone
  kept = [d.reward for d in slots[1][:2]]
  estimates, *_ = estimate(setup()[0], taken)
  expected = (kept - np.mean(kept)) / max(np.std(kept, ddof=1), 0.25)
  np.testing.assert_allclose(
    estimates['advantages'][1], [*expected, 0.0], rtol=1e-5, atol=1e-6
  )


def test_kl_in_the_reward():
  learner, trainer, reference = setup(
    kl_place='reward', kl_coef=0.3, kl_estimator='k1', advantage='rloo'
  )
  # The first two rows are two steps of the same three episodes.
  owners = np.arange(S * G).reshape(S, G)
  owners[1] = owners[0]
  taken = batch_of(slots_of(), owners)
  logps_old, logps_ref = np.random.default_rng(0).normal(size=(2, S, G, A))
  estimates, figures, host = estimate(
    learner, taken, 0.3, logps_old=logps_old, logps_ref=logps_ref
  )
  kl = (logps_old - logps_ref) * host['mask']
  spent = kl.sum(-1)
  spent[0] += spent[1]
  spent[1] = 0
  rewards = taken.rewards - 0.3 * spent
  expected = (rewards - rewards.mean(1, keepdims=True)) * G / (G - 1)
  expected[1] = expected[0]
  np.testing.assert_allclose(estimates['advantages'], expected, atol=1e-5)
  np.testing.assert_allclose(
    figures['kl'], kl.sum() / host['mask'].sum(), rtol=1e-5
  )


def test_duration_weights_scale_the_advantages():
  weighted, _, host = estimate(setup(duration_floor=2.0)[0], groups_of())
  plain, *_ = estimate(setup()[0], groups_of())
  taken = host['seconds'] + 2.0
  np.testing.assert_allclose(
    weighted['advantages'],
    plain['advantages'] * taken / taken.mean(),
    rtol=1e-5,
  )


def test_the_adaptive_coefficient_follows_the_kl(tmp_path):
  options = {'kl_control': 'adaptive', 'kl_target': 0.01, 'kl_coef': 0.2}
  learner, _, reference = setup(**options)
  other = decoder.make_model(MODEL, 1)[1]
  far, metrics = update(
    options, groups_of(), tmp_path, rl_update.make_state(learner, other)
  )
  assert metrics['kl'] > 0.012 and metrics['kl_coef'] == np.float32(0.2)
  np.testing.assert_allclose(far.kl_coef, 0.2 * 1.02, rtol=1e-6)
  near, metrics = update(options, groups_of(), tmp_path)
  assert abs(metrics['kl']) < 1e-6
  np.testing.assert_allclose(near.kl_coef, 0.2 * 0.98, rtol=1e-6)
  # What it multiplies is what a fixed coefficient of that size would be.
  fixed, _ = update(
    {'kl_coef': 0.2},
    groups_of(),
    tmp_path,
    rl_update.make_state(learner, other),
  )
  for x, y in zip(params_of(far), params_of(fixed), strict=True):
    np.testing.assert_allclose(x, y, atol=1e-6)


PPO = {
  'advantage': 'gae',
  'mini_batches': 2,
  'critic__steps_alone': 1,
  'critic__learning_rate': 1e-2,
}


def test_ppo_trains_its_critic_first_and_comes_back_from_a_checkpoint(tmp_path):
  learner, _, reference = setup(**PPO)
  state, metrics = update(PPO, groups_of(), tmp_path)
  assert_equal(
    params_of(state), [np.asarray(x) for x in jax.tree.leaves(reference)]
  )
  assert metrics['critic/grad_norm'] > 0 and 'ratio' not in metrics
  assert int(state.critic.step) == 2 and int(state.policy.step) == 0
  with checkpoint.Checkpointer(tmp_path / 'c', fingerprint='f') as saved:
    saved.save(1, state, {})
    again, _ = saved.restore(rl_update.state_shapes(learner))
  results = []
  for start in (state, again):
    end, metrics = update(PPO, groups_of(1), tmp_path, start, number=2)
    assert metrics['ratio_first'] == 1.0
    assert int(end.policy.step) == 2 and int(end.critic.step) == 4
    results.append(params_of(end) + jax.tree.leaves(end.critic.params))
  assert_equal(*results)


def test_gae_is_reward_minus_value_whitened():
  values = np.random.default_rng(0).uniform(size=(S, G, A)).astype(np.float32)
  estimates, figures, host = estimate(
    setup(**PPO)[0], groups_of(), values=values
  )
  inside = host['mask'] > 0
  returns = np.broadcast_to(host['rewards'][..., None], values.shape)
  plain = (returns - values)[inside]
  np.testing.assert_allclose(
    estimates['advantages'][inside],
    (plain - plain.mean()) / max(plain.std(ddof=1), 0.25),
    atol=1e-5,
  )
  np.testing.assert_allclose(
    estimates['returns'][inside], returns[inside], atol=1e-5
  )
  np.testing.assert_allclose(
    figures['explained_variance'],
    1 - plain.var() / returns[inside].var(),
    rtol=1e-4,
  )


def test_nan_stops_with_the_batch_saved(tmp_path):
  slots = slots_of()
  slots[2] = [executed(np.random.default_rng(0), float('nan'))] * G
  taken = batch_of(slots)
  with pytest.raises(not_finite.NotFiniteError) as caught:
    update({}, taken, tmp_path, number=17)
  text = str(caught.value)
  file = tmp_path / 'not_finite' / '000017.npz'
  assert text.startswith('rl step 17: ') and str(file) in text
  assert 'loss is nan in update 1 of 1' in text
  assert 'rewards (rows [2])' in text
  with np.load(file) as saved:
    host = rl_batch.host_batch(setup()[0], STATES.prompt_length, taken)
    for name, value in host.items():
      np.testing.assert_array_equal(saved[name], value)
  report = json.loads(file.with_suffix('.json').read_text())
  assert report['updates'][0]['loss'] == 'nan'
  assert report['rows'] == [f't{s}/0' for s in range(S)]
  assert 2 in report['rows_not_finite']['advantages']


@pytest.mark.parametrize('empty', range(2))
def test_a_mini_batch_without_samples_counts_in_no_mean(empty, tmp_path):
  options = {'mini_batches': 2, 'kl_control': 'adaptive', 'kl_coef': 0.1}
  slots = slots_of()
  # Mini-batches take turns.
  slots[empty::2] = [[None] * G] * len(slots[empty::2])
  state, metrics = update(options, batch_of(slots), tmp_path)
  tokens = sum(len(d.reply.token_ids) for g in slots for d in g if d)
  assert metrics['weight'] == tokens
  assert all(np.isfinite(value) for value in metrics.values())
  assert ('ratio_first' in metrics) is (empty == 1)
  assert np.isfinite(float(state.kl_coef))
  assert float(state.kl_coef) != np.float32(0.1)
  nothing = [[None] * G for _ in range(S)]
  state, _ = update(options, batch_of(nothing), tmp_path)
  assert float(state.kl_coef) == np.float32(0.1)


def test_a_batch_without_samples_is_not_an_error(tmp_path):
  nothing = [[None] * G for _ in range(S)]
  _, metrics = update({}, batch_of(nothing), tmp_path)
  assert metrics['weight'] == 0 and np.isnan(metrics['loss'])
  assert not (tmp_path / 'not_finite').exists()

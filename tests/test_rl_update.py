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
from mlagent_jax.stages import learner as learner_lib
from mlagent_jax.stages import not_finite, rl_checks, rl_update

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
DRAWN = [types.SimpleNamespace(name=f't{s}/0', row=s) for s in range(S)]


def prompt(drawn):
  rng = np.random.default_rng(drawn.row)
  return rng.integers(1, 61, 3 + drawn.row).tolist()


STATES = types.SimpleNamespace(ids_of=prompt, prompt_length=8)


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


def groups_of(seed=0, reward=None):
  rng = np.random.default_rng(seed)
  return [[executed(rng, reward) for _ in range(G)] for _ in range(S)]


@functools.cache
def setup(**options):
  """(learner, trainer, reference) of the base config with these rl keys."""
  config = base.get_config()
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
    config, MODEL, graphdef, shapes, None, types.SimpleNamespace(pad_id=0)
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
    DRAWN,
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


def test_a_dropped_sample_is_in_no_mean_and_no_loss(tmp_path):
  groups = groups_of()
  tokens = sum(len(d.reply.token_ids) for g in groups for d in g)
  gone = len(groups[1][2].reply.token_ids)
  groups[1][2] = None
  _, metrics = update({}, groups, tmp_path)
  assert metrics['weight'] == tokens - gone
  learner, *_ = setup()
  batch = rl_update.host_batch(learner, STATES, DRAWN, groups)
  kept = [d.reward for d in groups[1][:2]]
  estimates, _ = rl_update.estimate(
    learner.config.rl, train_state.put_batch(batch), 0.0
  )
  expected = (kept - np.mean(kept)) / max(np.std(kept, ddof=1), 0.25)
  np.testing.assert_allclose(
    estimates['advantages'][1], [*expected, 0.0], rtol=1e-5, atol=1e-6
  )


def test_kl_in_the_reward(tmp_path):
  del tmp_path
  learner, trainer, reference = setup(
    kl_place='reward', kl_coef=0.3, kl_estimator='k1', advantage='rloo'
  )
  other = decoder.make_model(MODEL, 1)[1]
  groups = groups_of()
  host = rl_update.host_batch(learner, STATES, DRAWN, groups)
  batch = train_state.put_batch(host)
  batch['logps_ref'] = trainer.compute_logps(reference, batch)
  batch['logps_old'] = trainer.compute_logps(other, batch)
  estimates, figures = rl_update.estimate(learner.config.rl, batch, 0.3)
  kl = (np.asarray(batch['logps_old']) - batch['logps_ref']) * host['mask']
  rewards = host['rewards'] - 0.3 * kl.sum(-1)
  expected = (rewards - rewards.mean(1, keepdims=True)) * G / (G - 1)
  np.testing.assert_allclose(estimates['advantages'], expected, atol=1e-5)
  np.testing.assert_allclose(
    figures['kl'], kl.sum() / host['mask'].sum(), rtol=1e-5
  )


def test_duration_weights_scale_the_advantages():
  learner, *_ = setup(duration_floor=2.0)
  host = rl_update.host_batch(learner, STATES, DRAWN, groups_of())
  batch = train_state.put_batch(host)
  weighted, _ = rl_update.estimate(learner.config.rl, batch, 0.0)
  plain, _ = rl_update.estimate(setup()[0].config.rl, batch, 0.0)
  taken = host['seconds'] + 2.0
  np.testing.assert_allclose(
    weighted['advantages'],
    np.asarray(plain['advantages']) * taken / taken.mean(),
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
  learner, trainer, reference = setup(**PPO)
  host = rl_update.host_batch(learner, STATES, DRAWN, groups_of())
  batch = train_state.put_batch(host)
  values = np.random.default_rng(0).uniform(size=(S, G, A)).astype(np.float32)
  batch |= {'values': values}
  estimates, figures = rl_update.estimate(learner.config.rl, batch, 0.0)
  inside = host['mask'] > 0
  returns = np.broadcast_to(host['rewards'][..., None], values.shape)
  plain = (returns - values)[inside]
  np.testing.assert_allclose(
    estimates['advantages'][inside],
    (plain - plain.mean()) / plain.std(ddof=1),
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
  groups = groups_of()
  groups[2] = [executed(np.random.default_rng(0), float('nan'))] * G
  with pytest.raises(not_finite.NotFiniteError) as caught:
    update({}, groups, tmp_path, number=17)
  text = str(caught.value)
  file = tmp_path / 'not_finite' / '000017.npz'
  assert 'rl step 17: loss is nan' in text and str(file) in text
  assert 'rewards (rows [2])' in text
  with np.load(file) as saved:
    learner, *_ = setup()
    host = rl_update.host_batch(learner, STATES, DRAWN, groups)
    for name, value in host.items():
      np.testing.assert_array_equal(saved[name], value)
  report = json.loads(file.with_suffix('.json').read_text())
  assert report['updates'][0]['loss'] == 'nan'
  assert report['rows'] == [f't{s}/0' for s in range(S)]
  assert 2 in report['rows_not_finite']['advantages']


def test_a_batch_without_samples_is_not_an_error(tmp_path):
  nothing = [[None] * G for _ in range(S)]
  _, metrics = update({}, nothing, tmp_path)
  assert metrics['weight'] == 0 and np.isnan(metrics['loss'])
  assert not (tmp_path / 'not_finite').exists()


@pytest.mark.parametrize(
  'key, value, words',
  [
    ('samples_per_state', 1, 'grpo .* at least 2 .* samples_per_state is 1'),
    ('advantage', 'a2c', "unknown advantage 'a2c'"),
    ('ratio', 'gspo', "rl.ratio: 'gspo' is none of"),
    ('mini_batches', 3, 'states_per_batch 16 .* 3 mini-batches'),
    ('dual_clip', 0.5, 'dual_clip is 0.5'),
    ('clip_low', 1.5, 'clip_low is 1.5'),
    ('importance_cap', 0.5, 'importance_cap is 0.5'),
    ('gae_lambda', 1.5, 'gae_lambda is 1.5; it must be from 0 to 1'),
    ('epochs', 0, 'epochs is 0; it must be at least 1'),
    ('temperature', 0.0, 'temperature is 0.0; it must be above 0'),
    ('std_floor', -1.0, 'std_floor is -1.0; it must be 0 or more'),
  ],
)
def test_what_cannot_work_is_refused_at_start_up(key, value, words):
  config = base.get_config()
  rl_checks.check(config)
  config.rl[key] = value
  with pytest.raises(ValueError, match=words):
    rl_checks.check(config)


def test_combinations_that_cannot_work():
  config = base.get_config()
  config.rl.kl_control, config.rl.kl_coef = 'adaptive', 0.0
  with pytest.raises(ValueError, match='kl_coef is 0'):
    rl_checks.check(config)
  config = base.get_config()
  config.rl.advantage, config.rl.critic.steps_alone = 'gae', 30
  with pytest.raises(ValueError, match='steps_alone is 30; of 30 steps'):
    rl_checks.check(config)
  config = base.get_config()
  config.rl.schedule, config.rl.warmup_steps = 'cosine', 30
  with pytest.raises(ValueError, match='warmup_steps is 30, .* 30 updates'):
    rl_checks.check(config)

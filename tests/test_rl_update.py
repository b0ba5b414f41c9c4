"""A whole RL update on a real model, for every algorithm of the config."""

import dataclasses
import functools
import json
import types

import jax
import numpy as np
import optax
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
  assert trainer.compute_logps._cache_size() == 2  # of two sets of parameters


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


PACKED = {'layout': 'packed_groups', 'batch_size': 2, 'max_length': 64}


def repeated_slots():
  """Samples of which some are the same action; one of those earned less."""
  slots = slots_of()
  for row in slots[:3]:
    row[2] = row[0]
  slots[1][1] = slots[1][0]
  slots[3][1] = dataclasses.replace(slots[3][0], reward=0.05)
  return slots


@pytest.mark.parametrize(
  'options',
  [
    {},
    {
      'epochs': 2,
      # What is near a bound falls on either side of it by its rounding.
      'clip_low': 0.9,
      'clip_high': 9.0,
      'advantage': 'rloo',
      'duration_floor': 1.0,
      'kl_control': 'adaptive',
      'entropy_coef': 0.1,
    },
    {'ratio': 'sequence', 'aggregation': 'seq-mean-token-mean'},
  ],
  ids=str,
)
def test_packed_groups_are_the_same_update(options, tmp_path):
  groups = batch_of(repeated_slots())
  other = decoder.make_model(MODEL, 1)[1]  # off the reference
  found = []
  for layout in ({}, PACKED):
    chosen = {'kl_coef': 0.1, **options, **layout}
    start = rl_update.make_state(setup(**chosen)[0], other)
    found.append(update(chosen, groups, tmp_path, start))
  (expected, of_slots), (state, metrics) = found
  assert of_slots.keys() == metrics.keys()
  for name in metrics:
    np.testing.assert_allclose(
      metrics[name], of_slots[name], rtol=1e-5, atol=1e-6, err_msg=name
    )
  assert metrics['states_trained'] == S
  # Adam divides gradients by their size, and what is left of none is noise:
  # the moments are compared.
  moments = [
    next(
      x
      for x in jax.tree.leaves(y.policy.opt_state, is_leaf=is_adam)
      if is_adam(x)
    )
    for y in (expected, state)
  ]
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
    *moments,
  )


def is_adam(x):
  return isinstance(x, optax.ScaleByAdamState)


def test_equal_samples_are_packed_once():
  learner, _, _ = setup(**PACKED)
  host = rl_batch.host_batch(learner, 8, batch_of(repeated_slots()))
  counts = host['mask'].max(axis=-1)
  # Of the last row's equal actions one earned less.
  assert counts.tolist() == [[2, 1, 0], [3, 0, 0], [2, 1, 0], [1, 1, 1]]
  actions = [
    len(done.reply.token_ids)
    for row, numbers in zip(repeated_slots(), counts)
    for done, number in zip(row, numbers)
    if number
  ]
  prompts = sum(3 + s for s in range(S))
  assert np.count_nonzero(host['segment_ids']) == sum(actions) + prompts


@pytest.mark.parametrize(
  'options, most',
  [
    ({}, 3),
    ({'ratio': 'sequence'}, 1),
    ({'aggregation': 'seq-mean-token-sum'}, 1),
  ],
)
def test_only_means_over_tokens_count_a_sample_for_several(options, most):
  learner, _, _ = setup(**PACKED, **options)
  host = rl_batch.host_batch(learner, 8, batch_of(repeated_slots()))
  assert host['mask'].max() == most


def test_where_seconds_weigh_samples_are_equal_only_with_them():
  slots = repeated_slots()
  outcome = dataclasses.replace(slots[0][2].outcome, seconds=77.0)
  slots[0][2] = dataclasses.replace(slots[0][2], outcome=outcome)
  for floor, weights in ((0.0, [2, 1, 0]), (1.0, [1, 1, 1])):
    learner, _, _ = setup(**PACKED, duration_floor=floor)
    host = rl_batch.host_batch(learner, 8, batch_of(slots))
    assert host['mask'][0].max(axis=-1).tolist() == weights


def test_what_finds_no_room_is_not_trained_on(tmp_path):
  slots = slots_of()
  flat = slots_of(seed=1, reward=0.5)
  mixed = batch_of([flat[0], slots[1], flat[2], slots[3]])
  options = PACKED | {'batch_size': 1, 'max_length': 48}
  settings = setup(**options)[0].config.rl
  fits = rl_batch.fitting(settings, mixed)
  # Of the two that teach nothing one has room left, and is first.
  named = [row and row.trajectory_id for row in fits.rows]
  assert named == ['t0', 't1', None, 't3']
  assert fits.slots[2] == [None] * G and mixed.slots[2] == flat[2]
  state, metrics = update(options, mixed, tmp_path)
  assert metrics['states_trained'] == 3
  expected, of_slots = update({}, fits, tmp_path)
  np.testing.assert_allclose(metrics['loss'], of_slots['loss'], rtol=1e-5)
  assert metrics['weight'] == of_slots['weight']


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


@pytest.mark.parametrize(
  'key, value, words',
  [
    ('samples_per_state', 1, 'grpo .* at least 2 .* samples_per_state is 1'),
    ('advantage', 'a2c', "unknown advantage 'a2c'"),
    ('ratio', 'gspo', "rl.ratio: 'gspo' is none of"),
    ('mini_batches', 3, 'states_per_batch 16 .* 3 mini-batches'),
    ('update_share', 0.0, 'update_share is 0.0; it must be above 0'),
    ('update_share', 1.5, 'update_share is 1.5; .* 1 at most'),
    ('layout', 'packed', "rl.layout: 'packed' is none of"),
    ('max_length', 0, 'max_length is 0; it must be at least 1'),
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


@pytest.mark.parametrize(
  'states, share, parts, rows',
  [(24, 0.5, 1, 12), (2, 0.5, 1, 1), (24, 0.3, 4, 8), (8, 0.1, 8, 8)],
)
def test_the_share_of_states_divides_among_devices(states, share, parts, rows):
  config = base.get_config()
  config.rl.states_per_batch, config.rl.update_share = states, share
  config.rl.mini_batches = parts
  rl_checks.check(config)
  assert rl_checks.update_rows(config) == rows


@pytest.mark.parametrize(
  'key, value, words',
  [
    ('rl.mode', 'episode', "needs rl.mode 'step', not 'episode'"),
    ('rl.deadline_seconds', 3.0, 'needs rl.deadline_seconds 0, not 3.0'),
    ('rl.mini_batches', 2, 'needs rl.mini_batches 1, not 2'),
    ('rl.micro_batches', 2, 'needs rl.micro_batches 1, not 2'),
    ('rl.advantage', 'gae', "needs rl.advantage 'grpo' or 'rloo', not 'gae'"),
    ('rl.kl_place', 'reward', "needs rl.kl_place 'loss', not 'reward'"),
    ('rl.batch_size', 6, 'batch_size 6 is not divisible by 4 devices'),
    ('rl.max_length', 511, 'max_length 511 is not divisible by 2 devices'),
    ('rl.max_length', 294, 'max_length is 294, .* can have 296 tokens'),
    # Four actions of 40 to a row, beside a prompt of 256.
    ('rl.samples_per_state', 33, r'is 8, .* 33 samples .* needs 9 rows of 416'),
  ],
)
def test_what_packed_groups_cannot_do_is_told(key, value, words):
  config = base.get_config()
  config.mesh.fsdp, config.mesh.model = 4, 2
  config.rl.layout, config.rl.max_length = 'packed_groups', 416
  rl_checks.check(config)
  section, name = key.split('.')
  config[section][name] = value
  with pytest.raises(ValueError, match=words):
    rl_checks.check(config)


def test_combinations_that_cannot_work():
  config = base.get_config()
  config.rl.kl_control, config.rl.kl_coef = 'adaptive', 0.0
  with pytest.raises(ValueError, match='kl_coef is 0'):
    rl_checks.check(config)
  config = base.get_config()
  config.rl.mode, config.rl.update_share = 'episode', 0.5
  with pytest.raises(ValueError, match="update_share is 0.5, .* 'episode'"):
    rl_checks.check(config)
  config = base.get_config()
  config.rl.advantage, config.rl.critic.steps_alone = 'gae', 30
  with pytest.raises(ValueError, match='steps_alone is 30; of 30 steps'):
    rl_checks.check(config)
  config = base.get_config()
  config.rl.schedule, config.rl.warmup_steps = 'cosine', 30
  with pytest.raises(ValueError, match='warmup_steps is 30, .* 30 updates'):
    rl_checks.check(config)

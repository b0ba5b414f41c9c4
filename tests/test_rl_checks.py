"""What the checks of a config's `rl` section say before anything runs."""

import pytest

from configs import base
from mlagent_jax.stages import rl_checks


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

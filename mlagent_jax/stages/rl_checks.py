"""What can be wrong with a config's `rl` section, found at start-up."""

import math

from mlagent_jax import advantages, losses, reward, state_pool

_CHOICES = {
  'ratio': losses.RATIOS,
  'aggregation': losses.AGGREGATIONS,
  'kl_estimator': losses.KL_KINDS,
  'kl_place': ('loss', 'reward'),
  'kl_control': ('fixed', 'adaptive'),
  'pool': state_pool.POLICIES,
  'layout': ('shared_prompt', 'packed_groups'),
}
_AT_LEAST_ONE = (
  'steps',
  'states_per_batch',
  'samples_per_state',
  'mini_batches',
  'micro_batches',
  'epochs',
  'checkpoint_every',
  'visited_most',
  'batch_size',
  'max_length',
)
_POSITIVE = (
  'temperature',
  'clip_low',
  'clip_high',
  'kl_target',
  'kl_gain',
  'value_clip',
)
_NOT_NEGATIVE = (
  'temperature_last',
  'std_floor',
  'kl_coef',
  'entropy_coef',
  'duration_floor',
  'learning_rate',
)
_SHARES = ('gamma', 'gae_lambda', 'pool_uniform_share', 'visited_share')


def update_rows(config) -> int:
  """S of an update: `rl.update_share` of a batch, late samples not counted.

  Rounded up to what divides among devices, mini- and micro-batches.
  """
  settings, mesh = config.rl, config.mesh
  parts = settings.mini_batches * max(settings.micro_batches, 1)
  parts *= mesh.data * mesh.fsdp
  share = settings.update_share * settings.states_per_batch
  return parts * math.ceil(share / parts)


def check(config) -> None:
  """Raises ValueError, with the key and its value, for what cannot work."""
  settings = config.rl
  try:
    advantages.check_group_size(settings.advantage, settings.samples_per_state)
  except ValueError as error:
    raise ValueError(f'rl.samples_per_state: {error}') from error
  for key, choices in _CHOICES.items():
    if settings[key] not in choices:
      raise ValueError(f'rl.{key}: {settings[key]!r} is none of {choices}')
  for keys, holds, what in (
    (_AT_LEAST_ONE, lambda x: x >= 1, 'at least 1'),
    (_POSITIVE, lambda x: x > 0, 'above 0'),
    (_NOT_NEGATIVE, lambda x: x >= 0, '0 or more'),
    (_SHARES, lambda x: 0 <= x <= 1, 'from 0 to 1'),
  ):
    for key in keys:
      if not holds(settings[key]):
        raise ValueError(f'rl.{key} is {settings[key]}; it must be {what}')
  _check_sizes(config)
  if settings.layout == 'packed_groups':
    _check_packed(config)
  _check_values(settings)
  _check_reward(config)


def _check_sizes(config) -> None:
  settings, mesh = config.rl, config.mesh
  parts = settings.mini_batches * settings.micro_batches
  rows = mesh.data * mesh.fsdp
  if settings.states_per_batch % (parts * rows):
    raise ValueError(
      f'rl.states_per_batch {settings.states_per_batch} is not divisible by'
      f' {settings.mini_batches} mini-batches times {settings.micro_batches}'
      f' micro-batches times {rows} devices on mesh axes data and fsdp'
    )
  if not 0 < settings.update_share <= 1:
    raise ValueError(
      f'rl.update_share is {settings.update_share}; it must be above 0 and 1'
      ' at most'
    )
  if settings.update_share < 1 and settings.mode != 'step':
    raise ValueError(
      f'rl.update_share is {settings.update_share}, which chooses among'
      f" states, and rl.mode is {settings.mode!r}: use 'step', or 1.0"
    )
  samples = settings.states_per_batch * settings.samples_per_state
  if settings.advantage == 'reinforce' and samples < 2:
    raise ValueError(
      'rl.advantage reinforce whitens over the batch, which holds 1 sample:'
      ' raise rl.states_per_batch or rl.samples_per_state'
    )


def _check_packed(config) -> None:
  settings, mesh, agent = config.rl, config.mesh, config.agent
  room = 'what finds no room is not trained on'
  several = 'a row has several states'
  for key, needed, why in (
    ('mode', ('step',), room),
    ('deadline_seconds', (0,), room),
    ('mini_batches', (1,), several),
    ('micro_batches', (1,), several),
    ('advantage', ('grpo', 'rloo'), 'others compare what is not trained on'),
    ('kl_place', ('loss',), 'equal samples are trained on once'),
  ):
    if settings[key] not in needed:
      raise ValueError(
        f"rl.layout 'packed_groups' needs rl.{key}"
        f' {" or ".join(map(repr, needed))}, not {settings[key]!r}: {why}; or'
        " use 'shared_prompt'"
      )
  rows = mesh.data * mesh.fsdp
  if settings.batch_size % rows:
    raise ValueError(
      f'rl.batch_size {settings.batch_size} is not divisible by {rows} devices'
      ' on mesh axes data and fsdp'
    )
  if settings.max_length % mesh.model:
    raise ValueError(
      f'rl.max_length {settings.max_length} is not divisible by {mesh.model}'
      ' devices on mesh axis model, over which rows are split'
    )
  P, A = agent.max_prompt_tokens, agent.max_action_tokens
  a_row = (settings.max_length - P) // A
  if a_row < 1:
    raise ValueError(
      f'rl.max_length is {settings.max_length}, but a prompt and an action can'
      f' have {P + A} tokens (agent.max_prompt_tokens and'
      ' agent.max_action_tokens)'
    )
  needed = math.ceil(settings.samples_per_state / a_row)
  if needed > settings.batch_size:
    raise ValueError(
      f'rl.batch_size is {settings.batch_size}, but a state whose'
      f' {settings.samples_per_state} samples are all as long as'
      f' agent.max_action_tokens allows needs {needed} rows of'
      f' {settings.max_length} tokens (rl.max_length)'
    )


def _check_values(settings) -> None:
  if settings.clip_low > 1:
    raise ValueError(
      f'rl.clip_low is {settings.clip_low}: a ratio is never below 0, so that'
      ' 1 - clip_low must not be'
    )
  if settings.dual_clip and settings.dual_clip <= 1:
    raise ValueError(
      f'rl.dual_clip is {settings.dual_clip}; it must exceed 1, or be 0 for'
      ' none'
    )
  if settings.importance_cap and settings.importance_cap < 1:
    raise ValueError(
      f'rl.importance_cap is {settings.importance_cap}: it would cut the'
      ' weights of samples that need no correction; use 1 or more, or 0 for'
      ' no correction'
    )
  if settings.kl_control == 'adaptive' and not settings.kl_coef:
    raise ValueError(
      'rl.kl_coef is 0, and the adaptive controller multiplies it: start it'
      ' above 0'
    )
  if settings.advantage == 'gae':
    alone = settings.critic.steps_alone
    if not 0 <= alone < settings.steps:
      raise ValueError(
        f'rl.critic.steps_alone is {alone}; of {settings.steps} steps'
        f' (rl.steps) it can be 0 to {settings.steps - 1}'
      )
  else:
    alone = 0
  per_step = settings.mini_batches * settings.epochs
  for key, section, updates in (
    ('rl', settings, (settings.steps - alone) * per_step),
    ('rl.critic', settings.critic, settings.steps * per_step),
  ):
    if section.schedule != 'constant' and section.warmup_steps >= updates:
      raise ValueError(
        f'{key}.warmup_steps is {section.warmup_steps}, but there are'
        f' {updates} updates in all: nothing is left to decay over'
      )


def _check_reward(config) -> None:
  settings = config.reward
  if settings.against not in reward.BASELINES:
    raise ValueError(
      f'reward.against: {settings.against!r} is none of {reward.BASELINES}'
    )
  if settings.alpha <= 0:
    raise ValueError(f'reward.alpha is {settings.alpha}; it must be above 0')
  if settings.neutral_cap < 0:
    raise ValueError(
      f'reward.neutral_cap is {settings.neutral_cap}; it must be 0 (none) or'
      ' more'
    )
  if config.rl.kl_place == 'reward' and config.rl.max_late_staleness:
    raise ValueError(
      'rl.kl_place is reward and rl.max_late_staleness is'
      f' {config.rl.max_late_staleness}: a late sample is compared with samples'
      ' of an earlier update, whose KL is not known any more; put the KL into'
      ' the loss, or drop what is late (0)'
    )

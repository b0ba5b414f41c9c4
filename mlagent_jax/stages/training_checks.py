"""What can be wrong with the sizes and schedules of a config, at start-up."""

import dataclasses

from mlagent_jax import optim
from mlagent_jax.model.config import ModelConfig

_AT_LEAST_ONE = {
  'agent': ('max_prompt_tokens', 'max_action_tokens'),
  'collect': (
    'ideas',
    'diverse_ideas',
    'min_ideas_per_trajectory',
    'trajectories_per_task',
    'max_steps',
  ),
  'environment': ('max_steps',),
  'evaluate': ('episodes', 'max_steps', 'bootstrap_samples'),
  'fixed_set': ('states', 'samples'),
  'sft': (
    'steps',
    'prompts_per_batch',
    'actions_per_prompt',
    'batch_size',
    'max_length',
    'micro_batches',
    'checkpoint_every',
  ),
}
_ABOVE_ZERO = {
  'environment': ('max_minutes',),
  'optimizer': ('eps', 'clip_norm'),
}
_NOT_NEGATIVE = {
  'evaluate': ('temperature',),
  'sft': ('min_reward', 'learning_rate', 'warmup_steps', 'weight_decay'),
  'rl': ('warmup_steps', 'weight_decay'),
  'rl.critic': ('learning_rate', 'warmup_steps', 'weight_decay'),
}


def check(config) -> None:
  """Raises ValueError, with the key and its value, for what cannot work."""
  for keys, holds, what in (
    (_AT_LEAST_ONE, lambda x: x >= 1, 'at least 1'),
    (_ABOVE_ZERO, lambda x: x > 0, 'above 0'),
    (_NOT_NEGATIVE, lambda x: x >= 0, '0 or more'),
  ):
    for section, names in keys.items():
      for name in names:
        value = _section(config, section)[name]
        if not holds(value):
          raise ValueError(f'{section}.{name} is {value}; it must be {what}')
  for name in ('b1', 'b2'):
    if not 0 <= config.optimizer[name] < 1:
      raise ValueError(
        f'optimizer.{name} is {config.optimizer[name]}; it must be at least 0'
        ' and below 1'
      )
  _check_model(config.model)
  for key, value, choices in (
    ('sft.schedule', config.sft.schedule, optim.SCHEDULES),
    ('rl.schedule', config.rl.schedule, optim.SCHEDULES),
    ('rl.critic.schedule', config.rl.critic.schedule, optim.SCHEDULES),
  ):
    if value not in choices:
      raise ValueError(f'{key}: {value!r} is none of {choices}')
  sft = config.sft
  if sft.min_reward > 1:
    raise ValueError(
      f'sft.min_reward is {sft.min_reward}, and no reward is above 1'
    )
  if sft.schedule != 'constant' and sft.warmup_steps >= sft.steps:
    raise ValueError(
      f'sft.warmup_steps is {sft.warmup_steps}, but there are {sft.steps}'
      ' updates in all (sft.steps): nothing is left to decay over'
    )
  _check_ideas(config.collect)


def _check_model(model) -> None:
  names = [field.name for field in dataclasses.fields(ModelConfig)]
  fields = {name: model[name] for name in names}
  try:  # the tokenizer, which has the last word on its vocabulary, comes later
    ModelConfig(**fields | {'vocab_size': max(1, model.vocab_size)})
  except ValueError as error:
    raise ValueError(f'model: {error}') from error


def _check_ideas(collect) -> None:
  least, most = (
    collect.min_ideas_per_trajectory,
    collect.max_ideas_per_trajectory,
  )
  if not least <= most <= collect.diverse_ideas <= collect.ideas:
    raise ValueError(
      f'collect: {least} to {most} ideas (min_ and max_ideas_per_trajectory) of'
      f' {collect.diverse_ideas} (diverse_ideas), chosen from {collect.ideas}'
      ' (ideas): each must be at most the next'
    )


def _section(config, name: str):
  for part in name.split('.'):
    config = config[part]
  return config

"""What can be wrong with the rollouts of RL, found at start-up."""

MODES = ('step', 'episode')
RETURNS = ('sum', 'final')


def check(config) -> None:
  """Raises ValueError, with the key and its value, for what cannot work."""
  settings = config.rl
  for key, choices in (('mode', MODES), ('episode_return', RETURNS)):
    if settings[key] not in choices:
      raise ValueError(f'rl.{key}: {settings[key]!r} is none of {choices}')
  for key in ('max_staleness', 'max_late_staleness', 'timeline_steps'):
    if settings[key] < 0:
      raise ValueError(f'rl.{key}: {settings[key]} is below 0')
  for key, value in (
    ('rl.deadline_seconds', settings.deadline_seconds),
    ('environment.max_outage_minutes', config.environment.max_outage_minutes),
  ):
    if value < 0:
      raise ValueError(f'{key}: {value} is below 0')
  late, usual = settings.max_late_staleness, settings.max_staleness
  if 0 < late <= usual:
    raise ValueError(
      f'rl.max_late_staleness {late}: a late sample has a staleness of'
      f' {usual + 1} at least (rl.max_staleness is {usual}); raise it, or set'
      ' it to 0 to drop what is late'
    )
  if settings.mode == 'step':
    return
  for key in ('max_staleness', 'deadline_seconds', 'max_late_staleness'):
    if settings[key]:
      raise ValueError(
        f"rl.{key}: {settings[key]} is for rl.mode 'step'; an action of an"
        ' episode needs the one before, so it must be 0'
      )
  if settings.episode_steps < 1:
    raise ValueError(f'rl.episode_steps: {settings.episode_steps} is below 1')
  if settings.advantage == 'gae':
    raise ValueError(
      "rl.advantage: 'gae' takes one action for an episode; with rl.mode"
      " 'episode' choose grpo, rloo or reinforce"
    )

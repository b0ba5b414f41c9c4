"""The temperature of RL's samples, which may change from step to step.

A batch is sampled at that of its own step, and trained on at that of the
update: what comes late is corrected by its importance weights, as for older
parameters.
"""


def changes(settings) -> bool:
  """Whether it does; `settings` are the config's `rl`."""
  return settings.temperature_last not in (0.0, settings.temperature)


def at(settings, step: int) -> float:
  """The temperature of a step.

  Args:
    settings: the config's `rl`: linear from `temperature` in step 1 to
      `temperature_last` in step `steps`, or `temperature` if that is 0.
    step: from 1 on.
  """
  first, last = settings.temperature, settings.temperature_last
  if not changes(settings):
    return first
  share = (step - 1) / max(settings.steps - 1, 1)
  return first + (last - first) * share

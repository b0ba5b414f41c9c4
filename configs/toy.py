"""`make demo`: from nothing to an agent that improves scripts, on 2 cores."""

from configs import base


def get_config():
  """A 0.84M-parameter model, four real tasks, about 7 minutes."""
  return base.get_config()

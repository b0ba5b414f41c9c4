r"""Collects trajectories: `python -m mlagent_jax.collect --config --workdir`.

The stage `collect` of a training run and nothing else: an expert with diverse
ideas works on every training task. Shows progress, rewards and cost, keeps
failures, and ends with a table per task. Killed, or stopped by its cost
ceiling, it goes on with what is missing; `mlagent_jax.train` with the same
config and work directory trains on what is there.

  python -m mlagent_jax.collect --config=configs/toy.py --workdir=runs/toy \
    --config.collect.trajectories_per_task=1000
"""

from absl import app, flags

# Its flags are ours: --config, --workdir, and those of several processes.
from mlagent_jax import config_flag, train

flags.adopt_module_key_flags(train)


def main(argv):
  """Runs the one stage."""
  config = config_flag.CONFIG.value
  with config.unlocked():
    config.stages = ('collect',)
  train.main(argv)


if __name__ == '__main__':
  app.run(main, flags_parser=config_flag.parse)

"""The device's idle share with and without sampling ahead.

  python benchmarks/overlap.py --workdir=runs/overlap

The real RL loop, with a real model, on a real task: sampling and updates run
on the device, and every action is a script in bubblewrap that takes 1 to 10 s
on one of 4 workers. Only what the replies say is chosen here (an edit that
makes the script wait so long, as if it trained elsewhere), so that all runs
execute the same scripts. Runs `rl.max_staleness` 0 and 1 one after the other,
from the same parameters; executions are not reused. The last line is JSON: the
peer is staleness 0, ours is 1, the ratio that of samples an hour.
"""

import dataclasses

import numpy as np
import rl_runs

SHORTEST, LONGEST = 1.0, 10.0  # seconds
EDIT = (
  'Thought: wait\nAction: Edit Script Lines\nAction Input: {"script_name":'
  ' "train.py", "start_line_number": "1", "end_line_number": "1",'
  ' "replacement": "import sys, time; time.sleep(%.3f); sys.exit()"}'
)


def config_of(args):
  from configs import base

  config = base.get_config()
  config.tasks.train = ('cells',)
  config.tasks.held_out = ()
  config.environment.sandbox = 'bubblewrap'
  config.environment.workers = args.workers
  config.environment.reuse_executions = False
  # Large enough for a step of the device to take seconds on 2 cores.
  config.model.num_layers = args.layers
  config.model.embed_dim = 512
  config.model.num_heads = 8
  config.model.num_kv_heads = 8
  config.model.head_dim = 64
  config.model.ffn_dim = 1536
  config.collect.trajectories_per_task = 4
  config.collect.max_steps = 1
  # What the model says is not used.
  config.sft.steps = 1
  config.sft.schedule = 'constant'
  config.sft.warmup_steps = 0
  config.sft.prompts_per_batch = 2
  config.fixed_set.states = 1
  config.fixed_set.samples = 2
  config.rl.steps = args.steps
  config.rl.states_per_batch = args.states
  config.rl.samples_per_state = args.samples
  config.rl.checkpoint_every = args.steps
  return config


class Waiting:
  """Samples with the model, and says something else.

  Args:
    policy: the model's.
  """

  def __init__(self, policy):
    self._policy = policy

  def sample_replies(self, params, prompts, seeds, temperature=None):
    replies = self._policy.sample_replies(params, prompts, seeds, temperature)
    return [
      [self._instead(reply, int(seed)) for reply, seed in zip(*pair)]
      for pair in zip(replies, seeds)
    ]

  def _instead(self, reply, seed):
    seconds = np.random.default_rng(seed).uniform(SHORTEST, LONGEST)
    return dataclasses.replace(reply, text=EDIT % seconds)


def say_waits() -> None:
  """From now on every policy is `Waiting`."""
  from mlagent_jax.stages import learner

  policy = learner.Learner.policy
  learner.Learner.policy = lambda self, **options: Waiting(
    policy(self, **options)
  )


def figures(rows, config) -> dict:
  """Over all steps but the first two, which compile, and the last ones.

  At the end nothing is left to sample ahead.
  """
  last = config.rl.steps - 1 - config.rl.max_staleness
  steady = [row for row in rows if 2 < row['step'] <= last]
  seconds = sum(row['step_seconds'] for row in steady)
  script = sum(row['script_seconds'] for row in steady)
  return {
    'idle_share': sum(row['wait_seconds'] for row in steady) / seconds,
    'samples_per_hour': 3600 * sum(row['samples'] for row in steady) / seconds,
    'device_seconds_per_step': float(
      np.median(
        [row['sample_seconds'] + row['update_seconds'] for row in steady]
      )
    ),
    'step_seconds': float(np.median([row['step_seconds'] for row in steady])),
    'workers_busy': script / seconds / config.environment.workers,
    'staleness': float(np.mean([row['staleness'] for row in steady])),
  }


def main():
  parser = rl_runs.parser(__doc__)
  parser.add_argument('--steps', type=int, default=9)
  parser.add_argument('--states', type=int, default=2)
  parser.add_argument('--samples', type=int, default=4)
  parser.add_argument('--workers', type=int, default=4)
  parser.add_argument('--layers', type=int, default=4)
  args = parser.parse_args()
  found = rl_runs.compare(
    config_of(args),
    args.workdir,
    'max_staleness',
    (0, 1),
    figures,
    say_waits,
  )
  rates = {k: v['samples_per_hour'] for k, v in found.items()}
  idle = {k: v['idle_share'] for k, v in found.items()}
  rl_runs.report('overlap', rates[1], rates[0], idle_share=idle)


if __name__ == '__main__':
  main()

"""What a trained sample costs: single actions against whole episodes.

  python benchmarks/stepwise_vs_episodewise.py --workdir=runs/modes

One fine-tuned policy, the offline tasks, real scripts in bubblewrap (none is
reused), the same RL loop and update, `rl.mode` 'step' and then 'episode' (at
most 15 steps, as in the paper). A trained sample is what has one reward and
one advantage of its own: an action, or an episode. Source of the comparison:
ML-Agent, arXiv 2505.23723, figure 4.

The last line is JSON: ours is trained samples an hour of step-wise RL, the
peer that of episode-wise RL. Figures per action are printed too: an action of
an episode costs about what a single one does, but has no reward of its own.
"""

import rl_runs


def config_of(args):
  from configs import base

  config = base.get_config()
  config.tasks.train = tuple(args.tasks.split(','))
  config.tasks.held_out = ()
  config.environment.sandbox = 'bubblewrap'
  config.environment.reuse_executions = False
  config.collect.trajectories_per_task = 30
  config.collect.max_steps = 4
  config.sft.steps = args.sft_steps
  config.fixed_set.states = 2
  config.fixed_set.samples = 1
  config.rl.steps = args.steps
  config.rl.states_per_batch = args.states
  config.rl.samples_per_state = args.samples
  config.rl.checkpoint_every = args.steps
  return config


def figures(rows, config) -> dict:
  """Sums over all steps but the first two, which compile, and the last.

  The last has no rollout: it was sampled in the step before.
  """
  del config
  steady = rows[2:-1]
  total = {
    name: sum(row[name] for row in steady)
    for name in (
      'returns',
      'samples',
      'tokens',
      'prompt_tokens',
      'script_seconds',
      'executions',
      'step_seconds',
      'wait_seconds',
      'sample_seconds',
      'update_seconds',
    )
  }
  samples, actions = total['returns'], total['samples']
  return {
    'trained_samples': samples,
    'actions': actions,
    'samples_per_hour': 3600 * samples / total['step_seconds'],
    'actions_per_hour': 3600 * actions / total['step_seconds'],
    'environment_seconds_per_sample': total['script_seconds'] / samples,
    'environment_seconds_per_action': total['script_seconds'] / actions,
    'scripts_per_sample': total['executions'] / samples,
    'policy_tokens_per_sample': total['tokens'] / samples,
    'prompt_tokens_per_sample': total['prompt_tokens'] / samples,
    'policy_tokens_per_action': total['tokens'] / actions,
    'seconds': total['step_seconds'],
    'sampling_share': total['sample_seconds'] / total['step_seconds'],
    'waiting_share': total['wait_seconds'] / total['step_seconds'],
    'update_share': total['update_seconds'] / total['step_seconds'],
  }


def main():
  parser = rl_runs.parser(__doc__)
  parser.add_argument('--tasks', default='cells,ames')
  parser.add_argument('--sft_steps', type=int, default=160)
  parser.add_argument('--steps', type=int, default=6)
  parser.add_argument('--states', type=int, default=2)
  parser.add_argument('--samples', type=int, default=4)
  args = parser.parse_args()
  found = rl_runs.compare(
    config_of(args), args.workdir, 'mode', ('step', 'episode'), figures
  )
  rates = {k: v['samples_per_hour'] for k, v in found.items()}
  rl_runs.report('stepwise_vs_episodewise', rates['step'], rates['episode'])


if __name__ == '__main__':
  main()

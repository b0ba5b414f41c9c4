"""`make demo`: from nothing to an agent that improves scripts, on 2 cores."""

from configs import base


def get_config():
  """A 0.9M-parameter model, four real tasks, 5 to 8 minutes on 2 cores."""
  config = base.get_config()
  # Here, to compute again is faster than to write down and read.
  config.model.remat = 'dots'
  config.agent.max_action_tokens = 32  # the expert's longest
  # Nine tenths of what these scripts take is the import of their libraries.
  config.environment.preload = (
    'pandas',
    *(
      f'sklearn.{name}'
      for name in (
        'calibration',
        'compose',
        'decomposition',
        'ensemble',
        'feature_extraction.text',
        'impute',
        'linear_model',
        'model_selection',
        'naive_bayes',
        'neighbors',
        'pipeline',
        'preprocessing',
        'svm',
      )
    ),
  )
  # Each is a few new prompts, and hardly a script that did not run before: what
  # RL learns holds for prompts that it did not see only if it saw many.
  config.collect.trajectories_per_task = 120
  config.sft.steps = 250
  # Rows of [prompt | slots], with room for the longest of both, are about twice
  # as many tokens for as many actions.
  config.sft.layout = 'packed_groups'
  config.sft.batch_size = 8
  config.sft.max_length = 320
  # It does not imitate edits that failed; those that only made the score worse
  # it does: RL learns which edits pay, and can choose among many.
  config.sft.min_reward = 0.05
  config.rl.states_per_batch = 24
  # Room for about 15 states, those first whose samples earned differently.
  config.rl.layout = 'packed_groups'
  config.rl.batch_size = 8
  config.rl.max_length = 320
  # In many states doing nothing pays more than the average edit at first: with
  # a larger step or a looser leash the policy stops editing before it has
  # learned which edits pay. So it does if it is trained on all states alike
  # (rl.update_share): where all earn the same, nothing but the leash pulls.
  config.rl.steps = 110
  # Colder than what is measured at first: fewer attempts at an edit fail, so
  # that trying to edit pays from the first steps on.
  config.rl.temperature = 0.9
  config.rl.temperature_last = 1.0
  config.rl.learning_rate = 2e-4
  config.rl.warmup_steps = 5
  config.rl.kl_coef = 0.06
  config.rl.max_staleness = 1  # scripts run while the policy is updated
  # States whose samples earned differently come again more often.
  config.rl.pool = 'prioritised'
  # Half of the draws are uniform: valid actions on prompts it was not trained
  # on, too.
  config.rl.pool_uniform_share = 0.5
  # Without repeats of a prompt: the three starts of episodes, which are half
  # of all prefixes, would be half of what it trains on.
  config.rl.pool_distinct = True
  config.rl.checkpoint_every = 20
  return config

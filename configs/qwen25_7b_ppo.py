"""The paper's RL: PPO with a critic, on single actions.

The paper (arXiv 2505.23723) names PPO and publishes no hyper-parameters; these
are verl's: 1024 samples a step in 4 mini-batches, critic learning rate 1e-5,
gamma and lambda 1, value clip 0.5, no KL.
"""

from configs import qwen25_7b_rl


def get_config():
  """The 7B's RL with advantage 'gae'."""
  config = qwen25_7b_rl.get_config()
  config.rl.states_per_batch = 128
  config.rl.mini_batches = 4
  config.rl.advantage = 'gae'
  config.rl.gamma = 1.0
  config.rl.gae_lambda = 1.0
  config.rl.value_clip = 0.5
  config.rl.kl_coef = 0.0
  config.rl.critic.learning_rate = 1e-5
  config.rl.critic.weight_decay = 0.01
  return config

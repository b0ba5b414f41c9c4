"""Step-wise RL of Qwen2.5-7B, from the fine-tuned model on.

The paper (arXiv 2505.23723) does not publish its hyper-parameters; these are
verl's for a 7B: learning rate 1e-6, weight decay 0.01, clip 0.2, dual clip 3,
token-mean, KL k3 0.001 in the loss.
"""

from configs import qwen25_7b_sft


def get_config():
  """32 states of 8 actions a step: 256 samples, the mini-batch of verl."""
  config = qwen25_7b_sft.get_config()
  config.stages = ('sft', 'rl')
  config.rl.states_per_batch = 32
  config.rl.samples_per_state = 8
  config.rl.micro_batches = -1
  config.rl.steps = 200
  config.rl.learning_rate = 1e-6
  config.rl.weight_decay = 0.01
  config.rl.clip_low = 0.2
  config.rl.clip_high = 0.2
  config.rl.dual_clip = 3.0
  config.rl.advantage = 'grpo'
  config.rl.kl_estimator = 'k3'
  config.rl.kl_coef = 0.001
  return config

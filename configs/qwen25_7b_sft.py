"""Exploration-enriched fine-tuning of Qwen2.5-7B, as in the paper.

Source: ML-Agent, arXiv 2505.23723: full fine-tuning, learning rate 2e-5 with a
cosine, no warm-up, no weight decay, 2 epochs of 10k trajectories, global batch
64, cut-off 15,000 tokens (padded to 16,384 here). docs/pods.md says which pods
it fits; mesh.fsdp takes the devices that mesh.model leaves. Start from imported
weights: --config.model.init_from=DIR (see mlagent_jax.weights).
"""

from configs import base


def get_config():
  """The 7B, its meshes, and the paper's SFT."""
  config = base.get_config()
  config.stages = ('sft',)

  config.model.num_layers = 28
  config.model.embed_dim = 3584
  config.model.num_heads = 28
  config.model.num_kv_heads = 4
  config.model.head_dim = 128
  config.model.ffn_dim = 18_944
  config.model.vocab_size = 152_064
  config.model.tied_embeddings = False
  config.model.rope_theta = 1e6
  config.model.dtype = 'bfloat16'
  config.model.remat = 'full'
  config.tokenizer.kind = 'huggingface'
  config.tokenizer.path = 'Qwen/Qwen2.5-7B'
  config.mesh.fsdp = -1
  config.mesh.model = 4

  config.agent.protocol = 'full'
  config.agent.max_prompt_tokens = 14_336
  config.agent.max_action_tokens = 512
  config.environment.workers = 16
  config.collect.trajectories_per_task = 1112  # 10k of 9 tasks
  config.collect.max_steps = 15

  config.sft.layout = 'packed'
  config.sft.max_length = 16_384
  config.sft.batch_size = 64
  config.sft.micro_batches = -1
  config.sft.steps = 313  # 10k rows of a trajectory each, twice, 64 at a time
  config.sft.learning_rate = 2e-5
  config.sft.schedule = 'cosine'
  config.sft.warmup_steps = 0
  config.sft.weight_decay = 0.0
  config.optimizer.b2 = 0.999
  return config

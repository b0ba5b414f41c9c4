"""Every key of every config, with its default. The others are differences.

Keys that name a folder take any path; empty means 'inside the work
directory'. Sizes of the model are those of `mlagent_jax.model.config`.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
  """The defaults: a small model, every stage, and the design's constants."""
  config = config_dict.ConfigDict()
  config.seed = 0
  # In this order; a stage that the work directory has completed is skipped.
  config.stages = ('collect', 'sft', 'rl', 'evaluate')

  config.tasks = config_dict.ConfigDict()
  config.tasks.train = ('mnist5k', 'cells', 'ames')
  config.tasks.held_out = ('tweet-affect',)

  config.model = config_dict.ConfigDict()
  # Weights to start from, a folder of `python -m mlagent_jax.weights import`,
  # which prints the shape that this section must then state. Empty: random.
  config.model.init_from = ''
  config.model.num_layers = 3
  config.model.embed_dim = 128
  config.model.num_heads = 4
  config.model.num_kv_heads = 4
  config.model.head_dim = 32
  config.model.ffn_dim = 384
  config.model.vocab_size = 0  # the tokenizer's; more is padding
  config.model.qkv_bias = True
  config.model.tied_embeddings = True
  config.model.rope_theta = 10_000.0
  config.model.rms_norm_eps = 1e-6
  config.model.dtype = 'float32'
  config.model.remat = 'none'
  # Above 0, adapters of this rank (LoRA) are trained and nothing else.
  config.model.lora_rank = 0
  config.model.lora_alpha = 16.0
  config.model.lora_targets = ('wq', 'wk', 'wv', 'wo', 'gate', 'up', 'down')

  # 'sentencepiece' is trained on the training tasks' prompts and actions;
  # 'huggingface' is read from `path`, or from model.init_from.
  config.tokenizer = config_dict.ConfigDict()
  config.tokenizer.kind = 'sentencepiece'
  config.tokenizer.path = ''
  config.tokenizer.vocab_size = 2400

  # The product is the number of devices; -1 for fsdp: what the others leave.
  config.mesh = config_dict.ConfigDict()
  config.mesh.data = 1
  config.mesh.fsdp = 1
  config.mesh.model = 1
  # The sampler's, over the devices of one process: each process samples with
  # its own copy of the parameters. All 0: `mesh` if there is one process, else
  # `model` as there as far as it fits and the rest as `fsdp`. For decoding each
  # device of `data` and `fsdp` has all weights (of its part of `model`), so
  # that no token waits for them: a larger `model` here takes less memory.
  config.sampler_mesh = config_dict.ConfigDict()
  config.sampler_mesh.data = 0
  config.sampler_mesh.fsdp = 0
  config.sampler_mesh.model = 0

  config.agent = config_dict.ConfigDict()
  config.agent.protocol = 'compact'  # or 'full', MLAgentBench's
  config.agent.max_prompt_tokens = 256
  config.agent.max_action_tokens = 40
  config.agent.actions = (
    'List Files',
    'Inspect Script Lines',
    'Edit Script',
    'Edit Script Lines',
    'Copy File',
    'Undo Edit Script',
    'Execute Script',
    'Final Answer',
  )
  # Understand File and Edit Script (AI) need one: 'endpoint', 'policy'.
  config.agent.editor = ''

  # A model behind an OpenAI-compatible endpoint, for collect.expert and
  # agent.editor. Prices are for a million tokens, in one currency.
  config.endpoint = config_dict.ConfigDict()
  config.endpoint.model = ''
  config.endpoint.base_url = ''  # '': $OPENAI_BASE_URL, or OpenAI's own
  config.endpoint.api_key_variable = 'OPENAI_API_KEY'
  config.endpoint.timeout_seconds = 120.0
  config.endpoint.max_retries = 6
  config.endpoint.requests_per_minute = 0  # 0: no limit
  config.endpoint.tokens_per_minute = 0  # 0: no limit
  config.endpoint.prompt_price = 0.0
  config.endpoint.completion_price = 0.0
  config.endpoint.cached_price = -1.0  # below 0: as prompt_price
  # Money that all starts in this work directory may spend; 0: no limit.
  config.endpoint.max_cost = 0.0
  config.endpoint.max_prompt_tokens = 12_000
  config.endpoint.max_reply_tokens = 1000
  config.endpoint.max_edit_tokens = 4096
  config.endpoint.max_idea_tokens = 2048  # of a list of 25 ideas
  config.endpoint.temperature = 1.0

  # A policy of ours, in this process, where collect.expert or agent.editor is
  # 'policy'; how long its prompts and answers may be, and their temperature,
  # are in `endpoint`.
  config.policy = config_dict.ConfigDict()
  # The work directory of a run, or a folder of `weights import`.
  config.policy.checkpoint = ''
  config.policy.stage = ''  # of a run: untrained, sft, rl; '': its last
  config.policy.slots = 8  # answers written at once

  # Of every stage that samples replies.
  config.sampler = config_dict.ConfigDict()
  # Samples decoded at once; 0 for all of a batch. With fewer, a slot takes the
  # next sample as soon as its own has ended.
  config.sampler.slots = 0
  config.sampler.chunk = 16  # tokens between two looks at what has ended
  # Decode with matrices rounded to eight bits: fewer bytes to read on TPU and
  # GPU; the difference to the trainer is what rl.importance_cap corrects.
  config.sampler.int8 = False
  # After "Action:" only tokens that spell one of agent.actions and the header
  # "Action Input:" are drawn. Log-probabilities stay the policy's own, of all
  # tokens: see docs/rl.md.
  config.sampler.constrain_actions = False

  config.environment = config_dict.ConfigDict()
  config.environment.sandbox = 'auto'  # docker, bubblewrap, process
  # Modules that scripts in bubblewrap and process find imported, such as
  # ('pandas', 'sklearn.linear_model'): what a script of seconds spends most of
  # its time on. A copy of the importing process becomes the script.
  config.environment.preload = ()
  # 'mlagent_jax/task:torch' adds torch (launch/task_image/build.sh).
  config.environment.docker_image = 'mlagent_jax/task:cpu'
  # 'local': threads of this process. 'ray': a cluster (the extra `ray`), whose
  # nodes all see the work directory, and the executions, under these paths.
  config.environment.pool = 'local'
  config.environment.ray_address = 'auto'  # 'local' starts one here
  # Steps at once; with the pool 'ray', 0 is twice the CPUs of the cluster.
  config.environment.workers = 2
  config.environment.reuse_executions = True
  # Runs that name the same folder share what was executed.
  config.environment.executions = ''
  config.environment.executions_gb = 16.0
  config.environment.max_steps = 15
  config.environment.max_minutes = 30.0
  # If no worker can run anything, the run waits so long; then it stops, and
  # the same command resumes it.
  config.environment.max_outage_minutes = 30.0

  config.reward = config_dict.ConfigDict()
  config.reward.alpha = 4.0
  # Against ways to earn without improving, see docs/rl.md: an edit is measured
  # against the 'last' score on the way or the 'best' one; after so many neutral
  # outcomes (0.5) without a new best score the next pays 0; 0: no cap.
  config.reward.against = 'last'
  config.reward.neutral_cap = 0

  config.collect = config_dict.ConfigDict()
  # 'scripted'; 'endpoint' or 'policy': a chat model writes the ideas and the
  # replies.
  config.collect.expert = 'scripted'
  config.collect.ideas = 100
  config.collect.diverse_ideas = 10
  # Which of them: 'furthest' apart; for comparison 'random', and 'nearest'.
  config.collect.choice = 'furthest'
  # 'ngram', or 'sentence': a sentence model (extra embeddings), whose folder
  # is the installed package's if it is ''.
  config.collect.embedding = 'ngram'
  config.collect.embedding_folder = ''
  config.collect.min_ideas_per_trajectory = 1
  config.collect.max_ideas_per_trajectory = 3
  config.collect.trajectories_per_task = 50
  config.collect.max_steps = 5

  # The fixed set of states that RL never sees: before and after RL,
  # fresh samples for each are executed for real.
  config.fixed_set = config_dict.ConfigDict()
  config.fixed_set.states = 64
  config.fixed_set.samples = 8

  config.optimizer = config_dict.ConfigDict()
  config.optimizer.b1 = 0.9
  config.optimizer.b2 = 0.95
  config.optimizer.eps = 1e-8
  config.optimizer.clip_norm = 1.0

  config.sft = config_dict.ConfigDict()
  config.sft.steps = 240
  config.sft.prompts_per_batch = 16
  config.sft.actions_per_prompt = 4
  # Actions that earned less are not imitated; their states, and what the expert
  # did next, are. 0 imitates all.
  config.sft.min_reward = 0.0
  # 'shared_prompt': prompts_per_batch rows of a prompt and its actions;
  # 'packed': batch_size rows of max_length tokens, several examples to a row;
  # 'packed_groups': such rows of prompts with all of their actions.
  config.sft.layout = 'shared_prompt'
  config.sft.batch_size = 16
  config.sft.max_length = 512
  # Parts of a batch whose gradients are accumulated; -1: as many as leave every
  # device of the batch (mesh axes data and fsdp) one row at a time.
  config.sft.micro_batches = 1
  config.sft.learning_rate = 2e-3
  config.sft.schedule = 'cosine'
  config.sft.warmup_steps = 20
  config.sft.weight_decay = 0.01
  config.sft.checkpoint_every = 100

  config.rl = config_dict.ConfigDict()
  config.rl.steps = 30
  # 'step': single actions in recorded states; 'episode', the baseline: whole
  # episodes of `episode_steps`, `samples_per_state` for each of
  # `states_per_batch` starts (the tasks take turns).
  config.rl.mode = 'step'
  config.rl.episode_steps = 15
  # 'sum' of the steps' rewards, or 'final': as if the way were one edit.
  config.rl.episode_return = 'sum'
  config.rl.states_per_batch = 16
  config.rl.samples_per_state = 8
  # This share of a batch's states is trained on, those first whose samples
  # earned differently: where all earn alike, no sample is better than another.
  # Below 1, updates learn more from as many states, and sampling and scripts
  # cost more (DAPO, arXiv 2503.14476 section 3.2).
  config.rl.update_share = 1.0
  # 'shared_prompt': a row for each state, with room for samples_per_state
  # actions of agent.max_action_tokens. 'packed_groups': batch_size rows of
  # max_length tokens with several states each, and equal samples once; states
  # that find no room are not trained on, those last whose samples earned
  # differently. For short prompts: attention is the plain one everywhere.
  config.rl.layout = 'shared_prompt'
  config.rl.batch_size = 8
  config.rl.max_length = 512
  config.rl.micro_batches = 1
  # A batch is split into mini-batches of whole groups, one update each, and
  # gone through `epochs` times. (PPO of the paper: 4 mini-batches of 256.)
  config.rl.mini_batches = 1
  config.rl.epochs = 1
  # Of the samples, in the first step; linearly to temperature_last in the last
  # step, or the same throughout if that is 0.
  config.rl.temperature = 1.0
  config.rl.temperature_last = 0.0
  config.rl.learning_rate = 5e-4
  config.rl.schedule = 'constant'
  config.rl.warmup_steps = 0
  config.rl.weight_decay = 0.0
  # docs/rl.md says how to choose; formulas are in losses.py and advantages.py.
  config.rl.advantage = 'grpo'  # rloo, reinforce, gae (with a critic)
  config.rl.use_std = True  # of grpo; False is Dr. GRPO
  # Least std that grpo, reinforce and gae's whitening divide by, of the reward.
  config.rl.std_floor = 0.25
  config.rl.ratio = 'token'  # 'sequence': GSPO, with clips of about 3e-4
  config.rl.clip_low = 0.2
  config.rl.clip_high = 0.2
  config.rl.dual_clip = 3.0  # 0: none
  config.rl.aggregation = 'token-mean'
  config.rl.kl_estimator = 'k3'
  config.rl.kl_place = 'loss'  # or 'reward'
  config.rl.kl_coef = 0.02
  # 'adaptive': kl_coef is where it starts; it follows kl_target nats a token.
  config.rl.kl_control = 'fixed'
  config.rl.kl_target = 0.05
  config.rl.kl_gain = 0.1
  config.rl.entropy_coef = 0.0
  config.rl.importance_cap = 2.0  # 0: no correction
  # Weights a sample's gradient by its seconds plus this; 0: all alike.
  config.rl.duration_floor = 0.0
  # Of advantage 'gae'.
  config.rl.gamma = 1.0
  config.rl.gae_lambda = 1.0
  config.rl.whiten = True
  config.rl.value_clip = 0.5
  config.rl.critic = config_dict.ConfigDict()
  config.rl.critic.learning_rate = 1e-5
  config.rl.critic.schedule = 'constant'
  config.rl.critic.warmup_steps = 0
  config.rl.critic.weight_decay = 0.01
  # First steps in which the critic alone is trained.
  config.rl.critic.steps_alone = 0
  # 'uniform': every prefix of every trajectory alike; 'balanced': the tasks
  # take turns; 'balanced-steps': in a task, step indices take turns, too;
  # 'prioritised': in a task, states whose rewards varied come more often (but
  # for this share).
  config.rl.pool = 'balanced'
  config.rl.pool_uniform_share = 0.25
  # Prefixes of one prompt, such as the starts of episodes, are one state.
  config.rl.pool_distinct = False
  # Share of a batch drawn from states that the policy itself reached, and how
  # many of them are kept; 0: none.
  config.rl.visited_share = 0.0
  config.rl.visited_most = 256
  # Updates between the policy that sampled a batch and the one that trains on
  # it: 0 waits for every batch; 1 samples the next one while this one is
  # executed, so that device and workers are busy at once.
  config.rl.max_staleness = 0
  # An update waits no longer for its batch (but for half of it); 0: for all.
  config.rl.deadline_seconds = 0.0
  # What comes after the deadline is trained with a later update while its
  # staleness is at most this, then dropped; 0 drops all that is late.
  config.rl.max_late_staleness = 0
  # Last steps that rl/timeline.json and timeline.png show; 0 for none.
  config.rl.timeline_steps = 50
  config.rl.checkpoint_every = 5

  config.evaluate = config_dict.ConfigDict()
  config.evaluate.episodes = 8
  config.evaluate.max_steps = 5
  config.evaluate.temperature = 1.0
  config.evaluate.bootstrap_samples = 10_000
  # A key that is not here is a mistake of whoever writes a difference.
  return config.lock()

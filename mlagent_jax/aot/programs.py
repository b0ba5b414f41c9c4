"""The programs that training runs, with abstract arguments to compile them for.

Every program comes from the factory that the stages call, with the config's
values; only the arrays are missing. Rows are as long as the config allows.
"""

import dataclasses

import jax
import numpy as np

from mlagent_jax import batching, losses, packed_groups, train_state
from mlagent_jax.aot import roofline, sampler_programs
from mlagent_jax.aot.program import Program, reference
from mlagent_jax.model import sharding
from mlagent_jax.stages import learner as learner_lib
from mlagent_jax.stages import rl_checks, rl_update, temperature
from mlagent_jax.stages.session import ConfigError


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """What a compile needs of a tokenizer."""

  vocab_size: int
  stop_ids: tuple[int, ...] = (0,)
  pad_id: int = 0


def make_program(
  config, function: str, devices
) -> tuple[Program, learner_lib.Learner]:
  """The program `function` (one of PROGRAMS) of a config, and its learner.

  Args:
    config: the whole config, without -1 (`session.fill_in`).
    function: its name.
    devices: of the topology.
  """
  vocabulary = Vocabulary(
    config.model.vocab_size or config.tokenizer.vocab_size
  )
  learner = learner_lib.make_learner(config, vocabulary, devices)
  return PROGRAMS[function](learner), learner


def sft_step(learner: learner_lib.Learner) -> Program:
  """One update of fine-tuning."""
  settings = learner.config.sft
  tx = learner.optimizer(settings, settings.steps)
  step = train_state.make_train_step(
    learner.graphdef,
    losses.make_sft_loss(),
    tx,
    micro_batches=settings.micro_batches,
    mesh=learner.mesh,
  )
  state = train_state.train_state_shapes(learner.shapes, tx, learner.mesh)
  if settings.layout != 'shared_prompt':
    B, T = settings.batch_size, settings.max_length
    if settings.layout == 'packed':
      example = batching.Example([0] * (T - 1), [0])
      batch = batching.pack_sft([example], length=T, rows=1)
    else:
      batch, _ = packed_groups.pack([], [[]], length=T)
    work = roofline.Work(B * T, B * T, B * roofline.causal_pairs(T), True)
  else:
    B, G = settings.prompts_per_batch, settings.actions_per_prompt
    batch, work = _group_batch(learner, B, G, trains=True)
  return Program(step, (state, _rows(batch, B, learner)), work)


def rl_step(learner: learner_lib.Learner) -> Program:
  """One update of the policy; beside it the reference, and a critic if any."""
  trainer = rl_update.make_trainer(learner)
  state = rl_update.state_shapes(learner)
  batch, work = _mini_batch(learner, trains=True)
  beside = (reference(learner), state.critic)
  return Program(trainer.update_policy, (state.policy, batch), work, beside)


def critic_step(learner: learner_lib.Learner) -> Program:
  """One update of the critic, beside it the policy and the reference.

  Raises:
    ConfigError: if the config has no critic.
  """
  trainer = rl_update.make_trainer(learner)
  state = rl_update.state_shapes(learner)
  if state.critic is None:
    advantage = learner.config.rl.advantage
    raise ConfigError(f"rl.advantage {advantage!r} has no critic; 'gae' has")
  batch, work = _mini_batch(learner, trains=True)
  for name in (
    'advantages',
    'logps_sampler',
    'logps_ref',
    'logps_old',
    'first',
  ):
    batch.pop(name, None)
  batch |= {name: batch['mask'] for name in ('values', 'returns')}
  # A value is D multiply-adds.
  work = dataclasses.replace(work, predicted=0)
  beside = (reference(learner), state.policy)
  return Program(trainer.update_critic, (state.critic, batch), work, beside)


def logps(learner: learner_lib.Learner) -> Program:
  """The log-probabilities of a batch, with the train states beside it."""
  trainer = rl_update.make_trainer(learner)
  S = rl_checks.update_rows(learner.config)
  batch, work = _rl_batch(learner, S, trains=False)
  arguments = reference(learner), _rows(batch, S, learner)
  beside = (rl_update.state_shapes(learner),)
  return Program(trainer.compute_logps, arguments, work, beside)


PROGRAMS = {
  'sft_step': sft_step,
  'rl_step': rl_step,
  'critic_step': critic_step,
  'logps': logps,
  'prefill': sampler_programs.prefill,
  'decode': sampler_programs.decode,
}


def _mini_batch(learner, *, trains):
  """What an update of RL is given, and its work."""
  settings = learner.config.rl
  S = rl_checks.update_rows(learner.config) // settings.mini_batches
  G = settings.samples_per_state
  batch, work = _rl_batch(learner, S, trains=trains)
  batch['advantages'] = np.zeros((1, G), np.float32)
  if settings.advantage == 'gae':
    batch['advantages'] = batch['mask']
  for name in ('logps_sampler', 'logps_ref'):
    batch[name] = batch['mask']
  if settings.epochs * settings.mini_batches > 1:
    batch['logps_old'] = batch['mask']
    batch['first'] = np.zeros(1, np.float32)
  return _rows(batch, S, learner), work


def _rl_batch(learner, S, *, trains):
  """One row of `rl.layout`, and the work of all."""
  settings = learner.config.rl
  G = settings.samples_per_state
  if settings.layout == 'shared_prompt':
    batch, work = _group_batch(learner, S, G, trains=trains)
  else:
    B, T = settings.batch_size, settings.max_length
    batch = packed_groups.packed_layout(
      [[0]],
      [[]],
      rows=1,
      length=T,
      action_length=learner.config.agent.max_action_tokens,
      samples=G,
    )
    pairs = B * roofline.causal_pairs(T)
    work = roofline.Work(B * T, B * T, pairs, trains)
  if temperature.changes(settings):
    batch['temperature'] = np.ones(1, np.float32)
  return batch, work


def _group_batch(learner, S, G, *, trains):
  """One row of the shared-prompt layout, and the work of S rows."""
  agent = learner.config.agent
  P, A = agent.max_prompt_tokens, agent.max_action_tokens
  batch = batching.group_layout(
    [[0]], [[]], prompt_length=P, action_length=A, samples=G
  )
  pairs = roofline.shared_prompt_pairs(P, G, A)
  work = roofline.Work(S * (P + G * A), S * G * A, S * pairs, trains)
  return batch, work


def _rows(batch, rows: int, learner):
  """Abstract arrays like `put_batch` of `rows` rows of a batch of one."""
  split = sharding.batch_sharding(learner.mesh)
  packed = learner.config.rl.batch_size if 'places' in batch else rows

  def like(name, x):
    of_rows = name in (*packed_groups.PACKED, 'temperature')
    count = packed if of_rows else rows
    sharding.check_batch_divides(learner.mesh, count, 'batch')
    shape = count, *x.shape[1:]
    return jax.ShapeDtypeStruct(shape, x.dtype, sharding=split)

  return {name: like(name, x) for name, x in batch.items()}

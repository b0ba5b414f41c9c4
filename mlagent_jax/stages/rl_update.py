"""The device side of an RL step: executed samples -> an updated policy."""

import dataclasses

import numpy as np

from mlagent_jax import advantages as advantages_lib
from mlagent_jax import batching, losses, train_state
from mlagent_jax.model import logps
from mlagent_jax.stages import learner as learner_lib


@dataclasses.dataclass(frozen=True)
class Trainer:
  """The jitted parts of an RL step, made once."""

  update: object
  compute_logps: object


def make_trainer(learner: learner_lib.Learner, tx) -> Trainer:
  """Compiles nothing yet; the first call of each part does."""
  settings = learner.config.rl
  loss = losses.make_step_rl_loss(
    clip_low=settings.clip_low,
    clip_high=settings.clip_high,
    dual_clip=settings.dual_clip,
    aggregation=settings.aggregation,
    kl_coef=settings.kl_coef,
    kl_kind=settings.kl_estimator,
    entropy_coef=settings.entropy_coef,
    importance_cap=settings.importance_cap,
    temperature=settings.temperature,
  )
  update = train_state.make_train_step(
    learner.graphdef,
    loss,
    tx,
    micro_batches=settings.micro_batches,
    mesh=learner.mesh,
  )
  compute_logps = logps.make_compute_logps(
    learner.graphdef,
    temperature=settings.temperature,
    micro_batches=settings.micro_batches,
    mesh=learner.mesh,
  )
  return Trainer(update, compute_logps)


def update(learner, trainer, states, reference, state, taken):
  """The updates of one batch; returns the state and the first's metrics.

  Args:
    learner: the model.
    trainer: of `make_trainer`.
    states: gives the prompt length.
    reference: parameters of the KL term's model.
    state: the train state; donated.
    taken: `rollouts.Batch`.
  """
  config = learner.config
  settings = config.rl
  empty = (learner.tokenizer.pad_id,)
  batch = batching.group_layout(
    [empty if row is None else row.prompt_ids for row in taken.rows],
    [
      [() if done is None else done.reply.token_ids for done in slots]
      for slots in taken.slots
    ],
    prompt_length=states.prompt_length,
    action_length=config.agent.max_action_tokens,
    pad_id=learner.tokenizer.pad_id,
  )
  compared = np.asarray(
    compute_advantages(settings, taken.rewards, taken.valid)
  )
  batch['advantages'] = compared.ravel()[taken.owners]
  batch['logps_sampler'] = np.zeros(batch['mask'].shape, np.float32)
  for row, slots in zip(batch['logps_sampler'], taken.slots, strict=True):
    for slot, done in zip(row, slots, strict=True):
      if done is not None:
        slot[: len(done.reply.logps)] = done.reply.logps
  batch = train_state.put_batch(batch, learner.mesh)
  batch['logps_ref'] = trainer.compute_logps(reference, batch)
  if settings.updates_per_batch > 1:
    logps_old = trainer.compute_logps(state.params, batch)
  state, metrics = trainer.update(state, batch)
  for _ in range(settings.updates_per_batch - 1):
    state, _ = trainer.update(state, batch | {'logps_old': logps_old})
  return state, {name: float(value) for name, value in metrics.items()}


def compute_advantages(settings, rewards: np.ndarray, valid: np.ndarray):
  """[N, G] rewards and 0/1 -> [N, G] advantages, by the config's estimator."""
  if settings.advantage == 'grpo':
    return advantages_lib.grpo(
      rewards, std_floor=settings.std_floor, valid=valid
    )
  if settings.advantage == 'rloo':
    return advantages_lib.rloo(rewards, valid=valid)
  return advantages_lib.reinforce(
    rewards, std_floor=settings.std_floor, valid=valid
  )

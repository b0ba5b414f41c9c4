"""The device side of an RL step: executed samples -> an updated policy.

The algorithm is chosen by the config's `rl` keys; its parts are pure functions
of `losses` and `advantages`. With advantage 'gae' there is a critic, trained
on the same mini-batches; without one the same code runs and does less.

The old policy of the ratio is the policy before a batch's first update. The
first mini-batch takes the log-probabilities that the loss computes itself, so
that the ratio is exactly 1 there, whatever the micro-batches. For later ones
they are computed once, before any update.
"""

import dataclasses
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mlagent_jax import losses, train_state
from mlagent_jax.model import critic as critic_lib
from mlagent_jax.model import logps, sharding
from mlagent_jax.stages import learner as learner_lib
from mlagent_jax.stages import not_finite, rl_batch, rl_checks, temperature

# What an update reads of a batch; the rest stays out of its program.
_LAYOUT = (
  'tokens',
  'positions',
  'segment_ids',
  'targets',
  'mask',
  'lengths',
  'temperature',
  'branches',
  'sources',
  'places',
)
_OF_POLICY = (
  *_LAYOUT,
  'advantages',
  'logps_sampler',
  'logps_ref',
  'logps_old',
  'kl_coef',
)
_OF_CRITIC = (*_LAYOUT, 'values', 'returns')


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RLState:
  """What RL changes on the devices: all of it goes into the checkpoint.

  Attributes:
    policy: the policy and its optimizer.
    critic: the critic and its optimizer; None if the advantage needs none.
    kl_coef: scalar float32, moved by the adaptive controller.
  """

  policy: train_state.TrainState
  critic: train_state.TrainState | None
  kl_coef: jax.Array

  @property
  def params(self) -> nnx.State:
    """The policy's parameters."""
    return self.policy.params


@dataclasses.dataclass(frozen=True)
class Trainer:
  """The parts of an RL step, made once; a jitted one compiles when called.

  Attributes:
    update_policy: jitted (TrainState, batch) -> (TrainState, metrics).
    compute_logps: jitted (params, batch) -> [S, G, A].
    take: jitted (batch, index) -> that mini-batch.
    update_critic: jitted like update_policy; None without a critic.
    compute_values: jitted (critic's params, batch) -> [S, G, A], or None.
  """

  update_policy: Callable
  compute_logps: Callable
  take: Callable
  update_critic: Callable | None = None
  compute_values: Callable | None = None


def _optimizers(learner: learner_lib.Learner):
  """(the policy's, the critic's) optimizers."""
  settings = learner.config.rl
  updates = settings.mini_batches * settings.epochs
  alone = settings.critic.steps_alone if _has_critic(settings) else 0
  return (
    learner.optimizer(settings, (settings.steps - alone) * updates),
    learner.optimizer(settings.critic, settings.steps * updates),
  )


def _has_critic(settings) -> bool:
  return settings.advantage == 'gae'


def make_state(learner: learner_lib.Learner, reference: nnx.State) -> RLState:
  """The state before the first step.

  Args:
    learner: the model.
    reference: where the policy and the critic start from; it is copied, since
      updates donate the state.
  """
  mesh = learner.mesh
  tx, critic_tx = _optimizers(learner)
  own = jax.tree.map(lambda x: x.copy(), reference)
  critic = None
  if _has_critic(learner.config.rl):
    _, shapes = critic_lib.abstract_critic(learner.model)
    params = critic_lib.critic_from_policy(reference, shapes, mesh)
    critic = train_state.make_train_state(params, critic_tx, mesh)
  kl_coef = jnp.float32(learner.config.rl.kl_coef)
  if mesh is not None:
    # From NumPy: a jax.Array of one process cannot be put on all of them.
    kl_coef = jax.device_put(
      np.float32(learner.config.rl.kl_coef), sharding.logical_sharding(mesh, ())
    )
  policy = train_state.make_train_state(own, tx, mesh)
  return RLState(policy, critic, kl_coef)


def state_shapes(learner: learner_lib.Learner) -> RLState:
  """What `make_state` returns, as shapes: to restore a checkpoint into."""
  mesh = learner.mesh
  tx, critic_tx = _optimizers(learner)
  policy = train_state.train_state_shapes(learner.shapes, tx, mesh)
  critic = None
  if _has_critic(learner.config.rl):
    _, shapes = critic_lib.abstract_critic(learner.model)
    critic = train_state.train_state_shapes(shapes, critic_tx, mesh)
  step = policy.step
  kl_coef = jax.ShapeDtypeStruct((), jnp.float32, sharding=step.sharding)
  return RLState(policy, critic, kl_coef)


def make_trainer(learner: learner_lib.Learner) -> Trainer:
  """Compiles nothing yet; the first call of each part does."""
  settings, mesh = learner.config.rl, learner.mesh
  tx, critic_tx = _optimizers(learner)
  in_loss = settings.kl_place == 'loss'
  fixed = settings.kl_control == 'fixed'
  # None: that of the batch.
  own_temperature = settings.temperature
  if temperature.changes(settings):
    own_temperature = None
  loss = losses.make_step_rl_loss(
    clip_low=settings.clip_low,
    clip_high=settings.clip_high,
    dual_clip=settings.dual_clip or None,
    ratio_kind=settings.ratio,
    aggregation=settings.aggregation,
    kl_coef=(settings.kl_coef if fixed else None) if in_loss else 0.0,
    kl_kind=settings.kl_estimator,
    entropy_coef=settings.entropy_coef,
    importance_cap=settings.importance_cap or None,
    temperature=own_temperature,
  )
  parts = {'micro_batches': settings.micro_batches, 'mesh': mesh}
  # Of a whole batch, in parts as large as an update's.
  all_parts = parts | {
    'micro_batches': settings.micro_batches * settings.mini_batches
  }
  trainer = Trainer(
    train_state.make_train_step(learner.graphdef, loss, tx, **parts),
    logps.make_compute_logps(
      learner.graphdef, temperature=own_temperature, **all_parts
    ),
    _make_take(settings.mini_batches, mesh),
  )
  if not _has_critic(settings):
    return trainer
  graphdef, _ = critic_lib.abstract_critic(learner.model)
  loss = losses.make_critic_loss(value_clip=settings.value_clip)
  return dataclasses.replace(
    trainer,
    update_critic=train_state.make_train_step(
      graphdef, loss, critic_tx, **parts
    ),
    compute_values=critic_lib.make_compute_values(graphdef, **all_parts),
  )


def _make_take(mini_batches: int, mesh):
  def take(batch, index):
    with sharding.on_mesh(mesh):
      parts = sharding.split_batch(batch, mini_batches, mesh)
      return jax.tree.map(lambda x: x[index], parts)

  return jax.jit(take)


def update(
  learner: learner_lib.Learner,
  trainer: Trainer,
  states,
  reference: nnx.State,
  state: RLState,
  taken,
  *,
  number: int,
  folder: pathlib.Path,
) -> tuple[RLState, dict[str, float]]:
  """All updates of one batch.

  Args:
    learner: the model.
    trainer: of `make_trainer`.
    states: `stages.states.States`, for the prompts' length.
    reference: parameters of the KL's reference.
    state: donated.
    taken: `stages.rollouts.Batch`.
    number: of this step, from 1.
    folder: where a batch that gave NaN or infinity is saved.

  Returns:
    The state, and metrics: means over the updates; `ratio_first` is that of
    the first mini-batch, `kl_coef` and `temperature` are those that were used.

  Raises:
    NotFiniteError: if a loss or gradient is NaN or infinite.
  """
  settings = learner.config.rl
  P = rl_batch.prompt_length(learner.config, states)
  if settings.update_share < 1:
    rows = rl_checks.update_rows(learner.config)
    taken = rl_batch.most_telling(taken, rows)
  if settings.layout == 'packed_groups':
    taken = rl_batch.fitting(settings, taken)
  host = rl_batch.host_batch(learner, P, taken)
  now = temperature.at(settings, number)
  if temperature.changes(settings):
    host['temperature'] = np.full(len(host['tokens']), now, np.float32)
  batch = train_state.put_batch(host, learner.mesh)
  updates = settings.epochs * settings.mini_batches
  critic_alone = (
    state.critic is not None and number <= settings.critic.steps_alone
  )
  layout = _chosen(batch, _LAYOUT)
  batch['logps_ref'] = trainer.compute_logps(reference, layout)
  if updates > 1 or settings.kl_place == 'reward' or critic_alone:
    batch['logps_old'] = trainer.compute_logps(state.params, layout)
  if state.critic is not None:
    batch['values'] = trainer.compute_values(state.critic.params, batch)
  estimates, figures = rl_batch.estimate(
    settings, batch, taken, float(state.kl_coef)
  )
  batch |= train_state.put_batch(estimates, learner.mesh)

  policy, critic = state.policy, state.critic
  history = []
  for index in range(updates):
    part = batch
    if settings.mini_batches > 1:
      part = trainer.take(batch, index % settings.mini_batches)
    metrics = {}
    if critic is not None:
      critic, of_critic = trainer.update_critic(
        critic, _chosen(part, _OF_CRITIC)
      )
      metrics |= {f'critic/{name}': x for name, x in of_critic.items()}
    if not critic_alone:
      of_policy = _chosen(part, _OF_POLICY)
      if updates > 1:
        first = np.full(len(part['lengths']), index == 0, np.float32)
        of_policy['first'] = train_state.put_batch(first, learner.mesh)
      else:
        of_policy.pop('logps_old', None)
      policy, of_policy = trainer.update_policy(policy, of_policy)
      metrics |= of_policy
    history.append(metrics)
  history = [
    {name: float(value) for name, value in metrics.items()}
    for metrics in history
  ]
  not_finite.check(
    history,
    batch,
    folder / 'not_finite',
    stage='rl',
    step=number,
    rows=[row.name if row else '' for row in taken.rows],
  )
  figures = {name: float(value) for name, value in figures.items()}
  # A mini-batch of which nothing came in time has no means.
  counted = [m for m in history if m.get('weight', 1)] or history
  figures |= {
    name: float(np.mean([metrics[name] for metrics in counted]))
    for name in history[0]
  }
  if not critic_alone and counted[0] is history[0]:
    figures['ratio_first'] = history[0]['ratio']
  figures['kl_coef'] = float(state.kl_coef)
  figures['temperature'] = now
  figures['states_trained'] = int(taken.trained.any(axis=-1).sum())
  kl_coef = state.kl_coef
  kl = figures.get('kl', np.nan)
  if settings.kl_control == 'adaptive' and np.isfinite(kl):
    kl_coef = losses.adapted_kl_coef(
      kl_coef, kl, target=settings.kl_target, gain=settings.kl_gain
    )
  return RLState(policy, critic, kl_coef), figures


def _chosen(batch, names) -> dict[str, jax.Array]:
  return {name: batch[name] for name in names if name in batch}

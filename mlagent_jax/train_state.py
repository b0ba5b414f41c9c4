"""The train state and the one train step, for any loss.

A step computes, over M micro-batches m with loss sums S_m and weights W_m
(such as counts of action tokens), the gradient of

  loss = (S_1 + … + S_M) / (W_1 + … + W_M)

by summing gradients of S_m and dividing once. Accumulation therefore equals
the big batch exactly, however unequal the counts are.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.experimental import multihost_utils

from mlagent_jax.model import lora
from mlagent_jax.model.sharding import (
  batch_sharding,
  check_batch_divides,
  constrain_state,
  on_mesh,
  split_batch,
  state_shardings,
)

# loss_fn(model, batch) -> (loss sum, weight, {name: (sum, weight)})
Sums = tuple[jax.Array, jax.Array]
LossFn = Callable[
  [nnx.Module, Mapping[str, jax.Array]],
  tuple[jax.Array, jax.Array, Mapping[str, Sums]],
]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """What an update changes.

  Attributes:
    params: the model's parameters, float32. Where it has LoRA adapters, these
      alone are trained.
    opt_state: the optimizer's state for what is trained; its moments are
      sharded as `params`.
    step: scalar int32, finished updates.
  """

  params: nnx.State
  opt_state: optax.OptState
  step: jax.Array


def make_train_state(
  params: nnx.State,
  tx: optax.GradientTransformation,
  mesh: jax.sharding.Mesh | None = None,
) -> TrainState:
  """A state before its first update.

  The state takes `params` over: a train step donates it, so whoever needs
  these parameters afterwards (a frozen reference) keeps a copy.

  Args:
    params: as of `make_model`, on `mesh`.
    tx: the optimizer.
    mesh: the mesh, or None on a single device.
  """
  trained, _ = lora.split(params)

  def initialise(trained):
    return tx.init(trained), jnp.zeros((), jnp.int32)

  shapes = jax.eval_shape(initialise, trained)
  # Without out_shardings the moments would be replicated on every device.
  shardings = None if mesh is None else state_shardings(shapes, mesh)
  first = jax.tree.leaves(params)[0]
  if mesh is None and first.committed:
    # All of the state is committed or nothing is: a step makes it so, and would
    # compile again for what it returned.
    shardings = jax.tree.map(lambda _: first.sharding, shapes)
  opt_state, step = jax.jit(initialise, out_shardings=shardings)(trained)
  return TrainState(params, opt_state, step)


def train_state_shapes(
  shapes: nnx.State,
  tx: optax.GradientTransformation,
  mesh: jax.sharding.Mesh | None = None,
) -> TrainState:
  """What `make_train_state` returns, as shapes: computes and holds nothing.

  The template to restore a checkpoint into, or to compile a step for.

  Args:
    shapes: of the parameters, as of `abstract_model`.
    tx: the optimizer.
    mesh: the mesh, or None on a single device.

  Returns:
    A TrainState of ShapeDtypeStructs that carry their shardings.
  """
  step = jax.ShapeDtypeStruct((), jnp.int32)
  trained, _ = lora.split(shapes)
  state = TrainState(shapes, jax.eval_shape(tx.init, trained), step)
  if mesh is None:
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = jax.tree.map(lambda _: here, state)
  else:
    shardings = state_shardings(state, mesh)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    state,
    shardings,
  )


def own_rows(mesh: jax.sharding.Mesh | None, size: int) -> np.ndarray:
  """Which rows of a global batch the devices of this process hold.

  Where an axis of the model spans hosts, several processes hold the same rows;
  where the mesh follows a torus, a process's rows are not consecutive.

  Args:
    mesh: the mesh, or None for a single device.
    size: B.

  Returns:
    Indices, ascending.

  Raises:
    ValueError: if B does not divide by the devices of the batch.
  """
  if mesh is None:
    return np.arange(size)
  check_batch_divides(mesh, size, 'batch')
  places = batch_sharding(mesh).addressable_devices_indices_map((size,))
  rows = [np.arange(size)[index] for index in places.values()]
  return np.unique(np.concatenate(rows))


def fetch(x: jax.Array) -> np.ndarray:
  """The whole of a batch's array, in every process; all of them ask."""
  if x.is_fully_addressable or x.is_fully_replicated:
    return np.asarray(x)
  return multihost_utils.process_allgather(x, tiled=True)


def put_batch(
  batch, mesh: jax.sharding.Mesh | None = None, *, size: int | None = None
):
  """Moves a batch of host arrays to the devices, split on its first axis.

  Args:
    batch: a tree of NumPy arrays [B, …]; with several processes, the same in
      all of them.
    mesh: the mesh, or None for a single device.
    size: B, if `batch` holds only the `own_rows` of this process.

  Raises:
    ValueError: if B does not divide by the devices of the batch.
  """
  if mesh is None:
    return jax.tree.map(jnp.asarray, batch)
  sharding = batch_sharding(mesh)

  def put(x):
    x = np.asarray(x)
    B = len(x) if size is None else size
    rows = np.arange(B) if size is None else own_rows(mesh, B)
    check_batch_divides(mesh, B, 'batch')

    def part(index):
      start, stop, _ = index[0].indices(B)
      first = np.searchsorted(rows, start)
      return x[first : first + stop - start]

    return jax.make_array_from_callback((B, *x.shape[1:]), sharding, part)

  return jax.tree.map(put, batch)


def make_train_step(
  graphdef: nnx.GraphDef,
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  *,
  micro_batches: int = 1,
  mesh: jax.sharding.Mesh | None = None,
) -> Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, dict]]:
  """A jitted `step(state, batch) -> (state, metrics)`; it donates the state.

  Args:
    graphdef: the model's, as of `make_model`.
    loss_fn: (model, batch) -> (loss sum, weight, {name: (sum, weight)}), all
      scalars.
    tx: the optimizer.
    micro_batches: M; the batch is split into so many parts, whose gradients
      are accumulated.
    mesh: where `params` and batches are, or None for a single device.

  Returns:
    The step. `batch` is a dict of arrays with leading axis B. The metrics are
    float32 scalars: `loss`, `weight` (its denominator), `grad_norm` (before
    clipping), and those of the loss as sum / weight (NaN if a weight is 0: a
    mean of nothing). A batch of weight 0 has a gradient of zero.

  Raises:
    ValueError: when the step is traced, if B does not divide by M, or B / M
      by the devices of the batch.
  """

  def micro_sums(trained, frozen, batch):
    model = nnx.merge(graphdef, lora.join(trained, frozen))
    loss_sum, weight, metrics = loss_fn(model, batch)
    sums = {'loss': (loss_sum, weight), **metrics}
    return loss_sum, jax.tree.map(jnp.float32, sums)

  gradients = jax.grad(micro_sums, has_aux=True)

  def step(state, batch):
    with on_mesh(mesh):
      parts = split_batch(batch, micro_batches, mesh)
      trained, frozen = lora.split(state.params)

      def accumulate(total, part):
        grads, sums = gradients(trained, frozen, part)
        total = jax.tree.map(jnp.add, total, (constrain_state(grads), sums))
        return total, None

      zeros = _zeros(gradients, trained, frozen, parts)
      (grads, sums), _ = jax.lax.scan(accumulate, zeros, parts)

      weight = sums['loss'][1]
      scale = jnp.where(weight > 0, 1 / weight, 0)
      grads = constrain_state(jax.tree.map(lambda g: g * scale, grads))
      updates, opt_state = tx.update(grads, state.opt_state, trained)
      params = lora.join(optax.apply_updates(trained, updates), frozen)
      metrics = {name: total / count for name, (total, count) in sums.items()}
      metrics |= {'weight': weight, 'grad_norm': optax.tree.norm(grads)}
      state = TrainState(params, opt_state, state.step + 1)
      return constrain_state(state), metrics

  return jax.jit(step, donate_argnums=0)


def _zeros(function, trained, frozen, parts):
  """Zeros shaped as what `function` returns for one part."""
  first = jax.tree.map(lambda x: x[0], parts)
  shapes = jax.eval_shape(function, trained, frozen, first)
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  return constrain_state(zeros[0]), zeros[1]

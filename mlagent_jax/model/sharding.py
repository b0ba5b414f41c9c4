"""Where every array lives: one table from logical axes to mesh axes.

The mesh has three axes: `data` (replicas), `fsdp` (parameters and their
moments split over devices that each hold a part of the batch) and `model`
(tensor parallelism: heads, FFN and vocabulary; between blocks activations are
split along the sequence over it). Layers and batches name logical axes only;
nothing but RULES names a mesh axis.
"""

import contextlib
import math
from collections.abc import Callable, Sequence

import jax
from flax import nnx

PartitionSpec = jax.sharding.PartitionSpec

MESH_AXES = ('data', 'fsdp', 'model')

RULES = (
  # Activations.
  ('batch', ('data', 'fsdp')),
  ('sequence', 'model'),
  # Activations and parameters.
  ('heads', 'model'),
  ('kv_heads', 'model'),
  ('head_dim', None),
  ('ffn', 'model'),
  ('vocab', 'model'),
  # Parameters.
  ('layers', None),
  ('embed', 'fsdp'),
  ('norm', None),
  ('rank', None),
)
_MESH_AXES_OF = dict(RULES)
# Replicated where they do not divide evenly (9 heads over 2 devices), as every
# trainer does with few key and value heads: right, at the price of their share
# of the work. Anything else that does not divide is refused.
_MAY_BE_WHOLE = frozenset({'heads', 'kv_heads'})


def make_mesh(
  data: int, fsdp: int, model: int, devices: Sequence | None = None
) -> jax.sharding.Mesh:
  """A mesh of `data * fsdp * model` devices (all devices by default).

  Raises:
    ValueError: if the product is not the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  shape = (data, fsdp, model)
  if min(shape) < 1 or math.prod(shape) != len(devices):
    raise ValueError(
      f'mesh data={data} x fsdp={fsdp} x model={model} has'
      f' {math.prod(shape)} places, but there are {len(devices)} devices'
    )
  # Explicit axes are the default of jax.make_mesh; ours are Auto: the compiler
  # propagates shardings between the constraints that the model states.
  auto = (jax.sharding.AxisType.Auto,) * len(MESH_AXES)
  return jax.make_mesh(shape, MESH_AXES, axis_types=auto, devices=devices)


def logical_spec(axes: Sequence[str | None]) -> PartitionSpec:
  """The PartitionSpec of an array whose axes are named as in RULES.

  Raises:
    ValueError: if RULES has no such axis.
  """
  for axis in axes:
    if axis is not None and axis not in _MESH_AXES_OF:
      raise ValueError(
        f'no logical axis {axis!r} in RULES; there are {sorted(_MESH_AXES_OF)}'
      )
  return PartitionSpec(*(_MESH_AXES_OF.get(axis) for axis in axes))


def logical_sharding(
  mesh: jax.sharding.Mesh, axes: Sequence[str | None]
) -> jax.sharding.NamedSharding:
  """The sharding on `mesh` of an array with these logical axes."""
  return jax.sharding.NamedSharding(mesh, logical_spec(axes))


def _devices_of(mesh, axis: str | None) -> int:
  names = _MESH_AXES_OF.get(axis) or ()
  names = (names,) if isinstance(names, str) else names
  return math.prod(mesh.shape[name] for name in names)


def fitting(
  mesh, shape: Sequence[int], axes: Sequence[str | None]
) -> tuple[str | None, ...]:
  """`axes`, with None for heads that do not divide by their devices."""
  return tuple(
    None if axis in _MAY_BE_WHOLE and size % _devices_of(mesh, axis) else axis
    for size, axis in zip(shape, axes, strict=True)
  )


def axes_of_scale(
  shape: Sequence[int], axes: Sequence[str | None]
) -> tuple[str | None, ...]:
  """`axes`, with None where one number stands for a whole axis."""
  return tuple(None if n == 1 else axis for n, axis in zip(shape, axes))


def axes_of_heads(heads: int, kv_heads: int) -> tuple[str | None, str | None]:
  """Logical axes of a kernel's query and key heads on the current mesh.

  A group's queries are where its keys are: if either does not divide by its
  devices, all heads are whole on each of them.
  """
  axes, mesh = ('heads', 'kv_heads'), jax.sharding.get_abstract_mesh()
  if mesh.empty or fitting(mesh, (heads, kv_heads), axes) == axes:
    return axes
  return None, None


def check_divides(mesh, shape: Sequence[int], axes, what: str) -> None:
  """Raises ValueError, with numbers, if an axis cannot be split evenly."""
  for size, axis in zip(shape, axes, strict=True):
    names = _MESH_AXES_OF.get(axis) or ()
    names = (names,) if isinstance(names, str) else names
    devices = _devices_of(mesh, axis)
    if size % devices:
      raise ValueError(
        f'{what}: axis {axis!r} of size {size} is not divisible by the'
        f' {devices} devices of mesh axis {" x ".join(names)}'
      )


def constrain(x: jax.Array, axes: Sequence[str | None]) -> jax.Array:
  """Asks the compiler to lay `x` out by RULES on the current mesh.

  The mesh is the one of `jax.set_mesh` or `jax.sharding.use_abstract_mesh`.
  Without one (a single device), `x` is returned as it is.

  Raises:
    ValueError: if an axis of `x` does not divide by its devices.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  axes = fitting(mesh, x.shape, axes)
  check_divides(mesh, x.shape, axes, f'activation {tuple(x.shape)}')
  return jax.lax.with_sharding_constraint(x, logical_spec(axes))


def platform() -> str:
  """'cpu', 'tpu', or 'gpu' by any of its names.

  It is that of the current mesh, which may be a topology that is compiled for
  and not here; without a mesh, that of this process's devices.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


def split_over(axis: str) -> tuple[str, ...]:
  """The mesh axes that a logical axis is split over; none without a mesh."""
  if jax.sharding.get_abstract_mesh().empty:
    return ()
  names = _MESH_AXES_OF[axis] or ()
  return (names,) if isinstance(names, str) else names


def on_each_device(
  function: Callable, inputs, output, *, check_vma: bool = True
) -> Callable:
  """`function` of every device's own parts of its arguments (shard_map).

  For what the compiler cannot split (kernels), or splits badly. Without a mesh
  it is `function` itself.

  Args:
    function: of arrays; it may use collectives over `split_over(axis)`.
    inputs: the logical axes of each argument.
    output: the logical axes of what it returns, a tree of them.
    check_vma: of jax.shard_map; kernels do not say over which axes what they
      return varies, so it is off where there are any. (A mesh axis must then
      split all arguments that have a gradient, or none and not the output.)
  """
  if jax.sharding.get_abstract_mesh().empty:
    return function

  def specs(axes):
    if axes and isinstance(axes[0], tuple):
      return tuple(map(specs, axes))
    return logical_spec(axes)

  return jax.shard_map(
    function,
    in_specs=tuple(map(specs, inputs)),
    out_specs=specs(output),
    check_vma=check_vma,
  )


def on_mesh(mesh: jax.sharding.Mesh | None):
  """A context, inside a traced function, that makes `constrain` see `mesh`."""
  if mesh is None:
    return contextlib.nullcontext()
  return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def batch_sharding(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """The sharding of an array whose first axis is the batch."""
  return logical_sharding(mesh, ('batch',))


def batch_devices(mesh: jax.sharding.Mesh) -> int:
  """How many parts a batch is split into."""
  return math.prod(mesh.shape[name] for name in _MESH_AXES_OF['batch'])


def check_batch_divides(
  mesh: jax.sharding.Mesh | None, batch_size: int, what: str
) -> None:
  """Raises ValueError, with numbers, if a batch cannot be split over `mesh`.

  Args:
    mesh: the mesh, or None for a single device (every batch fits).
    batch_size: B.
    what: the config key or the name of the batch, for the message.
  """
  if mesh is not None:
    check_divides(mesh, (batch_size,), ('batch',), what)


def split_batch(batch, parts: int, mesh: jax.sharding.Mesh | None):
  """[B, …] arrays as [parts, B / parts, …], for use inside jit.

  Part p holds every `parts`-th row from p on, so that none moves: a device has
  consecutive rows of the batch; with strided parts it keeps its rows, with
  consecutive parts they would travel.

  Args:
    batch: a dict of arrays with leading axis B; in one part also packed groups
      with `places`, whose leading axes differ.
    parts: how many.
    mesh: where the batch is, or None for a single device.

  Raises:
    ValueError: when it is traced, if B does not divide by `parts`, or B / parts
      by the devices of the batch; or if leading axes differ.
  """
  sizes = {name: len(x) for name, x in batch.items()}
  # Rows and groups of packed groups are not as many: that is not split.
  packed = parts == 1 and 'places' in batch
  if len(set(sizes.values())) > 1 and not packed:
    raise ValueError(f'leading axes of the batch differ: {sizes}')
  for size in sizes.values():
    if size % parts:
      raise ValueError(
        f'batch {size} is not divisible by {parts} micro-batches'
      )
    check_batch_divides(mesh, size // parts, 'micro-batch')

  def split(x):
    x = x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)
    return constrain(x, (None, 'batch', *(None,) * (x.ndim - 2)))

  return jax.tree.map(split, batch)


def map_parts(function, batch, parts: int, mesh: jax.sharding.Mesh | None):
  """function(batch) for a function of rows, computed part by part.

  Args:
    function: dict of [B / parts, …] arrays -> array [B / parts, …].
    batch: as of `split_batch`, whose errors it raises.
    parts: how many; memory is that of one.
    mesh: where the batch is, or None.

  Returns:
    [B, …] in the order of the batch's rows.
  """
  if parts == 1:
    return function(batch)
  out = jax.lax.map(function, split_batch(batch, parts, mesh))
  return out.swapaxes(0, 1).reshape(-1, *out.shape[2:])


def _logical_axes(variable: nnx.Variable) -> tuple[str | None, ...]:
  return variable.get_metadata('out_sharding', None) or ()


def _is_variable(node) -> bool:
  return isinstance(node, nnx.Variable)


def state_shardings(state, mesh: jax.sharding.Mesh):
  """The sharding of every array in a tree of parameters.

  Args:
    state: a pytree that may hold parameters anywhere (model parameters,
      gradients, an optimizer state with moments shaped like parameters), as
      arrays or as shapes. What is not a parameter is replicated.
    mesh: the mesh.

  Returns:
    A tree of the same structure with a NamedSharding for every array.

  Raises:
    ValueError: if an axis of a parameter does not divide by its devices.
  """

  def sharding(path, node):
    if not _is_variable(node):
      return logical_sharding(mesh, ())
    axes = _logical_axes(node)
    name = jax.tree_util.keystr(path, simple=True, separator='.')

    def of(shape):
      if len(axes) != len(shape):  # such as a factored second moment
        return logical_sharding(mesh, ())
      split = fitting(mesh, shape, axes_of_scale(shape, axes))
      check_divides(mesh, shape, split, f'parameter {name}')
      return logical_sharding(mesh, split)

    # Arrays, or such as a matrix in eight bits with its scales.
    return node.replace(jax.tree.map(lambda x: of(x.shape), node.get_value()))

  return jax.tree.map_with_path(sharding, state, is_leaf=_is_variable)


def constrain_state(state):
  """`state` with every parameter in it constrained to its own sharding.

  Gradients and moments can lose their sharding inside a jitted step unless
  they are constrained. A no-op without a mesh.
  """
  if jax.sharding.get_abstract_mesh().empty:
    return state

  def constrained(node):
    if not _is_variable(node):
      return node
    axes = _logical_axes(node)
    value = node.get_value()
    axes = axes if len(axes) == value.ndim else (None,) * value.ndim
    return node.replace(constrain(value, axes))

  return jax.tree.map(constrained, state, is_leaf=_is_variable)

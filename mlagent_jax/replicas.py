"""A copy of the parameters on the chips of every process.

Training splits parameters over all chips; a sampler decodes a token at a time
and would wait for the network between hosts at each. So every process gets a
whole copy, split over its own chips alone, and samples by itself.
"""

from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx

from mlagent_jax.model.sharding import MESH_AXES, state_shardings

_AUTO = jax.sharding.AxisType.Auto


def local_mesh(shape: Sequence[int]) -> jax.sharding.Mesh:
  """The mesh (data, fsdp, model) of this process's devices.

  Raises:
    ValueError: if the product of `shape` is not their number.
  """
  devices = jax.local_devices()
  if int(np.prod(shape)) != len(devices):
    raise ValueError(
      f'mesh data={shape[0]} x fsdp={shape[1]} x model={shape[2]} has'
      f' {int(np.prod(shape))} places, but a process has {len(devices)} devices'
    )
  return _mesh(np.reshape(devices, shape), MESH_AXES)


def copy_to_local(params: nnx.State, mesh: jax.sharding.Mesh) -> nnx.State:
  """The parameters on a `local_mesh`; every process calls it.

  Args:
    params: on a mesh of all devices.
    mesh: this process's; every process has one of the same shape.

  Returns:
    The same values in the same dtype, laid out by the table of
    `model.sharding` on `mesh`.
  """
  by_process: dict[int, list] = {}
  for device in jax.devices():
    by_process.setdefault(device.process_index, []).append(device)
  # `jax.local_devices()` of each, which is the order of its own mesh.
  rows = [by_process[index] for index in sorted(by_process)]
  shape = tuple(mesh.shape.values())
  everywhere = _mesh(np.reshape(rows, (-1, *shape)), ('process', *MESH_AXES))
  local = state_shardings(params, mesh)

  def on_all(sharding):
    # A spec without the axis 'process': a copy at each of its places.
    return jax.sharding.NamedSharding(everywhere, sharding.spec)

  copies = jax.device_put(params, jax.tree.map(on_all, local))

  def own(copy, sharding):
    parts = [shard.data for shard in copy.addressable_shards]
    return jax.make_array_from_single_device_arrays(copy.shape, sharding, parts)

  return jax.tree.map(own, copies, local)


def _mesh(devices, axes) -> jax.sharding.Mesh:
  return jax.sharding.Mesh(devices, axes, axis_types=(_AUTO,) * len(axes))

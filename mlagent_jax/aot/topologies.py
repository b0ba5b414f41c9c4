"""Descriptions of TPU pods that are not here, from libtpu."""

import importlib.util
import os

TABLE = {
  # name of a pod as people rent it: (topology, accelerator type)
  'v5e-16': ('v5e:4x4', 'v5litepod-16'),
  'v5e-64': ('v5e:8x8', 'v5litepod-64'),
  'v5p-8': ('v5p:2x2x1', 'v5p-8'),
  'v6e-8': ('v6e:2x4', 'v6e-8'),
}


class TopologyError(ValueError):
  """A topology that cannot be compiled for; says which can."""


def devices_of(name: str) -> list:
  """The devices of a topology such as 'v5e:4x4' or a pod such as 'v5e-16'.

  They can be compiled for, and nothing else.

  Raises:
    TopologyError: if libtpu is missing or knows no such topology.
  """
  topology = TABLE[name][0] if name in TABLE else name
  # libtpu asks a TPU machine what it is, unless it is told.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-16')
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
  # It is only asked to compile: others may do so at the same time.
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  if importlib.util.find_spec('libtpu') is None:
    raise TopologyError(
      "compiling for a TPU needs libtpu: pip install 'mlagent_jax[tpu]'"
    )
  import jax
  from jax.experimental import topologies

  try:
    return topologies.get_topology_desc(topology, platform='tpu').devices
  except (jax.errors.JaxRuntimeError, ValueError, RuntimeError) as error:
    raise TopologyError(
      f'topology {name!r}: {error}; it is a generation and a shape, such as'
      f' {", ".join(known for known, _ in TABLE.values())}, or one of the pods'
      f' {", ".join(TABLE)}'
    ) from error

"""Workers: many steps at once, on this machine or several.

Nothing here imports jax: a worker starts fast and holds no accelerator.
"""

from mlagent_jax.environment.episode import Environment
from mlagent_jax.environment.workers.local import Counts, LocalPool

KINDS = ('local', 'ray')

__all__ = ['KINDS', 'Counts', 'LocalPool', 'make_pool']


def make_pool(
  environment: Environment,
  *,
  kind: str = 'local',
  workers: int = 2,
  **options,
) -> LocalPool:
  """A pool that takes an environment's steps; use it with `with`.

  Args:
    environment: as it is on this machine.
    kind: 'local', threads of this process; or 'ray', a Ray cluster (the extra
      `ray`), with the same interface.
    workers: steps in flight at once; for 'ray', 0 is twice as many as the
      cluster has CPUs.
    **options: of `LocalPool` or `workers.ray.RayPool`.

  Raises:
    ValueError: if it cannot work as asked for.
    SandboxUnavailable: if a node of the cluster is not ready.
  """
  if kind not in KINDS:
    raise ValueError(f'there are no workers {kind!r}: choose one of {KINDS}')
  if kind == 'local':
    return LocalPool(environment, workers=workers, **options)
  from mlagent_jax.environment.workers.ray import RayPool

  return RayPool(environment, workers=workers, **options)

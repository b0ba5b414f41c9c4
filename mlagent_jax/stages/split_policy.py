"""A policy whose samples are drawn by all processes, each on its own chips."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import numpy as np

from mlagent_jax import replicas, rollout
from mlagent_jax.stages import processes as processes_lib

_T = TypeVar('_T')
_log = logging.getLogger(__name__)


class SamplingError(RuntimeError):
  """Another process could not draw its samples; says which, and why."""


@dataclasses.dataclass(frozen=True)
class _Failed:
  text: str


class SplitPolicy:
  """Samples with `policy` in every process; made by `Learner.policy`.

  A sample depends on its prompt, its seed and the parameters alone, so that
  it is the same sample whichever process draws it.

  Args:
    policy: samples on this process's chips.
    mesh: of this process's devices.
    processes: all of them.
  """

  def __init__(
    self,
    policy: rollout.Policy,
    mesh: jax.sharding.Mesh,
    processes: processes_lib.Processes,
  ):
    self._policy = policy
    self._mesh = mesh
    self._processes = processes
    self._leading = None  # this process's parameters, within `lead`

  def sample_replies(
    self,
    params,
    prompts: Sequence[Sequence[int]],
    seeds: np.ndarray,
    temperature: float | None = None,
  ) -> list[list[rollout.Reply]] | None:
    """As `rollout.Policy.sample_replies`.

    Every process calls it alike; within `lead`, process 0 alone does, and
    `params` are those that were given there.

    Returns:
      The replies in process 0, None in the others.

    Raises:
      SamplingError: in process 0, if another one failed.
    """
    if self._leading is None:
      local = replicas.copy_to_local(params, self._mesh)
      return self._sample(local, prompts, seeds, temperature)
    request = prompts, seeds, temperature
    self._processes.leader_does(lambda: request)
    return self._sample(self._leading, *request)

  def lead(self, params, function: Callable[[], _T]) -> _T:
    """Runs `function` in process 0; whenever it samples, the others do too.

    For loops whose prompts only process 0 knows.

    Returns:
      The value of `function`, in every process.

    Raises:
      As `Processes.leader_does`.
    """
    processes = self._processes
    # A copy is as large as the model: it lives no longer than this call.
    local = replicas.copy_to_local(params, self._mesh)

    def end():
      return None

    def run():
      self._leading = local
      try:
        return function()
      finally:
        self._leading = None
        processes.leader_does(end)

    if not processes.is_leader:
      while (request := processes.leader_does(end)) is not None:
        self._sample(local, *request)
    return processes.leader_does(run)

  def _sample(self, local, prompts, seeds, temperature):
    count, index = self._processes.count, self._processes.index
    bounds = [len(prompts) * part // count for part in range(count + 1)]
    mine = slice(bounds[index], bounds[index + 1])
    failure = None
    try:
      found = self._policy.sample_replies(
        local, prompts[mine], seeds[mine], temperature
      )
    except BaseException as error:  # noqa: BLE001 - raised in process 0
      # The others wait for this part: they must hear of it.
      failure, found = error, _Failed(f'{type(error).__name__}: {error}')
      _log.error('Sampling failed in process %d', index, exc_info=error)
    gathered = self._processes.gather(found)
    if gathered is None:
      return None
    if failure is not None:
      raise failure
    for other, part in enumerate(gathered):
      if isinstance(part, _Failed):
        raise SamplingError(f'process {other} could not sample: {part.text}')
    return [group for part in gathered for group in part]


def lead(policy, params, function: Callable[[], _T]) -> _T:
  """`SplitPolicy.lead`, or just the call with a single process."""
  if isinstance(policy, SplitPolicy):
    return policy.lead(params, function)
  return function()

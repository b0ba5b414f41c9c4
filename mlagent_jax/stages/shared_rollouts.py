"""The rollouts of process 0, for all processes.

Process 0 draws states, keeps the journal and executes; all of them sample,
and all of them get every batch, of which each trains on its own rows.
"""

from mlagent_jax.stages import episodes, processes, rollouts, split_policy


class SharedRollouts:
  """Rollouts that every process calls in the same order.

  Args:
    source: made in every process, used in process 0; of the others it is only
      the policy.
    processes: all of them.
  """

  def __init__(
    self,
    source: rollouts.StepRollouts | episodes.EpisodeRollouts,
    processes: processes.Processes,
  ):
    self._source = source
    self._processes = processes

  def state(self) -> dict:
    """As `StepRollouts.state`, in every process."""
    return self._processes.leader_does(self._source.state)

  def restore(self, state: dict, done: int) -> None:
    """As `StepRollouts.restore`."""
    self._processes.leader_does(self._source.restore, state, done)

  def begin(self, number: int, params, version: int) -> None:
    """As `StepRollouts.begin`; every process samples its share."""
    split_policy.lead(
      self._source.policy,
      params,
      lambda: self._source.begin(number, params, version),
    )

  def collect(self, number: int) -> rollouts.Batch:
    """As `StepRollouts.collect`, in every process."""
    return self._processes.leader_does(self._source.collect, number)

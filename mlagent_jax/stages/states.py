"""The states that RL draws from, and the fixed set that it never sees."""

import dataclasses
import functools
from collections.abc import Callable

from mlagent_jax import trajectories
from mlagent_jax.stages.session import Session


@dataclasses.dataclass(frozen=True)
class States:
  """Expert trajectories as states.

  Attributes:
    pool: the states of RL; none has a prompt of the fixed set.
    fixed: states with distinct prompts, for measuring before and after RL.
    pairs: (state, expert's reply) for fine-tuning, of every trajectory.
    prompt_ids: (task, state, steps so far) -> token ids.
  """

  pool: trajectories.StatePool
  fixed: list[trajectories.State]
  pairs: list[tuple[trajectories.State, str]]
  prompt_ids: Callable

  @functools.cached_property
  def prompt_length(self) -> int:
    """P: tokens of the longest prompt, rounded up to a multiple of 16."""
    longest = max(len(self.ids_of(state)) for state in self.pool.states)
    return -(-longest // 16) * 16

  def ids_of(self, state: trajectories.State) -> list[int]:
    """Token ids of a state's prompt."""
    return self.prompt_ids(state.task, state.snapshot, state.history)


def load_states(session: Session, tokenizer) -> States:
  """Reads the trajectories and sets the fixed states apart.

  Two states are the same if the policy cannot tell them apart: if their
  prompts are equal.
  """
  config = session.config
  store = trajectories.TrajectoryStore(session.workdir.stage('collect'))
  collected = list(store)
  prompt_ids = session.prompt_ids(tokenizer)
  known: dict[str, tuple] = {}

  def prompt_key(state) -> tuple:
    # Many states have one prompt: rendering is the slow part.
    if state.key not in known:
      known[state.key] = tuple(
        prompt_ids(state.task, state.snapshot, state.history)
      )
    return known[state.key]

  everything = trajectories.StatePool.of(collected)
  fixed, pool = everything.hold_out(
    config.fixed_set.states, seed=config.seed, key=prompt_key
  )
  if config.rl.pool == 'distinct':
    first = {}
    for state in pool.states:
      first.setdefault(prompt_key(state), state)
    pool = trajectories.StatePool(first.values())
  pairs = [
    (state, step.reply)
    for trajectory in collected
    for state, step in trajectories.pairs_of(trajectory)
  ]

  def cached_ids(task, snapshot, steps):
    state = trajectories.State(task, '', len(steps), snapshot, tuple(steps))
    return list(prompt_key(state))

  return States(pool, fixed, pairs, cached_ids)

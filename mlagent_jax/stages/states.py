"""The states that RL draws from, and the fixed set that it never sees."""

import dataclasses
import functools
from collections.abc import Callable

from mlagent_jax import state_pool, trajectories
from mlagent_jax.stages.session import Session


@dataclasses.dataclass(frozen=True)
class States:
  """Expert trajectories as states.

  Attributes:
    pool: the states of RL; none has a prompt of the fixed set.
    fixed: states with distinct prompts, for measuring before and after RL.
    pairs: (state, expert's reply) for fine-tuning, of every trajectory.
    prompt_ids: (task, state, steps so far) -> token ids.
    longest_prompt: tokens that a prompt may have; 0 if all that will be drawn
      are in the pool already.
  """

  pool: state_pool.StatePool
  fixed: list[trajectories.State]
  pairs: list[tuple[trajectories.State, str]]
  prompt_ids: Callable
  longest_prompt: int = 0

  @functools.cached_property
  def prompt_length(self) -> int:
    """P: tokens of the longest prompt, rounded up to a multiple of 16."""
    longest = self.longest_prompt or max(
      len(self.ids_of(state)) for state in self.pool.states
    )
    return -(-longest // 16) * 16

  def ids_of(self, state: trajectories.State) -> list[int]:
    """Token ids of a state's prompt."""
    return self.prompt_ids(state.task, state.snapshot, state.history)

  def draws(self, config) -> state_pool.Draws:
    """The draws of RL from their beginning, by the config."""
    settings = config.rl
    held = {tuple(self.ids_of(state)) for state in self.fixed}
    return state_pool.Draws(
      self.pool,
      # The pool itself is what is distinct then.
      'balanced' if settings.pool == 'distinct' else settings.pool,
      seed=config.seed,
      uniform_share=settings.pool_uniform_share,
      visited_share=settings.visited_share,
      visited_most=settings.visited_most,
      admits=lambda state: tuple(self.ids_of(state)) not in held,
    )


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

  everything = state_pool.StatePool.of(collected)
  fixed, pool = everything.hold_out(
    config.fixed_set.states, seed=config.seed, key=prompt_key
  )
  if config.rl.pool == 'distinct':
    first = {}
    for state in pool.states:
      first.setdefault(prompt_key(state), state)
    pool = state_pool.StatePool(first.values())
  pairs = [
    (state, step.reply)
    for trajectory in collected
    for state, step in trajectories.pairs_of(trajectory)
  ]

  def cached_ids(task, snapshot, steps):
    state = trajectories.State(task, '', len(steps), snapshot, tuple(steps))
    return list(prompt_key(state))

  longest = config.agent.max_prompt_tokens if config.rl.visited_share else 0
  return States(pool, fixed, pairs, cached_ids, longest)

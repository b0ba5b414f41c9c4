"""The states that RL draws from, and the fixed set that it never sees."""

import dataclasses
import functools
from collections.abc import Callable

from mlagent_jax import reward as reward_lib
from mlagent_jax import state_pool, trajectories
from mlagent_jax.agent import history
from mlagent_jax.stages.session import ConfigError, Session


@dataclasses.dataclass(frozen=True)
class States:
  """Expert trajectories as states.

  Attributes:
    pool: the states of RL; none has a prompt of the fixed set.
    fixed: states with distinct prompts, for measuring before and after RL.
    pairs: (state, expert's reply) for fine-tuning, of every trajectory; those
      that earned less than `sft.min_reward` are left out.
    known_ids: key of a state -> token ids of its prompt; all of the above.
    prompt_ids: (task, state, steps so far) -> token ids, where the environment
      is: for states that RL comes to.
    longest_prompt: tokens that a prompt may have; 0 if all that will be drawn
      are in the pool already.
  """

  pool: state_pool.StatePool
  fixed: list[trajectories.State]
  pairs: list[tuple[trajectories.State, str]]
  known_ids: dict[str, tuple[int, ...]]
  prompt_ids: Callable
  longest_prompt: int = 0

  @functools.cached_property
  def prompt_length(self) -> int:
    """P: tokens of the longest prompt, rounded up to a multiple of 16."""
    # Of the experts' states, those of the fixed set among them: SFT imitates
    # what experts did in all of them.
    longest = self.longest_prompt or max(map(len, self.known_ids.values()))
    return -(-longest // 16) * 16

  def ids_of(self, state: trajectories.State) -> list[int]:
    """Token ids of a state's prompt."""
    # Many states have one prompt: rendering is the slow part.
    if state.key not in self.known_ids:
      ids = self.prompt_ids(state.task, state.snapshot, state.history)
      self.known_ids[state.key] = tuple(ids)
    return list(self.known_ids[state.key])

  def draws(self, config) -> state_pool.Draws:
    """The draws of RL from their beginning, by the config."""
    settings = config.rl
    held = {tuple(self.ids_of(state)) for state in self.fixed}

    def admits(state: trajectories.State) -> bool:
      try:
        return tuple(self.ids_of(state)) not in held
      except history.PromptTooLong:
        return False  # the policy made its script longer than it can read

    return state_pool.Draws(
      self.pool,
      settings.pool,
      seed=config.seed,
      uniform_share=settings.pool_uniform_share,
      visited_share=settings.visited_share,
      visited_most=settings.visited_most,
      admits=admits,
    )


def load_states(session: Session, tokenizer) -> States:
  """Reads the trajectories and sets the fixed states apart.

  Two states are the same if the policy cannot tell them apart: if their
  prompts are equal. Process 0 reads and renders them; only it can look into
  workspaces. What an expert read and the policy cannot (its script has become
  too long) is left out.

  Raises:
    PromptTooLong: if the policy cannot even read where an episode begins.
  """
  pool, fixed, pairs, known, longest = session.processes.leader_does(
    _read_states, session, tokenizer
  )
  prompt_ids = session.prompt_ids(tokenizer)
  return States(pool, fixed, pairs, known, prompt_ids, longest)


def _read_states(session: Session, tokenizer) -> tuple:
  """What a `States` is made of, but for the renderer of prompts."""
  config = session.config
  store = trajectories.TrajectoryStore(session.workdir.stage('collect'))
  collected = list(store)
  prompt_ids = session.prompt_ids(tokenizer)
  known: dict[str, tuple] = {}

  def prompt_key(state) -> tuple:
    if state.key not in known:
      known[state.key] = tuple(
        prompt_ids(state.task, state.snapshot, state.history)
      )
    return known[state.key]

  def is_readable(state) -> bool:
    try:
      return bool(prompt_key(state))
    except history.PromptTooLong:
      if not state.history:
        raise
      return False

  states = [s for t in collected for s in trajectories.states_of(t)]
  everything = state_pool.StatePool(filter(is_readable, states))
  if len(everything) < len(states):
    session.log.say(
      f'{len(states) - len(everything)} of {len(states)} states of the experts'
      ' are left out: their prompts are longer than agent.max_prompt_tokens ='
      f' {config.agent.max_prompt_tokens}'
    )
  fixed, pool = everything.hold_out(
    config.fixed_set.states, seed=config.seed, key=prompt_key
  )
  if config.rl.pool_distinct:
    pool = pool.distinct(prompt_key)
  pairs = [
    (state, step.reply)
    for trajectory in collected
    for state, step in _worth_imitating(session, trajectory)
    if state.key in known
  ]
  least = config.sft.min_reward
  steps = sum(len(t.steps) for t in collected)
  if least and not pairs:
    raise ConfigError(
      f'sft.min_reward is {least:g}, and none of the {steps} actions of the'
      ' experts earned that much where the policy can read'
    )
  if least:
    session.log.say(
      f'sft.min_reward = {least:g}: {len(pairs)} of {steps} actions of the'
      ' experts are imitated'
    )
  longest = config.agent.max_prompt_tokens if config.rl.visited_share else 0
  return pool, fixed, pairs, known, longest


def _worth_imitating(session: Session, trajectory) -> list:
  """(state, step) of the steps that earned `sft.min_reward` at least."""
  pairs = trajectories.pairs_of(trajectory)
  least = session.config.sft.min_reward
  if not least:
    return pairs
  rewards = reward_lib.of_steps(
    trajectory.steps,
    session.scales[trajectory.task],
    **session.config.reward,
  )
  return [
    pair for pair, value in zip(pairs, rewards, strict=True) if value >= least
  ]

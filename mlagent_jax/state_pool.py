"""The states that RL draws from, and in which order.

A pool is every prefix of every expert trajectory. `Draws` takes states from it
by one of four policies, chosen by name:

  uniform         every state alike
  balanced        the tasks take turns
  balanced-steps  the tasks take turns, and in a task the step indices
  prioritised     the tasks take turns, and in a task states whose samples had
                  unequal rewards come more often: equal rewards teach nothing

The first three are shuffled passes: no state comes twice before each of its
kind has come once. The last one draws with a probability in proportion to the
standard deviation of the rewards that a state's samples had when it was drawn
last; states that were not drawn yet have the mean of the others. Its relatives
are prioritised level replay (arXiv 2010.03934) and sampling by learnability.

States that the current policy reached may be added (off by default): they show
it where it stands itself, and not only where an expert stood.

What is drawn next is a function of the seed and of `Draws.get_state()`, a JSON
object that goes into the checkpoint.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from mlagent_jax import trajectories
from mlagent_jax.environment import records
from mlagent_jax.trajectories import State

_T = TypeVar('_T')


class StatePool:
  """States in a fixed order, by task and step index."""

  def __init__(self, states: Iterable[State]):
    """Args: states: in a fixed order; raises ValueError if there is none."""
    self.states = tuple(states)
    if not self.states:
      raise ValueError('the state pool is empty: collect trajectories first')
    self._by_task = collections.defaultdict(list)
    # No lambda: a pool is pickled on its way to other processes.
    self._by_step = collections.defaultdict(
      functools.partial(collections.defaultdict, list)
    )
    for i, state in enumerate(self.states):
      self._by_task[state.task].append(i)
      self._by_step[state.task][state.step_index].append(i)

  @classmethod
  def of(cls, collected: Iterable[records.Trajectory]) -> 'StatePool':
    """The pool of every prefix of every trajectory."""
    return cls(s for t in collected for s in trajectories.states_of(t))

  def __len__(self) -> int:
    return len(self.states)

  @property
  def tasks(self) -> tuple[str, ...]:
    """Names of the tasks, sorted."""
    return tuple(sorted(self._by_task))

  def of_task(self, task: str) -> Sequence[int]:
    """Indices of a task's states."""
    return self._by_task[task]

  def by_step(self, task: str) -> list[Sequence[int]]:
    """Indices of a task's states with equal step index, by that index."""
    steps = self._by_step[task]
    return [steps[index] for index in sorted(steps)]

  def distinct(self, key: Callable[[State], Hashable]) -> 'StatePool':
    """The pool with the first state of each key alone."""
    first: dict[Hashable, State] = {}
    for state in self.states:
      first.setdefault(key(state), state)
    return StatePool(first.values())

  def hold_out(
    self,
    count: int,
    *,
    seed: int,
    key: Callable[[State], Hashable] = lambda state: state.key,
  ) -> tuple[list[State], 'StatePool']:
    """A fixed evaluation set and the pool without anything like it.

    The set is drawn as the pool is, with distinct keys, balanced over the
    tasks as far as they have states, and leaves the starts of episodes to the
    pool (there is one a task, and training needs it). No state of the returned
    pool has a key of the set.

    Args:
      count: size of the set.
      seed: of the choice.
      key: what makes two states the same; give the prompt's text to hold out
        what a policy sees.

    Raises:
      ValueError: if there are not enough distinct states.
    """
    keys = [key(state) for state in self.states]
    starts = {
      k for k, s in zip(keys, self.states, strict=True) if not s.history
    }
    queues = []
    for number, task in enumerate(self.tasks):
      members = self._by_task[task]
      order = np.random.default_rng([seed, 3, number]).permutation(len(members))
      # The first of each key in a random order of all prefixes: what was met
      # often is held out as often as it is drawn.
      first = {}
      for i in order:
        first.setdefault(keys[members[i]], members[i])
      queues.append([i for k, i in first.items() if k not in starts])
    # At least one state of a task stays for training beside its start.
    room = sum(max(0, len(queue) - 1) for queue in queues)
    if count > room:
      raise ValueError(
        f'{count} states to hold out, but only {room} distinct ones can be'
        f' spared of {len(self.states)} in the pool: collect more, or ask for'
        ' fewer'
      )
    chosen: list[int] = []
    rounds = 0
    while len(chosen) < count:
      for queue in queues:
        if rounds < len(queue) - 1 and len(chosen) < count:
          chosen.append(queue[rounds])
      rounds += 1
    held = {keys[i] for i in chosen}
    rest = [s for k, s in zip(keys, self.states, strict=True) if k not in held]
    return [self.states[i] for i in chosen], StatePool(rest)


# --- Policies: (pool, seed, position, …) -> index of a state -----------------


def _uniform(pool: StatePool, seed: int, position: int) -> int:
  return _shuffled(range(len(pool)), position, seed)


def _turn(pool: StatePool, seed: int, position: int) -> tuple[int, str, int]:
  """(number of the task whose turn it is, its name, which of its turns)."""
  tasks = pool.tasks
  number = _shuffled(range(len(tasks)), position, seed, 1)
  # Each task comes once a round, so the round counts its turns.
  return number, tasks[number], position // len(tasks)


def _balanced(pool: StatePool, seed: int, position: int) -> int:
  number, task, turn = _turn(pool, seed, position)
  return _shuffled(pool.of_task(task), turn, seed, 2, number)


def _balanced_steps(pool: StatePool, seed: int, position: int) -> int:
  number, task, turn = _turn(pool, seed, position)
  steps = pool.by_step(task)
  step = _shuffled(range(len(steps)), turn, seed, 4, number)
  # Each step index comes once in so many turns.
  return _shuffled(steps[step], turn // len(steps), seed, 5, number, step)


_IN_TURN = {
  'uniform': _uniform,
  'balanced': _balanced,
  'balanced-steps': _balanced_steps,
}
POLICIES = (*_IN_TURN, 'prioritised')


class Draws:
  """Draws states from a pool; what comes next is in `get_state`.

  Args:
    pool: the experts' states.
    policy: one of POLICIES.
    seed: of the order.
    uniform_share: of 'prioritised': this share of the probability is the same
      for all states of a task, so that none is never drawn again.
    visited_share: share of a draw that is taken from visited states, as far as
      there are any; 0 keeps none.
    visited_most: visited states that are kept, the latest ones.
    admits: which visited states may be drawn, such as those whose prompt is not
      in a held-out set.

  Raises:
    ValueError: for an option that does not exist.
  """

  def __init__(
    self,
    pool: StatePool,
    policy: str,
    *,
    seed: int,
    uniform_share: float = 0.25,
    visited_share: float = 0.0,
    visited_most: int = 256,
    admits: Callable[[State], bool] = lambda state: True,
  ):
    if policy not in POLICIES:
      raise ValueError(f'no pool policy {policy!r}; there are {POLICIES}')
    self._pool = pool
    self._policy = policy
    self._seed = seed
    self._uniform_share = uniform_share
    self._visited_share = visited_share
    self._visited_most = visited_most
    self._admits = admits
    self._named = {state.name: state for state in pool.states}
    self._cursor = 0  # states drawn from the pool
    self._visits = 0  # draws from visited states
    self._visited: list[State] = []
    # Standard deviation of the rewards, by State.key: states that an agent
    # cannot tell apart share it.
    self._spreads: dict[str, float] = {}

  def draw(self, count: int) -> list[State]:
    """The next `count` states."""
    room = min(int(count * self._visited_share), len(self._visited))
    drawn = self._draw_visited(room)
    taken: list[int] = []
    for _ in range(count - room):
      taken.append(self._next(taken))
      self._cursor += 1
    return [self._pool.states[i] for i in taken] + drawn

  def observe(self, name: str, rewards: Sequence[float]) -> None:
    """Notes the rewards of a drawn state's samples.

    Args:
      name: `State.name`; one that is not known any more is passed over.
      rewards: of those samples that have one; fewer than 2 say nothing.
    """
    if self._policy == 'prioritised' and len(rewards) > 1:
      state = self._find(name)
      if state is not None:
        self._spreads[state.key] = float(np.std(rewards))

  def visit(self, name: str, visited_as: str, step: records.Step) -> None:
    """Adds the state that the policy reached by one step.

    Left out: ends of episodes, states that are there already or that `admits`
    refuses, and all if no share is drawn from visited states.

    Args:
      name: `State.name` of the state in which the step was taken.
      visited_as: a trajectory id of its own.
      step: what was done; its token ids are not kept.
    """
    before = self._find(name)
    ended = step.outcome.kind is records.OutcomeKind.FINAL_ANSWER
    if not self._visited_share or before is None or ended:
      return
    step = dataclasses.replace(step, token_ids=(), logps=())
    state = State(
      before.task,
      visited_as,
      before.step_index + 1,
      step.after,
      (*before.history, step),
    )
    if state.key not in self._keys() and self._admits(state):
      self._visited.append(state)
      del self._visited[: -self._visited_most]

  def get_state(self) -> dict:
    """All that `draw` depends on, as JSON."""
    return {
      'cursor': self._cursor,
      'visits': self._visits,
      'spreads': dict(self._spreads),
      'visited': [dataclasses.asdict(state) for state in self._visited],
    }

  def set_state(self, state: Mapping) -> None:
    """Goes to where an equal `Draws` was when it returned this state."""
    self._cursor = state['cursor']
    self._visits = state['visits']
    self._spreads = dict(state['spreads'])
    self._visited = [_state_from_dict(values) for values in state['visited']]

  def _find(self, name: str) -> State | None:
    visited = (state for state in self._visited if state.name == name)
    return self._named.get(name) or next(visited, None)

  def _keys(self) -> set[str]:
    return self._pool_keys | {state.key for state in self._visited}

  @functools.cached_property
  def _pool_keys(self) -> frozenset[str]:
    return frozenset(state.key for state in self._pool.states)

  def _draw_visited(self, count: int) -> list[State]:
    if not count:
      return []
    rng = np.random.default_rng([self._seed, 6, self._visits])
    self._visits += 1
    chosen = rng.choice(len(self._visited), count, replace=False)
    return [self._visited[i] for i in chosen]

  def _next(self, taken: Sequence[int]) -> int:
    if self._policy in _IN_TURN:
      return _IN_TURN[self._policy](self._pool, self._seed, self._cursor)
    _, task, _ = _turn(self._pool, self._seed, self._cursor)
    members = np.array(self._pool.of_task(task))
    rng = np.random.default_rng([self._seed, 7, self._cursor])
    free = ~np.isin(members, taken)
    chances = self._chances(members) * (free if free.any() else 1.0)
    return int(rng.choice(members, p=chances / chances.sum()))

  def _chances(self, members: np.ndarray) -> np.ndarray:
    """The probability of each state of one task."""
    known = [
      self._spreads.get(self._pool.states[i].key, np.nan) for i in members
    ]
    known = np.array(known)
    seen = known[~np.isnan(known)]
    weights = np.where(np.isnan(known), seen.mean() if len(seen) else 1, known)
    even = np.full(len(members), 1 / len(members))
    if not weights.any():
      return even
    share = self._uniform_share
    return share * even + (1 - share) * weights / weights.sum()


def _state_from_dict(values: Mapping) -> State:
  return State(
    **{
      **values,
      'snapshot': trajectories.snapshot_from_dict(values['snapshot']),
      'history': tuple(
        trajectories.step_from_dict(step) for step in values['history']
      ),
    }
  )


def _shuffled(items: Sequence[_T], position: int, *seed: int) -> _T:
  """Item `position` of the endless sequence of shuffled passes over items."""
  epoch, offset = divmod(position, len(items))
  return items[_permutation(len(items), (*seed, epoch))[offset]]


@functools.lru_cache(maxsize=256)
def _permutation(length: int, seed: tuple[int, ...]) -> tuple[int, ...]:
  return tuple(np.random.default_rng(list(seed)).permutation(length).tolist())

"""Fresh samples for states that RL never saw, executed for real."""

import collections

import numpy as np

from mlagent_jax import reward as reward_lib
from mlagent_jax import rollout
from mlagent_jax.environment import records
from mlagent_jax.stages import learner as learner_lib
from mlagent_jax.stages import states as states_lib
from mlagent_jax.stages.session import Session

SEED_STREAM = 2


def measure(
  session: Session,
  learner: learner_lib.Learner,
  states: states_lib.States,
  params,
  *,
  name: str,
  stream: int,
) -> dict:
  """Samples at temperature 1 for every fixed state, and what became of them.

  Args:
    session: environment and log.
    learner: the model.
    states: with the fixed set.
    params: parameters to measure.
    name: for the progress bar and metrics.
    stream: tells this measurement's samples from another's.

  Returns:
    valid_rate (parsed, applied and, if anything ran, ran), reward (mean),
    edit_reward (mean over edits that ran; None without one), edit_share,
    distinct_edits (task -> distinct trees that edits that ran led to), kinds.
  """
  config = session.config
  samples = config.fixed_set.samples
  policy = learner.policy(
    samples_per_prompt=samples,
    batch_size=config.rl.states_per_batch,
    temperature=1.0,
  )
  replies = policy.sample_replies(
    params,
    [states.ids_of(state) for state in states.fixed],
    rollout.seeds_for(
      seed=config.seed,
      stream=SEED_STREAM,
      step=stream,
      shape=(len(states.fixed), samples),
    ),
  )
  return session.processes.leader_does(_execute, session, states, replies, name)


def _execute(session: Session, states, replies, name: str) -> dict:
  """What became of the replies, in process 0."""
  config = session.config
  requests, neutral = [], []
  for state, group in zip(states.fixed, replies, strict=True):
    requests += [(state.task, state.snapshot, reply) for reply in group]
    scale = session.scales[state.task]
    before = reward_lib.neutral_run(state.history, scale)
    neutral += [before] * len(group)
  with session.log.progress(name, len(requests)) as bar:
    executed = rollout.execute_replies(
      session.dispatcher(),
      requests,
      session.scales,
      neutral_before=neutral,
      reward=config.reward,
      on_done=bar,
    )
  result = figures(executed)
  distinct = collections.defaultdict(set)
  for (task, _, _), done in zip(requests, executed, strict=True):
    if done.outcome.kind is records.OutcomeKind.EDITED:
      distinct[task].add(done.after.tree)
  result['distinct_edits'] = {
    task: len(distinct[task]) for task in config.tasks.train
  }
  result['kinds'] = dict(
    collections.Counter(str(done.outcome.kind) for done in executed)
  )
  session.log.say(
    f'{name}: valid {result["valid_rate"]:.1%}, reward {result["reward"]:.3f},'
    f' edits {result["edit_share"]:.1%} with reward'
    f' {result["edit_reward"] or 0:.3f}, distinct {result["distinct_edits"]}'
  )
  return result


def figures(executed: list[rollout.Executed]) -> dict:
  """valid_rate, reward, edit_reward and edit_share of executed replies."""
  edits = [
    done.reward
    for done in executed
    if done.outcome.kind is records.OutcomeKind.EDITED
  ]
  return {
    'valid_rate': float(
      np.mean([reward_lib.is_valid(done.outcome) for done in executed])
    ),
    'reward': float(np.mean([done.reward for done in executed])),
    'edit_reward': float(np.mean(edits)) if edits else None,
    'edit_share': len(edits) / len(executed),
  }

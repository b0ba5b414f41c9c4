"""Episode-wise rollouts: the baseline that step-wise RL is measured against.

A batch is G whole episodes for each of S starts, by the current policy. An
episode has one return, and its advantage, over the G episodes of its start, is
that of every token of every action in it. Source: the episode-wise RL of
ML-Agent, arXiv 2505.23723, figure 4 and the section on step-wise RL; the
update is that of step-wise RL.

The return is the sum of the steps' rewards, or the reward of the whole way:
the reward of one edit that led from the starter's score to the last valid one.
"""

from collections.abc import Mapping

import numpy as np

from mlagent_jax import dispatch, rollout
from mlagent_jax import reward as reward_lib
from mlagent_jax.environment import records
from mlagent_jax.stages import journal, temperature, timeline
from mlagent_jax.stages import learner as learner_lib
from mlagent_jax.stages import states as states_lib
from mlagent_jax.stages.rollouts import Batch
from mlagent_jax.stages.session import Session

# Batch b's seeds are of stream FIRST_STREAM + b.
FIRST_STREAM = 1000


class EpisodeRollouts:
  """The batches of one run; the interface is `rollouts.StepRollouts`'s.

  Args:
    session: tasks, config and folder.
    learner: whose policy plays.
    states: renders prompts.
    dispatcher: sends actions to the workers.
    spans: where the time goes.
  """

  def __init__(
    self,
    session: Session,
    learner: learner_lib.Learner,
    states: states_lib.States,
    dispatcher: dispatch.Dispatcher,
    spans: timeline.Timeline,
  ):
    self._session = session
    self._settings = session.config.rl
    self._prompt_ids = session.prompt_ids(learner.tokenizer)
    self._dispatcher = dispatcher
    self._spans = spans
    self._stop_ids = frozenset(learner.tokenizer.stop_ids)
    self.policy = learner.policy(
      samples_per_prompt=1,
      batch_size=self._settings.states_per_batch
      * self._settings.samples_per_state,
      temperature=self._settings.temperature,
    )
    self._journal = journal.Journal(session.workdir.stage('rl') / 'rollouts')
    self._played: list[records.Trajectory] = []

  def state(self) -> dict:
    """Nothing: batches depend on their number and the parameters alone."""
    return {}

  def restore(self, state: dict, done: int) -> None:
    """As `state`: there is nothing to restore."""

  def begin(self, number: int, params, version: int) -> None:
    """Plays the episodes of update `number`, or reads them from disk.

    Args:
      number: of the batch.
      params: of the policy; an action needs the one before, so that all of
        the batch is played here and with these.
      version: finished updates of them, always number - 1.

    Raises:
      SandboxUnavailable: if there were no workers for too long.
    """
    del version
    self._played = self._journal.episodes(number)
    if self._played is None:
      self._played = self._play(number, params)
      self._journal.write_episodes(number, self._played)

  def collect(self, number: int) -> Batch:
    """What was begun last."""
    del number
    return batch_of(
      self._played,
      self._session.scales,
      self._prompt_ids,
      stop_ids=self._stop_ids,
      episodes=self._settings.samples_per_state,
      max_steps=self._settings.episode_steps,
      reward=self._session.config.reward,
      summed=self._settings.episode_return == 'sum',
    )

  def _play(self, number, params) -> list[records.Trajectory]:
    config = self._session.config
    tasks = config.tasks.train
    first = (number - 1) * self._settings.states_per_batch
    starts = [
      tasks[(first + index) % len(tasks)]
      for index in range(self._settings.states_per_batch)
    ]
    return rollout.play_episodes(
      self.policy,
      params,
      self._dispatcher,
      self._prompt_ids,
      starts,
      agent=f'rl-{number:06d}',
      episodes=self._settings.samples_per_state,
      max_steps=self._settings.episode_steps,
      max_seconds=60 * config.environment.max_minutes,
      seed=config.seed,
      stream=FIRST_STREAM + number,
      temperature=temperature.at(self._settings, number),
      span=self._spans.span,
    )


def batch_of(
  played: list[records.Trajectory],
  scales,
  prompt_ids,
  *,
  stop_ids,
  episodes: int,
  max_steps: int,
  reward: Mapping,
  summed: bool,
) -> Batch:
  """Episodes as one row an action.

  Args:
    played: S groups of `episodes`, one after the other.
    scales: task -> scale.
    prompt_ids: (task, state, steps so far) -> token ids.
    stop_ids: tokens that end an action.
    episodes: G.
    max_steps: of an episode; there are rows for so many of each.
    reward: the config's `reward`: options of `reward.reward`.
    summed: the return is the sum of the rewards, not the whole way's.
  """
  rows, slots, owners = [], [], []
  returns = np.zeros(len(played), np.float32)
  for index, trajectory in enumerate(played):
    scale = scales[trajectory.task]
    rewards = reward_lib.of_steps(trajectory.steps, scale, **reward)
    whole = whole_way(trajectory, scale, alpha=reward['alpha'])
    returns[index] = sum(rewards) if summed else whole
    for number, step in enumerate(trajectory.steps):
      reply = rollout.Reply(
        step.reply,
        step.token_ids,
        step.logps,
        finished=step.token_ids[-1] in stop_ids,
      )
      prompt = prompt_ids(
        trajectory.task, step.before, trajectory.steps[:number]
      )
      rows.append(
        journal.Row(
          trajectory.task,
          trajectory.trajectory_id,
          number,
          step.before,
          tuple(prompt),
          (reply,),
        )
      )
      slots.append(
        [rollout.Executed(reply, step.outcome, step.after, rewards[number])]
      )
      owners.append([index])
  actions = len(rows)
  empty = len(played) * max_steps - actions
  returns = returns.reshape(-1, episodes)
  return Batch(
    rows + [None] * empty,
    slots + [[None]] * empty,
    returns,
    np.ones_like(returns),
    np.array(owners + [[0]] * empty),
    staleness=(0,) * actions,
  )


def whole_way(
  trajectory: records.Trajectory, scale: records.Scale, *, alpha: float
) -> float:
  """The reward of an episode as if it were one edit; 0.5 if nothing counts.

  From the starter's validation score to that of the last valid submission.
  """
  scores = [
    step.outcome.score
    for step in trajectory.steps
    if step.outcome.score is not None
  ]
  edit = records.Outcome(
    records.OutcomeKind.EDITED,
    '',
    score_before=scale.m_init,
    score=scores[-1] if scores else scale.m_init,
  )
  return reward_lib.reward(edit, scale, alpha=alpha)

"""Where the policy (device) and the workers (host) meet, and nowhere else.

`sample_replies` asks the policy; `execute_replies` asks the environment;
`play_episodes` alternates them for whole episodes, all episodes in step.
What the policy sampled stays as token ids: nothing is tokenised again.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlagent_jax import dispatch, sampling
from mlagent_jax import reward as reward_lib
from mlagent_jax.agent import history, stop_text
from mlagent_jax.environment import records


@dataclasses.dataclass(frozen=True)
class Reply:
  """One sampled action, before anything was executed.

  Attributes:
    text: the decoded tokens, without the stop token or string.
    token_ids: as sampled, the one that ended it included.
    logps: the sampler's log-probability of each token, nats.
    finished: it ended itself (else the token budget ended it).
  """

  text: str
  token_ids: tuple[int, ...]
  logps: tuple[float, ...]
  finished: bool


@dataclasses.dataclass(frozen=True)
class Executed:
  """A reply, what became of it, and its reward."""

  reply: Reply
  outcome: records.Outcome
  after: records.Snapshot
  reward: float


class Policy:
  """A model that writes replies: the sampler and the model's tokenizer.

  Args:
    engine: with room for its prompts; nobody else uses it meanwhile.
    tokenizer: from `agent.tokenizer`.
    settings: how replies are drawn.
    stop: strings that end a reply, beside its stop tokens.
  """

  def __init__(
    self,
    engine: sampling.Engine,
    tokenizer,
    *,
    settings: sampling.Settings,
    stop: Sequence[str] = (),
  ):
    self._engine = engine
    self._tokenizer = tokenizer
    self._settings = settings
    self._stop = stop_text.TextStop(tokenizer.decode, stop)

  def sample_replies(
    self,
    params,
    prompts: Sequence[Sequence[int]],
    seeds: np.ndarray,
    temperature: float | None = None,
  ) -> list[list[Reply]]:
    """G replies for each prompt.

    Args:
      params: parameters of the model.
      prompts: token ids of each prompt, any number of prompts.
      seeds: [len(prompts), G] uint32; a sample depends on its prompt, its
        seed and the parameters, and on nothing else in the batch.
      temperature: in place of the policy's own.

    Raises:
      ValueError: if a prompt is longer than the engine has room for.
    """
    self._engine.load(params)
    settings = self._settings
    if temperature is not None:
      settings = dataclasses.replace(settings, temperature=temperature)
    requests = [
      self._engine.submit(prompt, settings, row, self._stop)
      for prompt, row in zip(prompts, seeds, strict=True)
    ]
    while self._engine.busy:
      self._engine.step()
    self._engine.unload()  # training needs the room
    return [
      [self._reply(sample) for sample in request.samples]
      for request in requests
    ]

  def _reply(self, sample: sampling.Sample) -> Reply:
    ids, finished = tuple(sample.tokens), sample.ended_by != 'length'
    stopped = sample.ended_by == 'stop_token'
    text = self._tokenizer.decode(ids[:-1] if stopped else ids)
    return Reply(self._stop.cut(text), ids, tuple(sample.logps), finished)


def seeds_for(*, seed: int, stream: int, step: int, shape) -> np.ndarray:
  """uint32 seeds of one batch; streams and steps never share any by design."""
  sequence = np.random.SeedSequence([seed, stream, step])
  return sequence.generate_state(int(np.prod(shape))).reshape(shape)


def execute_replies(
  dispatcher: dispatch.Dispatcher,
  requests: Sequence[tuple[str, records.Snapshot, Reply]],
  scales: Mapping[str, records.Scale],
  *,
  neutral_before: Sequence[int],
  reward: Mapping[str, Any],
  on_done: Callable[[], None] = lambda: None,
) -> list[Executed]:
  """Executes every reply in its own copy of its state, in the worker pool.

  Args:
    dispatcher: of the pool.
    requests: (task, state, reply) of each; results come in this order.
    scales: each task's scale.
    neutral_before: `reward.neutral_run` of what led to each state.
    reward: options of `reward.reward`, such as a config's section.
    on_done: called after each result, for a progress bar.

  Raises:
    SandboxUnavailable: if there were no workers for too long.
  """
  tickets = [
    dispatcher.submit(task, snapshot, reply.text)
    for task, snapshot, reply in requests
  ]
  dispatcher.wait(tickets, on_done=on_done)
  executed = []
  for (task, _, reply), before, ticket in zip(
    requests, neutral_before, tickets, strict=True
  ):
    outcome, after = ticket.result
    value = reward_lib.reward(
      outcome, scales[task], neutral_before=before, **reward
    )
    executed.append(Executed(reply, outcome, after, value))
  return executed


@dataclasses.dataclass
class _Episode:
  """One episode while it is played."""

  task: str
  seed: int
  snapshot: records.Snapshot
  steps: list[records.Step]
  ended_by: str = ''


def play_episodes(
  policy: Policy,
  params,
  dispatcher: dispatch.Dispatcher,
  prompt_ids: Callable[[str, records.Snapshot, Sequence], Sequence[int]],
  tasks: Sequence[str],
  *,
  agent: str,
  episodes: int,
  max_steps: int,
  max_seconds: float,
  seed: int,
  stream: int = 100,
  temperature: float | None = None,
  span: Callable[[str], contextlib.AbstractContextManager] = (
    contextlib.nullcontext
  ),
  on_done: Callable[[int], None] = lambda done: None,
) -> list[records.Trajectory]:
  """Plays whole episodes, all of them in step, one sampling call a step.

  Args:
    policy: with G = 1.
    params: parameters of its model.
    dispatcher: of the worker pool.
    prompt_ids: (task, state, steps so far) -> token ids of the prompt.
    tasks: names; `episodes` of each are played.
    agent: the name under which the trajectories are recorded.
    episodes: a task.
    max_steps: of an episode.
    max_seconds: no step of any episode begins later than this.
    seed: of the samples.
    stream: of the seeds, see `seeds_for`.
    temperature: in place of the policy's own.
    span: entered around 'sample' and 'wait', for a timeline.
    on_done: called with the number of actions after each round.

  Returns:
    Trajectories, ordered by task and episode.

  Raises:
    PromptTooLong: if the policy cannot read where an episode begins. An episode
      that comes to where it cannot read on ends there.
  """
  start = time.monotonic()
  played = [
    _Episode(task, number, dispatcher.environment.initial(task), [])
    for task in tasks
    for number in range(episodes)
  ]
  for step in range(max_steps):
    alive = [
      (index, episode)
      for index, episode in enumerate(played)
      if not episode.ended_by
    ]
    if not alive:
      break
    if time.monotonic() - start > max_seconds:
      for _, episode in alive:
        episode.ended_by = 'time'
      break
    prompts = {}
    for index, episode in alive:
      try:
        prompts[index] = prompt_ids(
          episode.task, episode.snapshot, episode.steps
        )
      except history.PromptTooLong:
        if not episode.steps:
          raise
        episode.ended_by = 'prompt'
    alive = [(index, played[index]) for index in prompts]
    if not alive:
      break
    # Seeds belong to the episode's place, not to who is still alive.
    shape = len(played), 1
    seeds = seeds_for(seed=seed, stream=stream, step=step, shape=shape)
    with span('sample'):
      replies = policy.sample_replies(
        params, list(prompts.values()), seeds[list(prompts)], temperature
      )
    tickets = [
      dispatcher.submit(e.task, e.snapshot, reply[0].text)
      for (_, e), reply in zip(alive, replies, strict=True)
    ]
    with span('wait'):
      dispatcher.wait(tickets)
    for (_, episode), (reply,), ticket in zip(
      alive, replies, tickets, strict=True
    ):
      outcome, after = ticket.result
      episode.steps.append(
        records.Step(
          episode.snapshot,
          reply.text,
          outcome,
          after,
          reply.token_ids,
          reply.logps,
        )
      )
      episode.snapshot = after
      if outcome.kind is records.OutcomeKind.FINAL_ANSWER:
        episode.ended_by = 'final_answer'
    on_done(len(alive))
  seconds = time.monotonic() - start
  return [
    records.Trajectory(
      trajectory_id=f'{agent}-{episode.task}-{episode.seed}',
      task=episode.task,
      agent=agent,
      seed=episode.seed,
      ideas=(),
      steps=tuple(episode.steps),
      ended_by=episode.ended_by or 'steps',
      seconds=seconds,
    )
    for episode in played
  ]


def final_test_score(
  trajectory: records.Trajectory, scale: records.Scale
) -> float:
  """Test score of the last valid submission; the starter's if none."""
  scores = [
    step.outcome.test_score
    for step in trajectory.steps
    if step.outcome.test_score is not None
  ]
  return scores[-1] if scores else scale.p_init

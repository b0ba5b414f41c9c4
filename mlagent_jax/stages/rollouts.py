"""Step-wise rollouts: batches that are sampled ahead, executed meanwhile.

`begin` draws states, samples G actions for each and sends them to the workers;
`collect` waits for what an update trains on. Up to `rl.max_staleness` batches
are begun ahead, so that workers and device are busy at once. Batch j is always
sampled after the same update, j - 1 - max_staleness (or before the first), so
which policy wrote what does not depend on how fast anything was.

With `rl.deadline_seconds` an update waits no longer than that for its batch.
What comes later joins a later update in a row of its own, compared with its
whole group, while its staleness is at most `rl.max_late_staleness`; then it is
dropped and counted.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from mlagent_jax import dispatch, rollout
from mlagent_jax import reward as reward_lib
from mlagent_jax.environment import records
from mlagent_jax.stages import journal, temperature, timeline
from mlagent_jax.stages import learner as learner_lib
from mlagent_jax.stages import states as states_lib
from mlagent_jax.stages.journal import SampleId
from mlagent_jax.stages.session import Session

SEED_STREAM = 3
# An update waits past its deadline until this share of its batch is there.
LEAST_SHARE = 0.5


@dataclasses.dataclass(frozen=True)
class Batch:
  """What one update trains on: R rows of G slots, N compared groups of G.

  Attributes:
    rows: [R] the state of each row; None fills the batch up.
    slots: [R][G] what was executed; None where nothing is to be trained.
    rewards: [N, G] float32, of the samples that are compared with each other.
    valid: [N, G] 0/1, where there is a reward.
    owners: [R, G] int, which of rewards.ravel() a slot's advantage is of.
    staleness: updates between a trained sample and its policy, each.
    late: samples that an earlier update did not wait for.
    dropped: samples that were given up.
  """

  rows: list[journal.Row | None]
  slots: list[list[rollout.Executed | None]]
  rewards: np.ndarray
  valid: np.ndarray
  owners: np.ndarray
  staleness: tuple[int, ...] = ()
  late: int = 0
  dropped: int = 0

  @property
  def trained(self) -> np.ndarray:
    """[R, G] bool, where there is something to train."""
    return np.array([[done is not None for done in row] for row in self.slots])

  @property
  def executed(self) -> list[rollout.Executed]:
    """What is trained, row by row."""
    return [done for row in self.slots for done in row if done is not None]


def late_rows(config) -> int:
  """Rows that an update has for late samples: a quarter more than S, or what
  divides among devices, mini- and micro-batches.
  """
  parts = config.mesh.data * config.mesh.fsdp
  parts *= config.rl.micro_batches * config.rl.mini_batches
  return parts * max(1, config.rl.states_per_batch // (4 * parts))


class StepRollouts:
  """The batches of one run, by number from 1 on.

  Args:
    session: tasks, config and folder.
    learner: whose policy samples.
    states: the pool that is drawn from.
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
    self._states = states
    self._dispatcher = dispatcher
    self._spans = spans
    self._late_rows = late_rows(session.config)
    self.policy = learner.policy(
      samples_per_prompt=self._settings.samples_per_state,
      batch_size=self._settings.states_per_batch,
      temperature=self._settings.temperature,
    )
    self._journal = journal.Journal(session.workdir.stage('rl') / 'rollouts')
    self._draws = states.draws(session.config)
    self._drawn = 0  # batches
    self._batches: dict[int, journal.Sampled] = {}
    # Neither trained nor dropped; None: not sent to the workers.
    self._open: dict[SampleId, dispatch.Ticket | None] = {}
    # [S, G] of each batch that is not finished; NaN where there is none.
    self._rewards: dict[int, np.ndarray] = {}

  def state(self) -> dict:
    """Where the draws are, for the checkpoint; a JSON object."""
    return {'pool': self._draws.get_state(), 'batches_drawn': self._drawn}

  def restore(self, state: dict, done: int) -> None:
    """Goes to where a checkpoint after `done` updates was.

    Args:
      state: of `state`.
      done: finished updates.

    Raises:
      JournalError: if a file of the rollouts is damaged.
    """
    self._draws.set_state(state['pool'])
    self._drawn = state['batches_drawn']
    # Only samples of these can still come.
    oldest = max(1, done + 1 - self._settings.max_late_staleness)
    for number in range(oldest, done + 1):
      sampled = self._journal.sampled(number)
      if sampled is not None:
        self._admit(sampled)
    for number in range(oldest, done + 1):
      trained = self._journal.trained(number)
      if trained is not None:
        self._note(trained)
        self._close(trained)
    self._send(range(oldest, done + 1))

  def begin(self, number: int, params, version: int) -> None:
    """Samples a batch and sends it to the workers, or reads it from disk.

    Args:
      number: of the batch; in order.
      params: of the policy.
      version: finished updates of these.
    """
    drawn = None
    if number > self._drawn:
      drawn = self._draws.draw(self._settings.states_per_batch)
      self._drawn = number
    sampled = self._journal.sampled(number)
    if sampled is None:
      if drawn is None:
        # Its file was damaged and deleted: other states do as well.
        drawn = self._draws.draw(self._settings.states_per_batch)
      with self._spans.span('sample'):
        sampled = self._sample(drawn, number, params, version)
      self._journal.write_sampled(sampled)
    self._admit(sampled)
    # What is known already is not executed again.
    if self._journal.trained(number) is None:
      self._send([number])

  def collect(self, number: int) -> Batch:
    """Waits for what update `number` trains on; it is on disk on return.

    Raises:
      SandboxUnavailable: if there were no workers for too long.
    """
    trained = self._journal.trained(number)
    if trained is None:
      with self._spans.span('wait'):
        self._wait(number)
      trained = self._choose(number)
      self._journal.write_trained(number, trained)
    self._note(trained)
    self._tell_draws(number, trained)
    batch = self._batch(number, trained)
    self._close(trained)
    self._send([number])  # what came late already before a restart
    return batch

  def _sample(self, drawn, number, params, version) -> journal.Sampled:
    prompts = [self._states.ids_of(state) for state in drawn]
    replies = self.policy.sample_replies(
      params,
      prompts,
      rollout.seeds_for(
        seed=self._session.config.seed,
        stream=SEED_STREAM,
        step=number,
        shape=(len(drawn), self._settings.samples_per_state),
      ),
      temperature.at(self._settings, number),
    )
    rows = tuple(
      journal.Row(
        state.task,
        state.trajectory_id,
        state.step_index,
        state.snapshot,
        tuple(prompt),
        tuple(group),
        reward_lib.neutral_run(state.history, self._session.scales[state.task]),
      )
      for state, prompt, group in zip(drawn, prompts, replies, strict=True)
    )
    return journal.Sampled(number, version, rows)

  def _admit(self, sampled: journal.Sampled) -> None:
    self._batches[sampled.number] = sampled
    shape = len(sampled.rows), self._settings.samples_per_state
    self._rewards[sampled.number] = np.full(shape, np.nan, np.float32)
    for sample in _samples_of(sampled):
      self._open[sample] = None

  def _send(self, numbers: Sequence[int]) -> None:
    """Sends what is open of these batches to the workers."""
    for sample, ticket in self._open.items():
      if ticket is None and sample.batch in numbers:
        row = self._row(sample)
        self._open[sample] = self._dispatcher.submit(
          row.task, row.snapshot, row.replies[sample.slot].text
        )

  def _wait(self, number: int) -> None:
    mine = [t for s, t in self._open.items() if s.batch == number]
    seconds = self._settings.deadline_seconds or math.inf
    least = math.ceil(LEAST_SHARE * len(mine))
    self._dispatcher.wait(mine, seconds=seconds, at_least=least)

  def _choose(self, number: int) -> journal.Trained:
    """Which samples update `number` takes, and which are given up."""
    settings = self._settings
    results, late_rows = {}, set()
    for sample, ticket in self._open.items():
      if sample.batch > number or not ticket.done:
        continue
      place = sample.batch, sample.row
      if sample.batch < number and place not in late_rows:
        if len(late_rows) == self._late_rows:
          continue  # the next update has room
        late_rows.add(place)
      outcome, after = ticket.result
      scale = self._session.scales[self._row(sample).task]
      value = reward_lib.reward(
        outcome,
        scale,
        neutral_before=self._row(sample).neutral_before,
        **self._session.config.reward,
      )
      results[sample] = journal.Result(outcome, after, value)
    dropped = tuple(
      sample
      for sample in self._open
      if sample.batch <= number
      and sample not in results
      and (
        number == settings.steps
        # Its staleness in the next update.
        or number - self._batches[sample.batch].version
        > settings.max_late_staleness
      )
    )
    return journal.Trained(results, dropped)

  def _note(self, trained: journal.Trained) -> None:
    for sample, result in trained.results.items():
      if sample.batch in self._rewards:
        self._rewards[sample.batch][sample.row, sample.slot] = result.reward

  def _tell_draws(self, number: int, trained: journal.Trained) -> None:
    """What the draws after this update depend on, from the journal alone."""
    for place in sorted({(s.batch, s.row) for s in trained.results}):
      rewards = self._rewards[place[0]][place[1]]
      row = self._batches[place[0]].rows[place[1]]
      self._draws.observe(row.name, rewards[~np.isnan(rewards)].tolist())
    # One sample a row, as good as any: they differ by their seeds alone.
    slot = number % self._settings.samples_per_state
    for index, row in enumerate(self._batches[number].rows):
      result = trained.results.get(SampleId(number, index, slot))
      if result is not None:
        step = records.Step(
          row.snapshot, row.replies[slot].text, result.outcome, result.after
        )
        self._draws.visit(row.name, f'policy-{number}-{index}', step)

  def _close(self, trained: journal.Trained) -> None:
    """What is trained or dropped is open no more."""
    for sample in (*trained.results, *trained.dropped):
      ticket = self._open.pop(sample, None)
      if ticket is not None and not ticket.done:
        self._dispatcher.cancel(ticket)
    busy = {sample.batch for sample in self._open}
    for number in [n for n in self._batches if n not in busy]:
      del self._batches[number], self._rewards[number]

  def _batch(self, number: int, trained: journal.Trained) -> Batch:
    """The rows of the batch itself, then those of late samples."""
    own = [(number, row) for row in range(len(self._batches[number].rows))]
    late = sorted(
      {(sample.batch, sample.row) for sample in trained.results} - {*own}
    )
    rows, slots, rewards = [], [], []
    for place in own + late:
      row = self._batches[place[0]].rows[place[1]]
      rows.append(row)
      slots.append(
        [
          _executed(reply, trained.results.get(SampleId(*place, slot)))
          for slot, reply in enumerate(row.replies)
        ]
      )
      rewards.append(self._rewards[place[0]][place[1]])
    if late:  # always as many rows: one more program, and no more than one
      G = self._settings.samples_per_state
      for _ in range(self._late_rows - len(late)):
        rows.append(None)
        slots.append([None] * G)
        rewards.append(np.full(G, np.nan, np.float32))
    rewards = np.array(rewards)
    valid = ~np.isnan(rewards)
    return Batch(
      rows,
      slots,
      np.where(valid, rewards, 0.0).astype(np.float32),
      valid.astype(np.float32),
      np.arange(rewards.size).reshape(rewards.shape),
      staleness=tuple(
        number - 1 - self._batches[sample.batch].version
        for sample in trained.results
      ),
      late=sum(sample.batch < number for sample in trained.results),
      dropped=len(trained.dropped),
    )

  def _row(self, sample: SampleId) -> journal.Row:
    return self._batches[sample.batch].rows[sample.row]


def _samples_of(sampled: journal.Sampled) -> list[SampleId]:
  return [
    SampleId(sampled.number, row, slot)
    for row, group in enumerate(sampled.rows)
    for slot in range(len(group.replies))
  ]


def _executed(
  reply: rollout.Reply, result: journal.Result | None
) -> rollout.Executed | None:
  if result is None:
    return None
  return rollout.Executed(reply, result.outcome, result.after, result.reward)

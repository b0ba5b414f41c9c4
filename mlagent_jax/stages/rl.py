"""Step-wise RL: a recorded state, G single actions, one reward each.

One step: draw S states from the pool; sample G actions for each; execute
every one in its own copy of the state's workspace; score; update the policy.
Source: ML-Agent, arXiv 2505.23723, step-wise RL paradigm.

With `rl.max_staleness` above 0 the next batches are sampled before this one is
executed, so that the device works while scripts run (docs/rl_loop.md). What
was sampled is in rollouts/ before it is executed, and what became of it before
an update uses it, so that a killed run repeats its steps with the same tokens
and rewards and arrives at the same parameters, bit for bit.

`rl.mode` 'episode' is the baseline: the same loop and updates over whole
episodes (`stages.episodes`).
"""

import collections
import contextlib
import time

import numpy as np

from mlagent_jax import checkpoint
from mlagent_jax import reward as reward_lib
from mlagent_jax.environment import records
from mlagent_jax.model import decoder
from mlagent_jax.stages import (
  episodes,
  fixed_set,
  rl_batch,
  rl_update,
  rollouts,
  sft,
  shared_rollouts,
  timeline,
  workdir,
)
from mlagent_jax.stages import learner as learner_lib
from mlagent_jax.stages import states as states_lib
from mlagent_jax.stages.processes import Stopped
from mlagent_jax.stages.session import Session


def run(
  session: Session,
  learner: learner_lib.Learner,
  states: states_lib.States,
) -> dict:
  """Trains for `rl.steps` from the last checkpoint on; returns the figures."""
  config = session.config
  settings = config.rl
  folder = session.workdir.stage('rl')
  reference = sft.load_params(session, learner, 'sft')
  first = _measured(session, learner, states, reference, 'first', 0)

  trainer = rl_update.make_trainer(learner)
  state = rl_update.make_state(learner, reference)
  reference = decoder.frozen(learner.model, reference)
  spans = timeline.Timeline(settings.timeline_steps)
  kinds = {
    'step': rollouts.StepRollouts,
    'episode': episodes.EpisodeRollouts,
  }
  source = shared_rollouts.SharedRollouts(
    kinds[settings.mode](
      session,
      learner,
      states,
      session.dispatcher(on_span=spans.worker_span),
      spans,
    ),
    session.processes,
  )
  with checkpoint.Checkpointer(
    session.workdir.checkpoints('rl'),
    max_to_keep=2,
    fingerprint=workdir.fingerprint(config),
  ) as checkpoints:
    done, extra = 0, source.state()
    if checkpoints.latest_step() is not None:
      state, extra = checkpoints.restore(state)
      done = checkpoints.latest_step()
      source.restore(extra, done)
      session.log.say(f'rl: resumed at step {done}')

    def save(number):
      with spans.span('checkpoint'):
        session.push()
        checkpoints.save(number, state, extra)

    @contextlib.contextmanager
    def saving_if_stopped(number):
      """Executions may take longer than what stops us waits."""
      try:
        yield
      except Stopped as stopped:
        if number > (checkpoints.latest_step() or 0):
          save(number)
        raise Stopped(f'rl: saved step {number}, {stopped}') from stopped

    ahead = 1 + settings.max_staleness
    for number in range(done + 1, min(done + ahead, settings.steps) + 1):
      source.begin(number, state.params, version=done)
    with session.log.progress('rl', settings.steps, done) as bar:
      for number in range(done + 1, settings.steps + 1):
        start = time.monotonic()
        spans.begin_step(number)
        with saving_if_stopped(number - 1):
          batch = source.collect(number)
        collected_at = time.monotonic()
        with spans.span('update'):
          state, metrics = rl_update.update(
            learner,
            trainer,
            states,
            reference,
            state,
            batch,
            number=number,
            folder=folder,
          )
        figures = _figures(batch, metrics)
        figures['update_seconds'] = time.monotonic() - collected_at
        extra = source.state()
        stop = False
        # Before the checkpoint: scripts run while it is written.
        if number + ahead <= settings.steps:
          try:
            source.begin(number + ahead, state.params, version=number)
          except Stopped:  # whole episodes are executed there
            stop = True
        stop = stop or session.processes.stop_requested()
        due = number % settings.checkpoint_every == 0
        if stop or due or number == settings.steps:
          save(number)
          session.processes.leader_does(spans.write, folder)
        figures |= _seconds(spans, time.monotonic() - start)
        session.log.metrics('rl', number, **figures)
        bar(
          f'reward {figures["reward"]:.3f}'
          f'  edits {figures["share/edited"]:.0%}'
          f' at {figures.get("edit_reward", 0):.3f}'
          f'  valid {figures["valid_rate"]:.0%}'
          f'  kl {figures["kl"]:.3f}'
          f'  {figures["tokens"] / (time.monotonic() - start):,.0f} tokens/s'
          f'  idle {figures["idle_share"]:.0%}'
        )
        if stop and number < settings.steps:
          raise Stopped(f'rl: saved step {number} of {settings.steps}')
  last = _measured(session, learner, states, state.params, 'last', 1)
  result = {}
  for figure in first:
    result[f'{figure}_first'] = first[figure]
    result[f'{figure}_last'] = last[figure]
  return result


def _measured(session, learner, states, params, name, stream) -> dict:
  """The fixed set's figures; measured once, then read from disk."""
  path = session.workdir.stage('rl') / f'fixed_set_{name}.json'
  leader_does = session.processes.leader_does
  known = leader_does(workdir.read_json, path)
  if known is None:
    known = fixed_set.measure(
      session, learner, states, params, name=f'fixed set, {name}', stream=stream
    )
    leader_does(workdir.write_json, path, known)
  return known


def _figures(batch: rollouts.Batch, metrics: dict) -> dict:
  executed = batch.executed
  figures = fixed_set.figures(executed)
  if figures['edit_reward'] is None:
    del figures['edit_reward']
  kinds = collections.Counter(done.outcome.kind for done in executed)
  for kind in records.OutcomeKind:
    figures[f'share/{kind}'] = kinds[kind] / len(executed)
  figures |= reward_lib.breakdown(
    (row.task, done.outcome.kind, done.reward)
    for row, slots in zip(batch.rows, batch.slots, strict=True)
    for done in slots
    if done is not None
  )
  figures['samples'] = len(executed)
  figures['tokens'] = sum(len(done.reply.token_ids) for done in executed)
  ran = [done for done in executed if done.outcome.exit_code is not None]
  figures['reused'] = sum(done.outcome.cached for done in ran)
  figures['executions'] = len(ran) - figures['reused']
  figures['hit_rate'] = figures['reused'] / max(1, len(ran))
  # What all of it cost; a reused run as much as the first one did.
  figures['script_seconds'] = sum(done.outcome.seconds for done in executed)
  figures['prompt_tokens'] = sum(
    len(row.prompt_ids) for row in batch.rows if row is not None
  )
  # With a reward to be compared: an action, or a whole episode.
  figures['returns'] = len({*batch.owners[batch.trained].tolist()})
  figures['staleness'] = float(np.mean(batch.staleness))
  figures['staleness_max'] = max(batch.staleness)
  figures['telling_share'] = float(np.mean(rl_batch.telling(batch)))
  figures['late'] = batch.late
  figures['dropped'] = batch.dropped
  return figures | metrics


def _seconds(spans: timeline.Timeline, total: float) -> dict:
  """Where the step's time went; the device is idle while it waits."""
  seconds = spans.seconds()
  return {
    'sample_seconds': seconds['sample'],
    'wait_seconds': seconds['wait'],
    'checkpoint_seconds': seconds['checkpoint'],
    'step_seconds': total,
    'idle_share': seconds['wait'] / total,
  }

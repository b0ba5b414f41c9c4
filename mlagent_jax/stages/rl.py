"""Step-wise RL: a recorded state, G single actions, one reward each.

One step: draw S states from the pool; sample G actions for each; execute
every one in its own copy of the state's workspace; score; update the policy.
Source: ML-Agent, arXiv 2505.23723, step-wise RL paradigm.

What was sampled and what became of it is in rollouts/ before an update uses
it, so that a killed run repeats its steps with the same tokens and rewards
and arrives at the same parameters, bit for bit.
"""

import collections
import time

import jax

from mlagent_jax import checkpoint, rollout, train_state
from mlagent_jax.environment import records
from mlagent_jax.stages import fixed_set, journal, rl_update, sft, workdir
from mlagent_jax.stages import learner as learner_lib
from mlagent_jax.stages import states as states_lib
from mlagent_jax.stages.session import Session

SEED_STREAM = 3


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

  tx = learner.optimizer('rl')
  trainer = rl_update.make_trainer(learner, tx)
  # The state is donated to the update: it needs its own copy.
  own = jax.tree.map(lambda x: x.copy(), reference)
  state = train_state.make_train_state(own, tx, learner.mesh)
  with checkpoint.Checkpointer(
    folder / 'checkpoints',
    max_to_keep=2,
    fingerprint=workdir.fingerprint(config),
  ) as checkpoints:
    done, cursor = 0, 0
    if checkpoints.latest_step() is not None:
      state, extra = checkpoints.restore(state)
      done, cursor = checkpoints.latest_step(), extra['pool_cursor']
      session.log.say(f'rl: resumed at step {done}')
    with session.log.progress('rl', settings.steps, done) as bar:
      for number in range(done + 1, settings.steps + 1):
        start = time.monotonic()
        drawn, cursor = states.pool.draw(
          settings.states_per_batch,
          seed=config.seed,
          cursor=cursor,
          balanced=settings.pool != 'uniform',
        )
        groups = _rollout(session, learner, states, state, drawn, number)
        executed_at = time.monotonic()
        state, metrics = rl_update.update(
          learner, trainer, states, reference, state, drawn, groups
        )
        figures = _figures(groups, metrics)
        figures['rollout_seconds'] = executed_at - start
        figures['update_seconds'] = time.monotonic() - executed_at
        session.log.metrics('rl', number, **figures)
        bar(
          f'reward {figures["reward"]:.3f}'
          f'  edits {figures["share/edited"]:.0%}'
          f' at {figures.get("edit_reward", 0):.3f}'
          f'  valid {figures["valid_rate"]:.0%}'
          f'  kl {figures["kl"]:.3f}'
          f'  {figures["tokens"] / (time.monotonic() - start):,.0f} tokens/s'
        )
        last = number == settings.steps
        if last or number % settings.checkpoint_every == 0:
          checkpoints.save(number, state, {'pool_cursor': cursor})
  last = _measured(session, learner, states, state.params, 'last', 1)
  result = {}
  for figure in first:
    result[f'{figure}_first'] = first[figure]
    result[f'{figure}_last'] = last[figure]
  return result


def _measured(session, learner, states, params, name, stream) -> dict:
  """The fixed set's figures; measured once, then read from disk."""
  path = session.workdir.stage('rl') / f'fixed_set_{name}.json'
  known = workdir.read_json(path)
  if known is None:
    known = fixed_set.measure(
      session, learner, states, params, name=f'fixed set, {name}', stream=stream
    )
    workdir.write_json(path, known)
  return known


def _rollout(
  session, learner, states, state, drawn, number
) -> list[list[rollout.Executed]]:
  """Samples and executes one batch, or reads it from its journal."""
  settings = session.config.rl
  path = session.workdir.stage('rl') / 'rollouts' / f'{number:06d}.json'
  known = journal.read(path)
  if known is not None:
    return known
  policy = learner.policy(
    samples_per_prompt=settings.samples_per_state,
    batch_size=settings.states_per_batch,
    temperature=settings.temperature,
  )
  replies = policy.sample_replies(
    state.params,
    [states.ids_of(drawn_state) for drawn_state in drawn],
    rollout.seeds_for(
      seed=session.config.seed,
      stream=SEED_STREAM,
      step=number,
      shape=(len(drawn), settings.samples_per_state),
    ),
  )
  requests = [
    (drawn_state.task, drawn_state.snapshot, reply)
    for drawn_state, group in zip(drawn, replies, strict=True)
    for reply in group
  ]
  executed = rollout.execute_replies(
    session.pool, requests, session.scales, alpha=session.config.reward.alpha
  )
  G = settings.samples_per_state
  groups = [executed[i : i + G] for i in range(0, len(executed), G)]
  journal.write(path, groups)
  return groups


def _figures(groups, metrics: dict) -> dict:
  executed = [done for group in groups for done in group]
  figures = fixed_set.figures(executed)
  if figures['edit_reward'] is None:
    del figures['edit_reward']
  kinds = collections.Counter(done.outcome.kind for done in executed)
  for kind in records.OutcomeKind:
    figures[f'share/{kind}'] = kinds[kind] / len(executed)
  figures['tokens'] = sum(len(done.reply.token_ids) for done in executed)
  ran = [done for done in executed if done.outcome.exit_code is not None]
  figures['reused'] = sum(done.outcome.cached for done in ran)
  figures['executions'] = len(ran) - figures['reused']
  figures['hit_rate'] = figures['reused'] / max(1, len(ran))
  return figures | metrics

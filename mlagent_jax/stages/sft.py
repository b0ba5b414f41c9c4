"""Fine-tuning: the policy learns to speak the protocol, from the expert.

The loss is over the expert's actions only, failures included in the states
but not imitated. Source: ML-Agent, arXiv 2505.23723, exploration-enriched
fine-tuning.
"""

import time
from collections.abc import Sequence

import numpy as np

from mlagent_jax import (
  batching,
  checkpoint,
  losses,
  packed_groups,
  train_state,
)
from mlagent_jax.stages import learner as learner_lib
from mlagent_jax.stages import not_finite, rl_update, workdir
from mlagent_jax.stages import states as states_lib
from mlagent_jax.stages.processes import Stopped
from mlagent_jax.stages.session import ConfigError, Session


def run(
  session: Session,
  learner: learner_lib.Learner,
  states: states_lib.States,
) -> dict:
  """Trains for `sft.steps` from the last checkpoint on; returns the figures."""
  config = session.config
  examples = [
    batching.Example(
      states.ids_of(state), learner.tokenizer.encode_action(reply)
    )
    for state, reply in states.pairs
  ]
  settings = config.sft
  shared = settings.layout == 'shared_prompt'
  size = settings['prompts_per_batch' if shared else 'batch_size']
  data = make_batches(
    config,
    examples,
    states.prompt_length,
    learner.tokenizer.pad_id,
    own_rows=train_state.own_rows(learner.mesh, size),
  )
  tx = learner.optimizer(settings, settings.steps)
  step = train_state.make_train_step(
    learner.graphdef,
    losses.make_sft_loss(),
    tx,
    micro_batches=settings.micro_batches,
    mesh=learner.mesh,
  )
  state = train_state.make_train_state(learner.untrained(), tx, learner.mesh)
  with checkpoint.Checkpointer(
    session.workdir.checkpoints('sft'),
    max_to_keep=2,
    fingerprint=workdir.fingerprint(config),
  ) as checkpoints:
    done = 0
    if checkpoints.latest_step() is not None:
      state, extra = checkpoints.restore(state)
      done = checkpoints.latest_step()
      data.set_state(extra['data'])
      session.log.say(f'sft: resumed at step {done}')
    with session.log.progress('sft', settings.steps, done) as bar:
      for number in range(done + 1, settings.steps + 1):
        start = time.monotonic()
        batch = next(data)
        placed = train_state.put_batch(batch, learner.mesh, size=size)
        state, metrics = step(state, placed)
        figures = {name: float(value) for name, value in metrics.items()}
        not_finite.check(
          [figures],
          batch,
          session.workdir.stage('sft') / 'not_finite',
          stage='sft',
          step=number,
        )
        tokens = np.count_nonzero(batch['segment_ids'])
        figures['tokens_per_second'] = tokens / (time.monotonic() - start)
        session.log.metrics('sft', number, **figures)
        bar(
          f'loss {figures["loss"]:.3f}'
          f'  {figures["tokens_per_second"]:,.0f} tokens/s'
        )
        stop = session.processes.stop_requested()
        due = number % settings.checkpoint_every == 0
        if stop or due or number == settings.steps:
          session.push()
          checkpoints.save(number, state, {'data': data.get_state()})
        if stop and number < settings.steps:
          raise Stopped(f'sft: saved step {number} of {settings.steps}')
  return {'loss': figures['loss'] if done < settings.steps else None}


def make_batches(
  config,
  examples: Sequence[batching.Example],
  prompt_length: int,
  pad_id: int,
  own_rows: Sequence[int] | None = None,
) -> batching.BatchIterator:
  """The batches of `sft.layout`.

  Args:
    config: the whole config.
    examples: the training set.
    prompt_length: P of the shared-prompt layout.
    pad_id: token of the padding.
    own_rows: of this process in every batch; None for all.

  Raises:
    ConfigError: if an example is longer than the config allows.
  """
  settings = config.sft
  action = max(len(example.action_ids) for example in examples)
  if action > config.agent.max_action_tokens:
    raise ConfigError(
      f'agent.max_action_tokens is {config.agent.max_action_tokens}, but an'
      f' action of the expert has {action} tokens'
    )
  if settings.layout != 'shared_prompt':
    longest = max(map(len, examples))
    if longest > settings.max_length:
      raise ConfigError(
        f'sft.max_length is {settings.max_length}, but a prompt and its action'
        f' have {longest} tokens; agent.max_prompt_tokens and'
        ' agent.max_action_tokens bound them'
      )
    options = {
      'length': settings.max_length,
      'rows': settings.batch_size,
      'seed': config.seed,
      'pad_id': pad_id,
      'own_rows': own_rows,
    }
    if settings.layout == 'packed':
      return batching.packed_batches(examples, **options)
    groups = batching.group_examples(examples, len(examples))
    return packed_groups.packed_group_batches(groups, **options)
  return batching.group_batches(
    batching.group_examples(examples, settings.actions_per_prompt),
    prompt_length=prompt_length,
    action_length=-(-action // 8) * 8,
    samples=settings.actions_per_prompt,
    prompts_per_batch=settings.prompts_per_batch,
    seed=config.seed,
    pad_id=pad_id,
    own_rows=own_rows,
  )


def state_shapes(learner: learner_lib.Learner, stage: str):
  """What a checkpoint of stage 'sft' or 'rl' is restored into."""
  if stage == 'rl':
    return rl_update.state_shapes(learner)
  settings = learner.config.sft
  tx = learner.optimizer(settings, settings.steps)
  return train_state.train_state_shapes(learner.shapes, tx, learner.mesh)


def load_params(session: Session, learner: learner_lib.Learner, stage: str):
  """The parameters that a completed stage ('sft' or 'rl') ended with."""
  with checkpoint.Checkpointer(
    session.workdir.checkpoints(stage),
    fingerprint=workdir.fingerprint(session.config),
    read_only=True,
  ) as checkpoints:
    state, _ = checkpoints.restore(state_shapes(learner, stage))
  return state.params

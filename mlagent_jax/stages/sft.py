"""Fine-tuning: the policy learns to speak the protocol, from the expert.

The loss is over the expert's actions only, failures included in the states
but not imitated. Source: ML-Agent, arXiv 2505.23723, exploration-enriched
fine-tuning.
"""

import time

import numpy as np

from mlagent_jax import batching, checkpoint, losses, train_state
from mlagent_jax.stages import learner as learner_lib
from mlagent_jax.stages import not_finite, rl_update, workdir
from mlagent_jax.stages import states as states_lib
from mlagent_jax.stages.session import ConfigError, Session


def run(
  session: Session,
  learner: learner_lib.Learner,
  states: states_lib.States,
) -> dict:
  """Trains for `sft.steps` from the last checkpoint on; returns the figures."""
  config = session.config
  settings = config.sft
  examples = [
    batching.Example(
      states.ids_of(state), learner.tokenizer.encode_action(reply)
    )
    for state, reply in states.pairs
  ]
  G = settings.actions_per_prompt
  longest = max(len(example.action_ids) for example in examples)
  if longest > config.agent.max_action_tokens:
    raise ConfigError(
      f'agent.max_action_tokens is {config.agent.max_action_tokens}, but an'
      f' action of the expert has {longest} tokens'
    )
  data = batching.group_batches(
    batching.group_examples(examples, G),
    prompt_length=states.prompt_length,
    action_length=-(-longest // 8) * 8,
    samples=G,
    prompts_per_batch=settings.prompts_per_batch,
    seed=config.seed,
    pad_id=learner.tokenizer.pad_id,
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
    session.workdir.stage('sft') / 'checkpoints',
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
        state, metrics = step(state, train_state.put_batch(batch, learner.mesh))
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
        last = number == settings.steps
        if last or number % settings.checkpoint_every == 0:
          checkpoints.save(number, state, {'data': data.get_state()})
  return {'loss': figures['loss'] if done < settings.steps else None}


def load_params(session: Session, learner: learner_lib.Learner, stage: str):
  """The parameters that a completed stage ('sft' or 'rl') ended with."""
  if stage == 'rl':
    template = rl_update.state_shapes(learner)
  else:
    settings = session.config.sft
    tx = learner.optimizer(settings, settings.steps)
    template = train_state.train_state_shapes(learner.shapes, tx, learner.mesh)
  with checkpoint.Checkpointer(
    session.workdir.stage(stage) / 'checkpoints',
    max_to_keep=2,
    fingerprint=workdir.fingerprint(session.config),
  ) as checkpoints:
    state, _ = checkpoints.restore(template)
  return state.params

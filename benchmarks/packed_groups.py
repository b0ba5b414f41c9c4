"""An RL update of the toy: packed groups, or a row of slots for each state.

  python benchmarks/packed_groups.py [--steps=9]

The same 15 states with the same 8 samples each, as the demo has them (prompts
of 70 to 146 tokens; actions of 6 to 22, of which about 3 of 8 differ), through
`rl_update.update`: log-probabilities under the reference, then the update. The
peer has 15 rows [prompt of 160 | 8 slots of 32], ours 8 rows of 320 tokens
(`mlagent_jax.packed_groups`). Rates count samples. The last line is JSON.
"""

import argparse
import json
import pathlib
import sys
import tempfile
import types

import contest

STATES, SAMPLES, PROMPT = 15, 8, 160
LENGTHS, OFTEN = (6, 8, 17, 22), (0.5, 0.2, 0.15, 0.15)


def make_groups():
  """States and executed samples, as the rollouts hand them over."""
  import numpy as np

  from mlagent_jax import rollout
  from mlagent_jax.environment import records
  from mlagent_jax.stages import journal, rollouts

  rng = np.random.default_rng(0)

  def ids(count):
    return tuple(rng.integers(1, 2400, count).tolist())

  def choices():
    outcome = records.Outcome(records.OutcomeKind.EDITED, '')
    return [
      rollout.Executed(
        rollout.Reply('', ids(length), (-1.0,) * length, True),
        outcome,
        None,
        float(rng.uniform()),
      )
      for length in LENGTHS
    ]

  slots = []
  for _ in range(STATES):
    known = choices()
    drawn = rng.choice(len(known), SAMPLES, p=OFTEN)
    slots.append([known[i] for i in drawn])
  rewards = np.float32([[done.reward for done in row] for row in slots])
  rows = [
    journal.Row('', f'{s}', 0, records.Snapshot(''), ids(n), ())
    for s, n in enumerate(rng.integers(70, 147, STATES))
  ]
  owners = np.arange(rewards.size).reshape(rewards.shape)
  return rollouts.Batch(rows, slots, rewards, np.ones_like(rewards), owners)


def contestant(layout):
  from configs import toy
  from mlagent_jax.model import config as model_config
  from mlagent_jax.model import decoder
  from mlagent_jax.stages import learner as learner_lib
  from mlagent_jax.stages import processes, rl_update

  config = toy.get_config()
  config.rl.layout = layout
  config.rl.states_per_batch = STATES
  model = model_config.ModelConfig(
    num_layers=config.model.num_layers,
    embed_dim=config.model.embed_dim,
    num_heads=config.model.num_heads,
    num_kv_heads=config.model.num_kv_heads,
    head_dim=config.model.head_dim,
    ffn_dim=config.model.ffn_dim,
    vocab_size=2400,
    tied_embeddings=True,
    remat=config.model.remat,
  )
  graphdef, shapes = decoder.abstract_model(model)
  learner = learner_lib.Learner(
    config,
    model,
    graphdef,
    shapes,
    mesh=None,
    sampler_mesh=None,
    tokenizer=types.SimpleNamespace(pad_id=0),
    processes=processes.Processes(),
  )
  reference = decoder.make_model(model, 0)[1]
  trainer = rl_update.make_trainer(learner)
  state = rl_update.make_state(learner, reference)
  groups = make_groups()
  folder = pathlib.Path(tempfile.gettempdir())

  def take_step():
    nonlocal state
    state, metrics = rl_update.update(
      learner,
      trainer,
      types.SimpleNamespace(prompt_length=PROMPT),
      reference,
      state,
      groups,
      number=1,
      folder=folder,
    )
    if metrics['states_trained'] != STATES:
      raise RuntimeError(f'{metrics["states_trained"]} states, not {STATES}')
    return metrics['loss']

  return take_step


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--steps', type=int, default=9, help='timed ones')
  parser.add_argument('--contestant', help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.contestant:
    contest.serve(contestant(options.contestant))
    return
  seen = contest.race(
    {
      layout: [sys.executable, __file__, f'--contestant={layout}']
      for layout in ('packed_groups', 'shared_prompt')
    },
    options.steps,
  )
  ours, peer = seen['packed_groups'], seen['shared_prompt']
  samples = STATES * SAMPLES
  result = {
    'name': 'packed_groups, an update of the toy (samples/s)',
    'ours': round(samples / ours['seconds'], 1),
    'peer': round(samples / peer['seconds'], 1),
    'ratio': round(peer['seconds'] / ours['seconds'], 2),
    'cpu_ratio': round(peer['cpu_seconds'] / ours['cpu_seconds'], 2),
    'machine': contest.machine(),
  }
  print(json.dumps(result))


if __name__ == '__main__':
  main()

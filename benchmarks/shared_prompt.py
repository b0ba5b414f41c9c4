"""A training step on a prompt and its G actions: the prompt once, or G times.

  python benchmarks/shared_prompt.py [--steps=3] [--layers=30]
  python benchmarks/shared_prompt.py --compile      # for v5e, needs libtpu

SmolLM2-135M's shape, a prompt of 768 tokens, 8 actions of 96, float32 on CPU.
Both are the same train step and the same loss; the peer's batch has 8 rows
[prompt | action], ours one row [prompt | 8 actions] (`batching.group_layout`).
Rates count the tokens that a per-sequence step trains on, 8 * (768 + 96), for
both. Ideal ratio: 6,912 / 1,536 tokens = 4.5.

--compile compiles both for one chip of a v5e, bfloat16, with prompts of 256,
768, 2,048 and 8,192 tokens, and reports FLOPs (counted, see `flops`) and the
compiler's bytes of HBM. The last line is JSON.
"""

import argparse
import json
import sys

import contest
import smollm2

PROMPT, SAMPLES, ACTION = 768, 8, 96
COMPILED_PROMPTS = (256, 768, 2048, 8192)
TOPOLOGY = 'v5e:2x2'


def make_batch(prompt, shared):
  """The same prompt and actions, in one row or in a row for each action."""
  import numpy as np

  from mlagent_jax import batching

  generator = np.random.default_rng(0)
  V = smollm2.SHAPE['vocab_size']
  ids = generator.integers(0, V, prompt).tolist()
  actions = generator.integers(
    0, smollm2.SHAPE['vocab_size'], (SAMPLES, ACTION)
  ).tolist()
  return batching.group_layout(
    [ids] if shared else [ids] * SAMPLES,
    [actions] if shared else [[action] for action in actions],
    prompt_length=prompt,
    action_length=ACTION,
  )


def make_step(config, mesh=None):
  from mlagent_jax import losses, train_state
  from mlagent_jax.model.decoder import abstract_model
  from mlagent_jax.optim import make_optimizer

  graphdef, shapes = abstract_model(config)
  tx = make_optimizer(1e-4)
  step = train_state.make_train_step(
    graphdef, losses.make_sft_loss(), tx, mesh=mesh
  )
  return step, tx, shapes


def contestant(shared, layers):
  from mlagent_jax import train_state
  from mlagent_jax.model.decoder import make_model

  # What backward passes keep of 6,912 tokens would not fit beside others.
  config = smollm2.our_config(layers, remat='full')
  step, tx, _ = make_step(config)
  state = train_state.make_train_state(make_model(config, 0)[1], tx)
  batch = train_state.put_batch(make_batch(PROMPT, shared))

  def take_step():
    nonlocal state
    state, metrics = step(state, batch)
    return float(metrics['loss'])

  return take_step


def flops(config, prompt, shared):
  """FLOPs of a forward and a backward pass, without what remat repeats.

  6 a parameter of a matrix and token that meets it, and 12 H N a pair of
  tokens of which one sees the other (scores, and values, 2 each, three times).
  The head meets the actions' tokens only.
  """
  D, F, N, K, H = (
    config.embed_dim,
    config.ffn_dim,
    config.num_heads,
    config.num_kv_heads,
    config.head_dim,
  )
  block = D * H * (2 * N + 2 * K) + 3 * D * F
  of_prompt = prompt * (prompt + 1) // 2
  of_actions = SAMPLES * (ACTION * prompt + ACTION * (ACTION + 1) // 2)
  rows = 1 if shared else SAMPLES
  tokens = rows * prompt + SAMPLES * ACTION
  pairs = rows * of_prompt + of_actions
  head = SAMPLES * ACTION * D * config.vocab_size
  return 6 * (config.num_layers * block * tokens + head) + (
    12 * H * N * config.num_layers * pairs
  )


def compiled(prompt, shared, layers, mesh):
  """(FLOPs, bytes of HBM) of a step, the latter by the compiler."""
  import jax

  from mlagent_jax import train_state
  from mlagent_jax.model.sharding import batch_sharding

  config = smollm2.our_config(layers, remat='full', dtype='bfloat16')
  step, tx, shapes = make_step(config, mesh)
  state = train_state.train_state_shapes(shapes, tx, mesh)
  batch = {
    name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_sharding(mesh))
    for name, x in make_batch(prompt, shared).items()
  }
  memory = step.lower(state, batch).compile().memory_analysis()
  hbm = memory.argument_size_in_bytes + memory.temp_size_in_bytes
  return flops(config, prompt, shared), hbm


def compile_all(layers):
  from mlagent_jax.aot import topologies
  from mlagent_jax.model.sharding import make_mesh

  mesh = make_mesh(1, 1, 1, topologies.devices_of(TOPOLOGY)[:1])
  figures = {}
  for prompt in COMPILED_PROMPTS:
    flops_each, hbm_each = compiled(prompt, False, layers, mesh)
    flops_once, hbm_once = compiled(prompt, True, layers, mesh)
    figures[prompt] = {
      'tflops': [round(flops_each / 1e12, 3), round(flops_once / 1e12, 3)],
      'flops_ratio': round(flops_each / flops_once, 2),
      'hbm_gib': [round(hbm_each / 2**30, 3), round(hbm_once / 2**30, 3)],
    }
    print(f'prompt {prompt}: {figures[prompt]}', flush=True)
  return {
    'name': f'shared_prompt, compiled for {TOPOLOGY}, {layers} layers',
    'order': ['per sequence', 'shared'],
    'prompts': figures,
  }


def race(layers, steps):
  seen = contest.race(
    {
      name: [sys.executable, __file__, f'--contestant={name}', *rest]
      for name, rest in (
        ('shared', [f'--layers={layers}']),
        ('per_sequence', [f'--layers={layers}']),
      )
    },
    steps,
  )
  tokens = SAMPLES * (PROMPT + ACTION)
  ours, peer = seen['shared'], seen['per_sequence']
  return {
    'name': f'shared_prompt, {layers} layers',
    'ours': round(tokens / ours['seconds'], 1),
    'peer': round(tokens / peer['seconds'], 1),
    'ratio': round(peer['seconds'] / ours['seconds'], 2),
    # On a machine that is shared, the time on its cores says more.
    'cpu_ratio': round(peer['cpu_seconds'] / ours['cpu_seconds'], 2),
    'peak_gib': [round(peer['gib'], 2), round(ours['gib'], 2)],
    'order': ['per sequence', 'shared'],
    'machine': contest.machine(),
  }


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--steps', type=int, default=3, help='timed ones')
  parser.add_argument('--layers', type=int, default=smollm2.LAYERS)
  parser.add_argument('--compile', action='store_true', help='for v5e instead')
  parser.add_argument('--contestant', help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.contestant:
    shared = options.contestant == 'shared'
    contest.serve(contestant(shared, options.layers))
    return
  if options.compile:
    result = compile_all(options.layers)
  else:
    result = race(options.layers, options.steps)
  print(json.dumps(result))


if __name__ == '__main__':
  main()

"""Tokens a second of one training step: ours, Hugging Face's torch, tunix.

  python benchmarks/train_step.py [--steps=5] [--layers=30] [--tunix=VENV]

SmolLM2-135M's shape with random weights, 4 x 512 tokens, float32, AdamW with
clipping, on CPU. Every contestant is a process of its own with the same
environment (threads, allocator settings); they take steps in turns, so that
what else the machine does hits all alike. Hugging Face gets two batch layouts,
4 x 512 at once and 1 x 512 four times with accumulated gradients, and its
better one counts. tunix runs from its own virtual environment, which
benchmarks/setup_tunix.sh makes. The last line is JSON.
"""

import argparse
import json
import os
import pathlib
import platform
import sys

import contest

BATCH, LENGTH = 4, 512
SHAPE = {
  'hidden_size': 576,
  'intermediate_size': 1536,
  'num_attention_heads': 9,
  'num_key_value_heads': 3,
  'vocab_size': 49152,
  'rms_norm_eps': 1e-5,
  'tie_word_embeddings': True,
  'max_position_embeddings': 8192,
}
CONTESTANTS = ('ours', 'hf_4x512', 'hf_1x512')


def make_ours(layers):
  import jax
  import numpy as np

  from mlagent_jax import losses, train_state
  from mlagent_jax.model import hf_config
  from mlagent_jax.model.decoder import make_model
  from mlagent_jax.optim import make_optimizer

  config = hf_config.config_from_hf(
    {
      'model_type': 'llama',
      'num_hidden_layers': layers,
      'rope_theta': 1e5,
      **SHAPE,
    }
  )
  graphdef, params = make_model(config, seed=0)
  tx = make_optimizer(1e-4)
  state = train_state.make_train_state(params, tx)
  step = train_state.make_train_step(graphdef, losses.make_sft_loss(), tx)
  tokens = random_tokens()
  order = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), tokens.shape)
  mask = np.ones(tokens.shape, np.float32)
  mask[:, -1] = 0
  batch = train_state.put_batch(
    {
      'tokens': tokens,
      'positions': order,
      'segment_ids': np.ones_like(tokens),
      'targets': np.roll(tokens, -1, axis=1),
      'mask': mask,
    }
  )

  def take_step():
    nonlocal state
    state, metrics = step(state, batch)
    return float(jax.block_until_ready(metrics['loss']))

  return take_step


def make_hf(layers, rows):
  import torch
  import transformers

  config = transformers.LlamaConfig(
    **SHAPE,
    num_hidden_layers=layers,
    rope_parameters={'rope_type': 'default', 'rope_theta': 1e5},
    use_cache=False,
  )
  torch.manual_seed(0)
  model = transformers.LlamaForCausalLM(config).train()
  optimizer = torch.optim.AdamW(
    model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0
  )
  tokens = torch.tensor(random_tokens(), dtype=torch.long)

  def take_step():
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for part in tokens.split(rows):
      loss = model(input_ids=part, labels=part).loss * len(part) / BATCH
      loss.backward()
      total += loss.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return total

  return take_step


def make_tunix(layers):
  import jax
  import jax.numpy as jnp
  import optax
  from flax import nnx
  from tunix.models.llama3 import model as llama

  config = llama.ModelConfig(
    num_layers=layers,
    vocab_size=SHAPE['vocab_size'],
    embed_dim=SHAPE['hidden_size'],
    hidden_dim=SHAPE['intermediate_size'],
    num_heads=SHAPE['num_attention_heads'],
    head_dim=64,
    num_kv_heads=SHAPE['num_key_value_heads'],
    rope_theta=100_000,
    norm_eps=SHAPE['rms_norm_eps'],
    weight_tying=True,
  )
  model = llama.Llama3(config, rngs=nnx.Rngs(0))
  graphdef, state = nnx.split(model)
  state = jax.tree.map(lambda x: x.astype(jnp.float32), state)
  model = nnx.merge(graphdef, state)
  tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4, b2=0.95))
  optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
  tokens = jnp.asarray(random_tokens())
  positions = jnp.broadcast_to(jnp.arange(LENGTH), tokens.shape)
  causal = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))
  mask = jnp.broadcast_to(causal, (BATCH, LENGTH, LENGTH))

  @nnx.jit
  def step(model, optimizer):
    def loss_fn(model):
      logits, _ = model(tokens, positions, None, mask)
      return optax.softmax_cross_entropy_with_integer_labels(
        logits[:, :-1].astype(jnp.float32), tokens[:, 1:]
      ).mean()

    loss, grads = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, grads)
    return loss

  return lambda: float(step(model, optimizer))


def random_tokens():
  import numpy as np

  generator = np.random.default_rng(0)
  tokens = generator.integers(0, SHAPE['vocab_size'], (BATCH, LENGTH))
  return tokens.astype(np.int32)


def contestant(name, layers):
  return {
    'ours': lambda: make_ours(layers),
    'hf_4x512': lambda: make_hf(layers, BATCH),
    'hf_1x512': lambda: make_hf(layers, 1),
    'tunix': lambda: make_tunix(layers),
  }[name]()


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--steps', type=int, default=5, help='timed ones')
  parser.add_argument('--layers', type=int, default=30)
  parser.add_argument('--tunix', type=pathlib.Path, help='its environment')
  parser.add_argument('--contestant', help=argparse.SUPPRESS)
  options = parser.parse_args()
  layers = options.layers
  if options.contestant:
    contest.serve(contestant(options.contestant, layers))
    return
  pythons = dict.fromkeys(CONTESTANTS, sys.executable)
  if options.tunix:
    pythons['tunix'] = str(options.tunix / 'bin' / 'python')
  seen = contest.race(
    {
      name: [python, __file__, f'--contestant={name}', f'--layers={layers}']
      for name, python in pythons.items()
    },
    options.steps,
  )
  tokens = BATCH * LENGTH
  rate = {name: tokens / figures['seconds'] for name, figures in seen.items()}
  # On a machine that is shared, the time on its cores says more.
  cores = os.cpu_count()
  cpu_rate = {
    name: tokens * cores / figures['cpu_seconds']
    for name, figures in seen.items()
  }
  hf = [name for name in seen if name.startswith('hf')]
  best, best_cpu = max(hf, key=rate.get), max(hf, key=cpu_rate.get)
  result = {
    'name': f'train_step, {layers} layers',
    'ours': round(rate['ours'], 1),
    'peer': round(rate[best], 1),
    'ratio': round(rate['ours'] / rate[best], 2),
    'cpu_ratio': round(cpu_rate['ours'] / cpu_rate[best_cpu], 2),
    'tokens_per_second': {k: round(v, 1) for k, v in rate.items()},
    'tokens_per_second_of_all_cores': {
      k: round(v, 1) for k, v in cpu_rate.items()
    },
    'peak_gib': {name: round(f['gib'], 2) for name, f in seen.items()},
    'machine': f'{cores} cores, {platform.machine()}',
  }
  print(json.dumps(result))


if __name__ == '__main__':
  main()

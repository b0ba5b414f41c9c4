"""New tokens a second: our sampler, Hugging Face's generate, tunix's sampler.

  python benchmarks/sampler.py [--steps=3] [--layers=30] [--tunix=VENV]

SmolLM2-135M's shape with random weights, 4 prompts of 512 tokens, 8 samples
of each, 96 new tokens a sample, temperature 1, float32, on CPU. Every
contestant is a process of its own with the same environment (threads,
allocator settings); they sample in turns, so that what else the machine does
hits all alike. Each peer gets two batch layouts, all 32 samples at once and
the 8 of a prompt at a time, and its better one counts. tunix runs from its own
virtual environment, which benchmarks/setup_tunix.sh makes. The last line is
JSON.
"""

import argparse
import json
import os
import pathlib
import platform
import sys

import contest
import train_step

PROMPTS, LENGTH, SAMPLES, NEW = 4, 512, 8, 96


def make_ours(layers):
  from mlagent_jax import sampling
  from mlagent_jax.model import hf_config
  from mlagent_jax.model.decoder import make_model

  config = hf_config.config_from_hf(
    {
      'model_type': 'llama',
      'num_hidden_layers': layers,
      'rope_theta': 1e5,
      **train_step.SHAPE,
    }
  )
  graphdef, params = make_model(config, seed=0)
  room = sampling.Room(
    slots=PROMPTS * SAMPLES,
    rows=PROMPTS,
    seats=SAMPLES,
    prompt_length=LENGTH,
    sample_length=NEW,
    chunk=16,
  )
  engine = sampling.Engine(graphdef, room, stop_ids=())
  engine.load(params)
  calls = 0

  def take_step():
    nonlocal calls
    calls += 1
    requests = [
      engine.submit(prompt, sampling.Settings(), range(SAMPLES))
      for prompt in prompts(calls)
    ]
    while engine.busy:
      engine.step()
    samples = [sample for request in requests for sample in request.samples]
    assert [len(sample.tokens) for sample in samples] == [NEW] * len(samples)
    return sum(sum(sample.logps) for sample in samples) / (NEW * len(samples))

  return take_step


def make_hf(layers, together):
  import torch
  import transformers

  config = transformers.LlamaConfig(
    **train_step.SHAPE,
    num_hidden_layers=layers,
    rope_parameters={'rope_type': 'default', 'rope_theta': 1e5},
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=0,
  )
  torch.manual_seed(0)
  model = transformers.LlamaForCausalLM(config).eval()
  calls = 0

  @torch.inference_mode()
  def take_step():
    nonlocal calls
    calls += 1
    tokens = torch.tensor(prompts(calls))
    for part in tokens.split(PROMPTS if together else 1):
      out = model.generate(
        part,
        attention_mask=torch.ones_like(part),
        do_sample=True,
        top_k=0,
        num_return_sequences=SAMPLES,
        max_new_tokens=NEW,
        min_new_tokens=NEW,
      )
      assert out.shape == (len(part) * SAMPLES, LENGTH + NEW)
    return 0.0

  return take_step


class _Numbers:
  """A tokenizer for tunix: a text is token ids with spaces between."""

  def encode(self, text, **options):
    del options
    return [int(word) for word in text.split()]

  def decode(self, ids, **options):
    del options
    return ' '.join(str(int(token)) for token in ids)

  def bos_id(self):
    return 1

  def eos_id(self):
    return 2

  def pad_id(self):
    return 0


def make_tunix(layers, together):
  import jax
  import jax.numpy as jnp
  from flax import nnx
  from tunix.generate import sampler as sampler_lib
  from tunix.models.llama3 import model as llama

  shape = train_step.SHAPE
  config = llama.ModelConfig(
    num_layers=layers,
    vocab_size=shape['vocab_size'],
    embed_dim=shape['hidden_size'],
    hidden_dim=shape['intermediate_size'],
    num_heads=shape['num_attention_heads'],
    head_dim=64,
    num_kv_heads=shape['num_key_value_heads'],
    rope_theta=100_000,
    norm_eps=shape['rms_norm_eps'],
    weight_tying=True,
  )
  graphdef, state = nnx.split(llama.Llama3(config, rngs=nnx.Rngs(0)))
  state = jax.tree.map(lambda x: x.astype(jnp.float32), state)
  sampler = sampler_lib.Sampler(
    nnx.merge(graphdef, state),
    _Numbers(),
    sampler_lib.CacheConfig(
      cache_size=LENGTH + NEW,
      num_layers=layers,
      num_kv_heads=shape['num_key_value_heads'],
      head_dim=64,
    ),
  )
  calls = 0

  def take_step():
    nonlocal calls
    calls += 1
    # It has no notion of several samples of a prompt: each is a row.
    texts = [
      ' '.join(map(str, prompt))
      for prompt in prompts(calls)
      for _ in range(SAMPLES)
    ]
    size = len(texts) if together else SAMPLES
    for start in range(0, len(texts), size):
      out = sampler(
        texts[start : start + size],
        max_generation_steps=NEW,
        max_prompt_length=LENGTH,
        temperature=1.0,
        top_p=1.0,
        eos_tokens=[shape['vocab_size']],  # none is
        seed=calls,
        echo=False,
      )
      assert all(len(tokens) == NEW for tokens in out.tokens)
    return 0.0

  return take_step


def prompts(call):
  """[PROMPTS, LENGTH] token ids, others at each call."""
  import numpy as np

  generator = np.random.default_rng(call)
  tokens = generator.integers(
    3, train_step.SHAPE['vocab_size'], (PROMPTS, LENGTH)
  )
  return tokens.tolist()


def contestant(name, layers):
  return {
    'ours': lambda: make_ours(layers),
    'hf_32': lambda: make_hf(layers, True),
    'hf_8': lambda: make_hf(layers, False),
    'tunix_32': lambda: make_tunix(layers, True),
    'tunix_8': lambda: make_tunix(layers, False),
  }[name]()


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--steps', type=int, default=3, help='timed ones')
  parser.add_argument('--layers', type=int, default=30)
  parser.add_argument('--tunix', type=pathlib.Path, help='its environment')
  parser.add_argument('--contestant', help=argparse.SUPPRESS)
  options = parser.parse_args()
  layers = options.layers
  if options.contestant:
    contest.serve(contestant(options.contestant, layers))
    return
  pythons = dict.fromkeys(('ours', 'hf_32', 'hf_8'), sys.executable)
  if options.tunix:
    python = str(options.tunix / 'bin' / 'python')
    pythons |= {'tunix_32': python, 'tunix_8': python}
  seen = contest.race(
    {
      name: [python, __file__, f'--contestant={name}', f'--layers={layers}']
      for name, python in pythons.items()
    },
    options.steps,
  )
  tokens, cores = PROMPTS * SAMPLES * NEW, os.cpu_count()
  rate = {name: tokens / figures['seconds'] for name, figures in seen.items()}
  # On a machine that is shared, the time on its cores says more.
  cpu_rate = {
    name: tokens * cores / figures['cpu_seconds']
    for name, figures in seen.items()
  }

  def ratios(rates):
    peers = {
      peer: [rates[name] for name in rates if name.startswith(peer)]
      for peer in ('hf', 'tunix')
    }
    return {
      peer: round(rates['ours'] / max(found), 2)
      for peer, found in peers.items()
      if found
    }

  best = max(rate[name] for name in rate if name.startswith('hf'))
  result = {
    'name': f'sampler, {layers} layers',
    'ours': round(rate['ours'], 1),
    'peer': round(best, 1),
    'ratio': ratios(rate)['hf'],
    'ratios': ratios(rate),
    'cpu_ratios': ratios(cpu_rate),
    'new_tokens_per_second': {k: round(v, 1) for k, v in rate.items()},
    'new_tokens_per_second_of_all_cores': {
      k: round(v, 1) for k, v in cpu_rate.items()
    },
    'peak_gib': {name: round(f['gib'], 2) for name, f in seen.items()},
    'machine': f'{cores} cores, {platform.machine()}',
  }
  print(json.dumps(result))


if __name__ == '__main__':
  main()

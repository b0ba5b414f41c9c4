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

import contest
import smollm2

PROMPTS, LENGTH, SAMPLES, NEW = 4, 512, 8, 96


def make_ours(layers):
  from mlagent_jax import sampling
  from mlagent_jax.model.decoder import make_model

  graphdef, params = make_model(smollm2.our_config(layers), seed=0)
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

  model = smollm2.hf_model(
    layers, bos_token_id=None, eos_token_id=None, pad_token_id=0
  ).eval()
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
    return 0  # none: the prompts are whole

  def eos_id(self):
    return 2

  def pad_id(self):
    return 0


def make_tunix(layers, together):
  from tunix.generate import sampler as sampler_lib

  shape = smollm2.SHAPE
  sampler = sampler_lib.Sampler(
    smollm2.tunix_model(layers),
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
  tokens = generator.integers(3, smollm2.SHAPE['vocab_size'], (PROMPTS, LENGTH))
  return tokens.tolist()


CONTESTANTS = {
  'ours': ('ours', make_ours),
  'hf_32': ('hf', lambda layers: make_hf(layers, True)),
  'hf_8': ('hf', lambda layers: make_hf(layers, False)),
  'tunix_32': ('tunix', lambda layers: make_tunix(layers, True)),
  'tunix_8': ('tunix', lambda layers: make_tunix(layers, False)),
}

if __name__ == '__main__':
  contest.main(
    __doc__, 'sampler', CONTESTANTS, tokens=PROMPTS * SAMPLES * NEW, steps=3
  )

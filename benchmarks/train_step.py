"""Tokens a second of one training step: ours, Hugging Face's torch, tunix.

  python benchmarks/train_step.py [--steps=5] [--layers=30] [--tunix=VENV]

SmolLM2-135M's shape with random weights, 4 x 512 tokens, float32, AdamW with
clipping, on CPU. Every contestant is a process of its own with the same
environment (threads, allocator settings); they take turns, so that what else
the machine does hits all alike. Hugging Face gets two batch layouts, 4 x 512 at
once and 1 x 512 four times with accumulated gradients, and its better one
counts. tunix runs from its own virtual environment, which
benchmarks/setup_tunix.sh makes. The last line is JSON.
"""

import contest
import smollm2

BATCH, LENGTH = 4, 512


def make_ours(layers):
  import jax
  import numpy as np

  from mlagent_jax import losses, train_state
  from mlagent_jax.model.decoder import make_model
  from mlagent_jax.optim import make_optimizer

  config = smollm2.our_config(layers, remat='dots')
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

  model = smollm2.hf_model(layers, use_cache=False).train()
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
  import jax.numpy as jnp
  import optax
  from flax import nnx

  model = smollm2.tunix_model(layers)
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
  tokens = generator.integers(0, smollm2.SHAPE['vocab_size'], (BATCH, LENGTH))
  return tokens.astype(np.int32)


CONTESTANTS = {
  'ours': ('ours', make_ours),
  'hf_4x512': ('hf', lambda layers: make_hf(layers, BATCH)),
  'hf_1x512': ('hf', lambda layers: make_hf(layers, 1)),
  'tunix': ('tunix', make_tunix),
}

if __name__ == '__main__':
  contest.main(
    __doc__, 'train_step', CONTESTANTS, tokens=BATCH * LENGTH, steps=5
  )

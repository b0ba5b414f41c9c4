"""Fine-tuning by packed rows against rows of one example each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from mlagent_jax import losses, optim, train_state
from mlagent_jax.batching import Example
from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.decoder import make_model
from mlagent_jax.stages import sft
from mlagent_jax.stages.session import ConfigError


def _config(length, rows, layout='packed'):
  config = base.get_config()
  config.sft.layout = layout
  config.sft.max_length = length
  config.sft.batch_size = rows
  return config


def _examples():
  rng = np.random.default_rng(0)
  prompts = [rng.integers(64, size=p).tolist() for p in (9, 6, 2, 11)]
  return [
    Example(prompts[i], rng.integers(64, size=a).tolist())
    for i, a in ((0, 3), (1, 4), (2, 5), (3, 2), (0, 6), (0, 3))
  ]


def test_an_update_on_packed_rows_is_that_on_single_examples():
  model = ModelConfig(1, 16, 2, 2, 8, 24, 64, tied_embeddings=True)
  graphdef, params = make_model(model, seed=0)
  tx = optim.make_optimizer(1e-2)
  updated = []
  for length, rows, layout in (
    (16, 6, 'packed'),
    (32, 3, 'packed'),
    (32, 2, 'packed_groups'),
    (17, 5, 'packed_groups'),  # the first prompt's actions are parted
  ):
    config = _config(length, rows, layout)
    batches = sft.make_batches(config, _examples(), 16, 0)
    batch = next(batches)
    assert batch['tokens'].shape == (rows, length)
    assert batches.epoch == 1  # every example is in it
    step = train_state.make_train_step(graphdef, losses.make_sft_loss(), tx)
    state = train_state.make_train_state(jax.tree.map(jnp.copy, params), tx)
    updated.append(step(state, train_state.put_batch(batch)))
  (one_each, figures), *packed = updated
  for state, packed_figures in packed:
    assert figures['weight'] == packed_figures['weight'] == 23
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
      (one_each.opt_state, figures),
      (state.opt_state, packed_figures),
    )


def test_what_is_too_long_is_told_with_its_length():
  for layout in ('packed', 'packed_groups'):
    with pytest.raises(ConfigError, match='max_length is 12, .* 15 tokens'):
      sft.make_batches(_config(12, 2, layout), _examples(), 16, 0)

"""The optimizer against AdamW written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.decoder import abstract_model
from mlagent_jax.optim import decays, make_optimizer, make_schedule


def test_adamw_equals_its_formula():
  rate, decay, b1, b2, eps, clip = 0.1, 0.3, 0.8, 0.9, 1e-3, 1.5
  generator = np.random.default_rng(0)
  w, scale = generator.normal(size=(3, 2)), generator.normal(size=3)
  params = {'w': jnp.float32(w), 'scale': jnp.float32(scale)}
  tx = make_optimizer(
    rate, weight_decay=decay, b1=b1, b2=b2, eps=eps, clip_norm=clip
  )
  state = tx.init(params)
  ours = {'w': w, 'scale': scale}
  m = {k: np.zeros_like(v) for k, v in ours.items()}
  v = {k: np.zeros_like(v) for k, v in ours.items()}
  for t in range(1, 5):
    grads = {k: generator.normal(size=p.shape) for k, p in ours.items()}
    updates, state = tx.update(jax.tree.map(jnp.float32, grads), state, params)
    params = optax.apply_updates(params, updates)
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    for k in ours:
      g = grads[k] * min(1, clip / norm)
      m[k] = b1 * m[k] + (1 - b1) * g
      v[k] = b2 * v[k] + (1 - b2) * g**2
      step = (m[k] / (1 - b1**t)) / (np.sqrt(v[k] / (1 - b2**t)) + eps)
      ours[k] = ours[k] - rate * (step + (decay if k == 'w' else 0) * ours[k])
  for k in ours:
    np.testing.assert_allclose(params[k], ours[k], atol=1e-5)


def test_norms_and_biases_do_not_decay():
  config = ModelConfig(2, 16, 4, 2, 4, 24, 32)
  _, shapes = abstract_model(config)
  kept = {
    jax.tree_util.keystr(path, simple=True, separator='.')
    for path, decay in jax.tree_util.tree_leaves_with_path(decays(shapes))
    if not decay
  }
  assert kept == {
    'blocks.attention_norm.scale.value',
    'blocks.mlp_norm.scale.value',
    'final_norm.scale.value',
    'blocks.attention.bq.value',
    'blocks.attention.bk.value',
    'blocks.attention.bv.value',
  }


def test_schedules():
  def rates(steps, **options):
    rate = make_schedule(2.0, **options)
    return [float(rate(step)) for step in steps]

  assert rates([0, 9], schedule='constant') == [2.0, 2.0]
  warm = rates(range(5), schedule='constant', warmup_steps=3)
  np.testing.assert_allclose(warm, [0.5, 1.0, 1.5, 2.0, 2.0])
  linear = rates(range(6), schedule='linear', total_steps=4)
  np.testing.assert_allclose(linear, [2.0, 1.5, 1.0, 0.5, 0.0, 0.0])
  cosine = rates([1, 2, 4, 6], schedule='cosine', warmup_steps=2, total_steps=6)
  np.testing.assert_allclose(cosine, [4 / 3, 2.0, 1.0, 0.0], atol=1e-6)


def test_bad_options():
  with pytest.raises(ValueError, match="no schedule 'step'"):
    make_optimizer(0.1, schedule='step')
  with pytest.raises(ValueError, match='total_steps above warmup_steps'):
    make_optimizer(0.1, schedule='cosine', warmup_steps=5, total_steps=5)
  with pytest.raises(ValueError, match='clip_norm is 0'):
    make_optimizer(0.1, clip_norm=0)

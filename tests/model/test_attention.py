"""Attention in blocks and contractions against their formulas."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mlagent_jax.model.attention import (
  QUERY_BLOCK,
  causal_attention,
  plain_attention,
  shared_prompt_attention,
)
from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.decoder import abstract_model
from mlagent_jax.model.layout import Layout, right_padded
from mlagent_jax.model.linear import contract


def _random(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _oracle(q, k, v, mask):
  """softmax(q k^T / sqrt(H)) v, one row and one head at a time."""
  out = np.zeros(q.shape)
  heads = q.shape[2] // k.shape[2]
  for b, n in np.ndindex(q.shape[0], q.shape[2]):
    scores = q[b, :, n] @ k[b, :, n // heads].T / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max()) * mask[b]
    weights /= np.maximum(weights.sum(axis=-1, keepdims=True), 1e-30)
    out[b, :, n] = weights @ v[b, :, n // heads]
  return out


ATTENTIONS = [plain_attention, causal_attention, shared_prompt_attention]


def _rows(total, slots):
  """Queries, keys and values, and a layout with two segments and padding."""
  B, T, N, K, H = 2, total, 4, 2, 8
  q = _random(0, B, T, N, H)
  k, v = _random(1, B, T, K, H), _random(2, B, T, K, H)
  order = np.arange(T)
  segments = np.stack([1 + (order > T // 3), order < T - 2]).astype(np.int32)
  return q, k, v, Layout(jnp.int32([order] * 2), segments, slots)


@pytest.mark.parametrize('attend', ATTENTIONS)
@pytest.mark.parametrize(
  'total, slots',
  [
    (5, (2, 1)),
    (5 * QUERY_BLOCK + 3, (2, 5 * QUERY_BLOCK // 4)),  # a slot is a block
    (3 * QUERY_BLOCK, (7, QUERY_BLOCK // 3)),  # three are; the last is short
  ],
)
def test_blocks_of_queries_equal_the_formula(attend, total, slots):
  q, k, v, layout = _rows(total, slots)
  mask = np.asarray(layout.mask())
  out = jax.jit(attend)(q, k, v, layout)
  assert np.isfinite(out).all()
  real = layout.segment_ids != 0
  expected = _oracle(q, k, v, mask)
  np.testing.assert_allclose(out[real], expected[real], atol=1e-5)


@pytest.mark.parametrize('attend', ATTENTIONS)
def test_blocks_of_queries_have_the_gradients_of_the_formula(attend):
  q, k, v, layout = _rows(2 * QUERY_BLOCK + 9, (5, QUERY_BLOCK // 3))
  weight = _random(3, *q.shape) * (layout.segment_ids != 0)[..., None, None]

  def formula(q, k, v, layout):
    k, v = (jnp.repeat(x, 2, axis=2) for x in (k, v))
    scores = jnp.einsum('btnh,bsnh->bnts', q, k) / np.sqrt(q.shape[-1])
    scores = jnp.where(layout.mask()[:, None], scores, -1e9)
    return jnp.einsum('bnts,bsnh->btnh', jax.nn.softmax(scores), v)

  def gradients(attend):
    return jax.grad(
      lambda *qkv: jnp.sum(attend(*qkv, layout) * weight), argnums=(0, 1, 2)
    )(q, k, v)

  for ours, theirs in zip(gradients(attend), gradients(formula), strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
  'equation, x, y',
  [
    ('btd,df->btf', (2, 3, 4), (4, 50)),  # the left operand is the smaller
    ('btf,fd->btd', (2, 3, 50), (50, 4)),  # the output is
    ('btd,dnh->btnh', (2, 3, 4), (4, 3, 5)),
    ('btnh,nhd->btd', (2, 3, 4, 5), (4, 5, 6)),
    ('bkrch,bksh->bkrcs', (2, 3, 2, 5, 4), (2, 3, 7, 4)),
    ('bkrcs,bksh->bkrch', (2, 3, 2, 5, 7), (2, 3, 7, 4)),
  ],
)
def test_contract_has_the_gradients_of_einsum(equation, x, y):
  x, y = _random(0, *x), _random(1, *y)

  def gradients(function):
    weight = _random(2, *np.einsum(equation, x, y).shape)
    return jax.grad(
      lambda x, y: jnp.sum(function(equation, x, y) * weight), argnums=(0, 1)
    )(x, y)

  for ours, theirs in zip(gradients(contract), gradients(jnp.einsum)):
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_remat_computes_again_what_it_says():
  config = ModelConfig(2, 64, 4, 2, 16, 192, 32)
  tokens = np.zeros((2, 32), np.int32)
  layout = right_padded(jnp.array([32, 32]), 32)

  def flops(remat):
    graphdef, shapes = abstract_model(dataclasses.replace(config, remat=remat))

    def loss(params):
      return jnp.sum(nnx.merge(graphdef, params)(tokens, layout))

    # Loops count once in both directions: a block forward and one backward.
    compiled = jax.jit(jax.grad(loss)).lower(shapes).compile()
    return compiled.cost_analysis()['flops']

  block = 2 * 64 * (2 * 64 * (4 + 2) * 16 + 3 * 64 * 192)  # of 2 x 32 tokens
  none, dots, full = map(flops, ('none', 'dots', 'full'))
  assert dots - none < block / 5  # what is elementwise
  assert full - none > block * 4 / 5  # all products but the last


def test_remat_changes_nothing_and_bfloat16_little():
  config = ModelConfig(1, 16, 4, 2, 4, 24, 32, tied_embeddings=True)
  _, shapes = abstract_model(config)
  params = jax.tree.map(lambda s: jnp.asarray(_random(3, *s.shape)) / 4, shapes)
  tokens = np.arange(14, dtype=np.int32).reshape(2, 7)

  def loss_and_gradients(**changes):
    graphdef, _ = abstract_model(dataclasses.replace(config, **changes))

    @jax.jit
    @jax.value_and_grad
    def run(params):
      model = nnx.merge(graphdef, params)
      hidden = model(tokens, right_padded(jnp.array([7, 4]), 7))
      assert hidden.dtype == model.config.dtype
      logits = model.logits(hidden)
      assert logits.dtype == jnp.float32
      return jnp.mean(logits[:, :4] ** 2)

    return run(params)

  expected = loss_and_gradients(remat='none')
  for remat in ('dots', 'full'):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
      loss_and_gradients(remat=remat),
      expected,
    )
  loss, grads = loss_and_gradients(dtype='bfloat16')
  np.testing.assert_allclose(loss, expected[0], rtol=0.05)
  assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(grads))

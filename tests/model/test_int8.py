"""Weights in eight bits against the formula, and against float32."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from mlagent_jax import batching, sampling
from mlagent_jax.model import int8
from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.decoder import make_model, unstack
from mlagent_jax.model.logps import make_compute_logps

CONFIG = ModelConfig(
  num_layers=2,
  embed_dim=64,
  num_heads=4,
  num_kv_heads=2,
  head_dim=16,
  ffn_dim=96,
  vocab_size=61,
)


@pytest.mark.parametrize('shape, inputs', [((9, 5, 4), 1), ((5, 4, 9), 2)])
def test_no_weight_moves_by_more_than_half_a_step(shape, inputs):
  weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  weight[..., 2] = 0  # a channel of nothing
  rounded = int8.quantise(weight, inputs)
  top = np.abs(weight).max(axis=tuple(range(inputs)), keepdims=True)
  error = np.abs(np.asarray(rounded.astype('float32')) - weight)
  assert (error <= top / 127 / 2 * (1 + 1e-5)).all()
  assert rounded.values.dtype == np.int8
  assert np.abs(rounded.values).max() == 127


@functools.cache
def model():
  return make_model(CONFIG, seed=0)


def test_only_the_matrices_of_the_blocks_are_rounded():
  graphdef, params = model()
  weights = unstack(graphdef, params, int8=True)
  block = nnx.merge(*weights.layers[1])
  whole = nnx.merge(graphdef, params).blocks
  for part, name in (('attention', 'wo'), ('mlp', 'down')):
    got = getattr(getattr(block, part), name)[...]
    wanted = getattr(getattr(whole, part), name)[...][1]
    assert isinstance(got, int8.Int8)
    np.testing.assert_allclose(got.astype('float32'), wanted, atol=5e-3)
  assert isinstance(block.mlp_norm.scale[...], jax.Array)
  assert isinstance(block.attention.bq[...], jax.Array)


def test_decoding_in_int8_is_close_to_float32():
  graphdef, params = model()
  room = sampling.Room(4, 1, 4, prompt_length=8, sample_length=8, chunk=8)
  engine = sampling.Engine(
    graphdef, room, stop_ids=(), prompt_multiple=8, int8=True
  )
  engine.load(params)
  prompt = [3, 9, 4, 7, 11]
  request = engine.submit(prompt, sampling.Settings(), range(4))
  while engine.busy:
    engine.step()
  actions = [sample.tokens for sample in request.samples]
  batch = batching.group_layout(
    [prompt], [actions], prompt_length=5, action_length=8
  )
  expected = make_compute_logps(graphdef)(params, batch)[0]
  got = np.array([sample.logps for sample in request.samples])
  error = np.abs(got - expected)
  assert 0 < error.max() < 0.05 and error.mean() < 0.01

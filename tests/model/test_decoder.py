"""The decoder against itself: caches, layouts, packing, remat."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mlagent_jax.model.cache import Seating, empty_cache, store_prompts
from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.decoder import make_model, unstack
from mlagent_jax.model.layout import Layout, right_padded

CONFIG = ModelConfig(
  num_layers=2,
  embed_dim=32,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  ffn_dim=48,
  vocab_size=61,
  tied_embeddings=True,
)


def _tokens(seed, *shape):
  generator = np.random.default_rng(seed)
  return generator.integers(0, CONFIG.vocab_size, shape).astype(np.int32)


def _forward(graphdef):
  @jax.jit
  def forward(params, tokens, layout):
    model = nnx.merge(graphdef, params)
    return model.logits(model(tokens, layout))

  return forward


@pytest.fixture(scope='module')
def model():
  graphdef, params = make_model(CONFIG, seed=0)
  # Biases start at zero and norms at one: move them, so that they count.
  params = jax.tree.map(
    lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape),
    params,
  )
  return graphdef, params


def _shared_layout(lengths, prompt, samples, action):
  """[prompt | G actions], built token by token from the definition."""
  states, total = len(lengths), prompt + samples * action
  positions, segments = np.zeros((2, states, total), np.int32)
  for state, length in enumerate(lengths):
    positions[state, :prompt] = range(prompt)
    segments[state, :length] = 1
    for sample in range(samples):
      here = slice(prompt + sample * action, prompt + (sample + 1) * action)
      positions[state, here] = length + np.arange(action)
      segments[state, here] = 1
  return Layout(*map(jnp.asarray, (positions, segments)), (samples, action))


def test_mask_is_the_rule_of_the_layout():
  layout = _shared_layout([2, 3], prompt=3, samples=2, action=2)
  mask = np.asarray(layout.mask())
  segments = np.asarray(layout.segment_ids)
  slots = [0, 0, 0, 1, 1, 2, 2]
  for b, t, s in np.ndindex(mask.shape):
    sees = (
      s <= t
      and segments[b, s] == segments[b, t] != 0
      and (slots[s] == 0 or slots[s] == slots[t])
    )
    assert mask[b, t, s] == sees


def test_cached_decoding_and_shared_prompt_equal_the_full_forward_pass(model):
  graphdef, params = model
  lengths, P, G, A = [3, 7, 5], 8, 3, 4
  S = len(lengths)
  prompts, actions = _tokens(0, S, P), _tokens(1, S, G, A)
  forward = _forward(graphdef)

  # The reference: every (state, sample) a plain row of its own, no padding.
  full = np.zeros((S, G, A + 1, CONFIG.vocab_size), np.float32)
  for state, length in enumerate(lengths):
    rows = np.concatenate(
      [np.tile(prompts[state, :length], (G, 1)), actions[state]], axis=1
    )
    layout = right_padded(jnp.full(G, rows.shape[1]), rows.shape[1])
    full[state] = forward(params, rows, layout)[:, length - 1 :]

  # All but a prompt's last token is stored; its samples begin with that.
  last = prompts[np.arange(S), np.array(lengths) - 1]
  sizes = {'prompt_length': P, 'sample_length': A + 1}
  weights = jax.jit(lambda params: unstack(graphdef, params))(params)

  @jax.jit
  def prefill(params, tokens, lengths, rows):
    cache = empty_cache(CONFIG, shards=1, rows=S, slots=S * G, **sizes)
    for row in range(S):
      pair = nnx.merge(graphdef, params).prefill(
        tokens[row : row + 1], lengths[row : row + 1]
      )
      cache = store_prompts(cache, *pair, rows[row : row + 1])
    return cache

  @jax.jit
  def decode(weights, tokens, cache, seating):
    model = nnx.merge(*weights.rest)
    blocks = [nnx.merge(*layer) for layer in weights.layers]
    hidden, cache = model.decode(blocks, tokens, cache, seating)
    return model.logits(hidden), cache

  # Slots sit anywhere: slot (state, sample) is slot places[state, sample].
  rng = np.random.default_rng(2)
  rows, places = rng.permutation(S), rng.permutation(S * G).reshape(S, G)
  seats, slots = np.zeros((1, S * G), int), np.zeros((1, S, G), int)
  stored = np.zeros((1, S), int)
  for s, g in np.ndindex(S, G):
    stored[0, rows[s]] = lengths[s] - 1
    slots[0, rows[s], g] = places[s, g]
    seats[0, places[s, g]] = rows[s] * G + g
  cache = prefill(params, prompts, jnp.asarray(lengths) - 1, rows)
  tokens = np.concatenate(
    [np.broadcast_to(last[:, None, None], (S, G, 1)), actions], axis=2
  )
  for step in range(A + 1):
    batch = np.zeros((1, S * G), int)
    batch[0, places] = tokens[:, :, step]
    seating = Seating(stored, slots, seats, np.full((1, S * G), step))
    logits, cache = decode(weights, batch, cache, seating)
    got = np.asarray(logits)[0, places]
    np.testing.assert_allclose(got, full[:, :, step], atol=1e-5)

  # The training layout of the same tokens.
  shared = np.concatenate([prompts, actions.reshape(S, G * A)], axis=1)
  layout = _shared_layout(lengths, P, G, A)
  logits = np.asarray(forward(params, shared, layout))
  in_actions = logits[:, P:].reshape(S, G, A, -1)
  np.testing.assert_allclose(in_actions, full[:, :, 1:], atol=2e-5)
  last = logits[np.arange(S), np.asarray(lengths) - 1]
  np.testing.assert_allclose(last, full[:, 0, 0], atol=2e-5)


def test_packed_equals_unpacked(model):
  graphdef, params = model
  forward = _forward(graphdef)
  lengths, total = [5, 3, 6], 16
  examples = [_tokens(seed, 1, n) for seed, n in enumerate(lengths)]
  row = np.zeros((1, total), np.int32)
  positions, segments = np.zeros((2, 1, total), np.int32)
  starts = np.cumsum([0, *lengths[:-1]])
  for number, (start, example) in enumerate(zip(starts, examples)):
    here = slice(start, start + example.shape[1])
    row[:, here] = example
    positions[:, here] = np.arange(example.shape[1])
    segments[:, here] = number + 1
  layout = Layout(*map(jnp.asarray, (positions, segments)))
  packed = np.asarray(forward(params, row, layout))
  assert np.isfinite(packed).all()  # padding included
  for start, example in zip(starts, examples):
    n = example.shape[1]
    alone = forward(params, example, right_padded(jnp.array([n]), n))
    np.testing.assert_allclose(packed[:, start : start + n], alone, atol=2e-5)

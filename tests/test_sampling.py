"""The sampler against full forward passes and exact distributions."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx

from mlagent_jax import batching, sampling
from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.decoder import make_model
from mlagent_jax.model.layout import right_padded
from mlagent_jax.model.logps import make_compute_logps
from mlagent_jax.model.sharding import make_mesh

V = 31
CONFIG = ModelConfig(
  num_layers=2,
  embed_dim=16,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  ffn_dim=24,
  vocab_size=V,
  tied_embeddings=True,
)
PROMPTS = [[3, 9, 4, 7, 11], [5, 2], [8]]
G, A = 4, 7
STOPS = (6, 17, 20)
TEMPERATURE = 0.7
SEEDS = np.arange(len(PROMPTS) * G, dtype=np.uint32).reshape(-1, G) + 40


@functools.cache
def model():
  graphdef, params = make_model(CONFIG, seed=0)
  # Far from uniform, so that a wrong distribution shows.
  return graphdef, jax.tree.map(lambda x: x * 5 if x.ndim > 1 else x, params)


@functools.cache
def sampler(**options):
  options = {
    'samples_per_prompt': G,
    'max_new_tokens': A,
    'stop_ids': STOPS,
    'temperature': TEMPERATURE,
    'prompt_multiple': 4,
    **options,
  }
  return sampling.make_sampler(model()[0], **options)


def draw(prompts, seeds, width=8, **options):
  tokens = np.zeros((len(prompts), width), np.int32)
  for row, prompt in enumerate(prompts):
    tokens[row, : len(prompt)] = prompt
  lengths = [len(prompt) for prompt in prompts]
  samples = sampler(**options)(model()[1], tokens, lengths, seeds)
  return sampling.Samples(*map(np.asarray, samples))


def actions_of(samples):
  return [
    [
      samples.tokens[s, g, : int(samples.mask[s, g].sum())].tolist()
      for g in range(samples.tokens.shape[1])
    ]
    for s in range(samples.tokens.shape[0])
  ]


def test_samples_end_with_their_stop_token():
  samples = draw(PROMPTS, SEEDS)
  lengths = []
  for s, g in np.ndindex(samples.finished.shape):
    n = int(samples.mask[s, g].sum())
    tokens = samples.tokens[s, g]
    lengths.append(n)
    assert n >= 1
    np.testing.assert_array_equal(samples.mask[s, g], np.arange(A) < n)
    assert not np.isin(tokens[: n - 1], STOPS).any()
    assert samples.finished[s, g] == (tokens[n - 1] in STOPS)
    assert samples.finished[s, g] or n == A
    assert not tokens[n:].any() and not samples.logps[s, g, n:].any()
  # The test sees samples that stop early, later and not at all.
  assert len(set(lengths)) > 2 and not samples.finished.all()


def test_logps_equal_the_trainers():
  samples = draw(PROMPTS, SEEDS)
  batch = batching.group_layout(
    PROMPTS, actions_of(samples), prompt_length=6, action_length=A
  )
  np.testing.assert_array_equal(batch['mask'], samples.mask)
  compute = make_compute_logps(model()[0], temperature=TEMPERATURE)
  expected = compute(model()[1], batch) * batch['mask']
  np.testing.assert_allclose(samples.logps, expected, atol=2e-5)


def test_a_sample_does_not_depend_on_its_batch():
  expected = draw(PROMPTS, SEEDS)
  order = [2, 0, 1]
  moved = draw([PROMPTS[i] for i in order], SEEDS[order])
  alone = draw(PROMPTS[1:2], SEEDS[1:2])
  columns = draw(PROMPTS, SEEDS[:, ::-1])
  for field in ('tokens', 'mask', 'finished'):
    whole = getattr(expected, field)
    np.testing.assert_array_equal(getattr(moved, field), whole[order])
    np.testing.assert_array_equal(getattr(alone, field), whole[1:2])
    np.testing.assert_array_equal(getattr(columns, field), whole[:, ::-1])
  again = draw(PROMPTS, SEEDS)
  np.testing.assert_array_equal(again.logps, expected.logps)
  assert (draw(PROMPTS, SEEDS + 99).tokens != expected.tokens).any()


def test_a_row_without_a_prompt_is_empty():
  samples = draw([*PROMPTS[:2], []], SEEDS)
  assert not samples.mask[2].any() and not samples.tokens[2].any()
  np.testing.assert_array_equal(
    samples.tokens[:2], draw(PROMPTS, SEEDS).tokens[:2]
  )


def test_a_mesh_draws_the_same_samples():
  config = dataclasses.replace(CONFIG, vocab_size=32, num_kv_heads=4)
  prompts = np.random.default_rng(0).integers(1, 32, (4, 8), dtype=np.int32)
  lengths = np.array([8, 3, 0, 5])
  seeds = np.arange(8, dtype=np.uint32).reshape(4, 2)
  found = []
  for mesh in (None, make_mesh(2, 2, 2, devices=jax.devices()[:8])):
    graphdef, params = make_model(config, 0, mesh)
    sample = sampling.make_sampler(
      graphdef,
      samples_per_prompt=2,
      max_new_tokens=5,
      stop_ids=STOPS,
      prompt_multiple=8,
      mesh=mesh,
    )
    samples = sample(params, prompts, lengths, seeds)
    found.append(jax.tree.map(np.asarray, samples))
  np.testing.assert_array_equal(found[0].tokens, found[1].tokens)
  np.testing.assert_array_equal(found[0].mask, found[1].mask)
  np.testing.assert_allclose(found[0].logps, found[1].logps, atol=1e-5)
  with pytest.raises(ValueError, match='3 is not divisible by the 4 devices'):
    sample(params, prompts[:3], lengths[:3], seeds[:3])


def full_logits(prompts, actions):
  """[rows, T, V] by one plain forward pass, a row a sequence."""
  graphdef, params = model()
  rows = [[*prompt, *action] for prompt, action in zip(prompts, actions)]
  tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
  for row, ids in enumerate(rows):
    tokens[row, : len(ids)] = ids

  @jax.jit
  def forward(params, tokens, lengths):
    decoder = nnx.merge(graphdef, params)
    layout = right_padded(lengths, tokens.shape[1])
    return decoder.logits(decoder(tokens, layout))

  return np.asarray(forward(params, tokens, jnp.array([*map(len, rows)])))


def test_greedy_is_the_argmax_of_full_forward_passes():
  samples = draw(
    PROMPTS, SEEDS[:, :1], temperature=0.0, samples_per_prompt=1, stop_ids=()
  )
  assert samples.mask.all() and not samples.finished.any()
  actions = samples.tokens[:, 0].tolist()
  logits = full_logits(PROMPTS, actions)
  logps = np.asarray(jax.nn.log_softmax(logits))
  for row, prompt in enumerate(PROMPTS):
    predicting = len(prompt) - 1 + np.arange(A)
    best = logits[row, predicting].argmax(axis=-1)
    np.testing.assert_array_equal(actions[row], best)
    np.testing.assert_allclose(
      samples.logps[row, 0], logps[row, predicting, best], atol=2e-5
    )


def chi_square(tokens, probs):
  """The p-value of the counts of tokens; rare tokens are taken together."""
  counts = np.bincount(tokens, minlength=len(probs))
  expected = probs / probs.sum() * len(tokens)
  assert not counts[expected == 0].any()
  rare = expected < 5
  pool = np.append(expected[~rare], expected[rare].sum())
  seen = np.append(counts[~rare], counts[rare].sum())
  kept = pool > 0
  if kept.sum() == 1:  # a certain token, and nothing else was seen
    return 1.0
  return scipy.stats.chisquare(seen[kept], pool[kept]).pvalue


def test_the_model_is_sampled_from_its_own_distribution():
  many = 4000
  seeds = np.arange(many, dtype=np.uint32)[None]
  samples = draw(
    PROMPTS[:1],
    seeds,
    samples_per_prompt=many,
    max_new_tokens=2,
    stop_ids=(),
  )
  first, second = samples.tokens[0].T
  common = int(np.bincount(first).argmax())
  logits = full_logits(PROMPTS[:1], [[common]])[0] / TEMPERATURE
  probs = np.exp(np.asarray(jax.nn.log_softmax(logits), np.float64))
  at = len(PROMPTS[0]) - 1
  assert chi_square(first, probs[at]) > 0.001
  given = second[first == common]
  assert len(given) > 300
  assert chi_square(given, probs[at + 1]) > 0.001


LOGITS = {
  'tiny': np.array([0.5, -1.0, 2.0, 0.0, 1.5]),
  'wide': np.random.default_rng(0).normal(scale=2.0, size=300),
}


def nucleus(probs, top_k, top_p):
  """The renormalised distribution, by a loop over sorted tokens."""
  order = np.argsort(-probs)
  order = order[:top_k] if top_k else order
  kept = np.zeros_like(probs)
  kept[order] = probs[order]
  kept /= kept.sum()
  out, mass = np.zeros_like(probs), 0.0
  for token in order:
    if mass < top_p:
      out[token] = kept[token]
      mass += kept[token]
  return out / out.sum()


@pytest.mark.parametrize('name', LOGITS)
@pytest.mark.parametrize(
  'top_k, top_p', [(0, 1.0), (3, 1.0), (0, 0.8), (4, 0.9), (1, 1.0)]
)
def test_choose(name, top_k, top_p):
  logits, count = LOGITS[name], 20_000
  uniform = sampling.uniforms(jnp.arange(count, dtype=jnp.uint32), 3)
  tokens, logps = sampling.choose(
    jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (count, len(logits))),
    uniform,
    temperature=1.3,
    top_k=top_k,
    top_p=top_p,
  )
  probs = np.exp(logits / 1.3) / np.exp(logits / 1.3).sum()
  allowed = nucleus(probs, top_k, top_p)
  assert chi_square(np.asarray(tokens), allowed) > 0.001
  # Log-probabilities are of the whole distribution.
  np.testing.assert_allclose(logps, np.log(probs)[tokens], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('size', [1, 5, 128, 129, 1000])
def test_inverting_the_cumulative_distribution(size):
  rng = np.random.default_rng(size)
  weights = rng.uniform(size=size) * (rng.uniform(size=size) < 0.7)
  weights[rng.integers(size)] = 1.0
  uniform = np.append(rng.uniform(size=500), [0.0, 1 - 2.0**-24])
  got = sampling._invert(
    jnp.broadcast_to(jnp.asarray(weights, jnp.float32), (502, size)),
    jnp.asarray(uniform, jnp.float32),
  )
  upto = np.cumsum(weights)
  expected = np.searchsorted(upto, uniform * upto[-1], side='right')
  # Rounding may decide between neighbours at an edge.
  assert (np.asarray(got) == np.minimum(expected, size - 1)).mean() > 0.98
  assert (weights[np.asarray(got)] > 0).all()


@pytest.mark.parametrize(
  'option, value',
  [
    ('temperature', -1.0),
    ('top_p', 0.0),
    ('top_k', -1),
    ('max_new_tokens', 0),
    ('samples_per_prompt', 0),
  ],
)
def test_options_out_of_range(option, value):
  with pytest.raises(ValueError, match=f'{option} is {value}'):
    sampler(**{option: value})


def test_shapes_that_disagree():
  tokens = np.ones((2, 8), np.int32)
  with pytest.raises(ValueError, match=r'seeds \(2, 4\), not \(2,\) and'):
    sampler()(model()[1], tokens, [1, 1], np.zeros((2, 3)))
  with pytest.raises(ValueError, match='padded to 8 tokens, .* 1 to 9'):
    sampler()(model()[1], tokens, [1, 9], np.zeros((2, 4)))

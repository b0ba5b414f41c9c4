"""The sampler against full forward passes and exact distributions."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx

from mlagent_jax import batching, sampling
from mlagent_jax.aot import hlo
from mlagent_jax.model import cache
from mlagent_jax.model.cache import Seating
from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.decoder import make_model
from mlagent_jax.model.layout import right_padded
from mlagent_jax.model.logps import make_compute_logps
from mlagent_jax.model.sharding import batch_sharding, make_mesh
from mlagent_jax.sampling import drawing
from mlagent_jax.sampling.programs import Slots

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


class Samples(NamedTuple):
  """What was drawn, padded: [S, G, A] each, and [S, G]."""

  tokens: np.ndarray
  logps: np.ndarray
  mask: np.ndarray
  finished: np.ndarray


def engine(*, prompt_length=8, stop_ids=STOPS, mesh=None, **room):
  sizes = {'slots': 5, 'rows': 2, 'seats': 4, 'chunk': 3, **room}
  room = sampling.Room(prompt_length=prompt_length, sample_length=A, **sizes)
  return make_engine(room, stop_ids, mesh)


@functools.cache
def make_engine(room, stop_ids, mesh):
  made = sampling.Engine(
    model()[0], room, stop_ids=stop_ids, mesh=mesh, prompt_multiple=4
  )
  made.load(model()[1])
  return made


def few_slots():
  """Without stop tokens, and with chunks of two."""
  return engine(stop_ids=(), slots=4, rows=2, seats=4, chunk=2)


def run(here):
  while here.busy:
    here.step()


def padded(requests):
  S, G = len(requests), len(requests[0].samples)
  samples = Samples(*np.zeros((3, S, G, A)), np.zeros((S, G), bool))
  for s, g in np.ndindex(S, G):
    sample = requests[s].samples[g]
    n = len(sample.tokens)
    samples.tokens[s, g, :n] = sample.tokens
    samples.logps[s, g, :n] = sample.logps
    samples.mask[s, g, :n] = 1
    samples.finished[s, g] = sample.ended_by == 'stop_token'
    assert samples.finished[s, g] or sample.ended_by == 'length'
  return samples._replace(tokens=samples.tokens.astype(int))


def draw(prompts, seeds, *, temperature=TEMPERATURE, max_tokens=A, here=None):
  """One request a prompt, all at once."""
  here = here or engine()
  settings = sampling.Settings(temperature=temperature, max_tokens=max_tokens)
  requests = [
    here.submit(prompt, settings, row) for prompt, row in zip(prompts, seeds)
  ]
  run(here)
  assert all(request.done for request in requests)
  return padded(requests)


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
  np.testing.assert_allclose(samples.logps, expected, atol=1e-5)


def test_a_sample_does_not_depend_on_its_batch():
  """Bit for bit, in any slot, after any wait, whoever the neighbours are."""
  expected = draw(PROMPTS, SEEDS)
  order = [2, 0, 1]
  moved = draw([PROMPTS[i] for i in order], SEEDS[order])
  for got, wanted in zip(moved, expected):
    np.testing.assert_array_equal(got, wanted[order])
  alone = draw(PROMPTS[1:2], SEEDS[1:2])
  for got, wanted in zip(alone, expected):
    np.testing.assert_array_equal(got, wanted[1:2])
  backwards = draw(PROMPTS, SEEDS[:, ::-1])
  for got, wanted in zip(backwards, expected):
    np.testing.assert_array_equal(got, wanted[:, ::-1])
  assert (draw(PROMPTS, SEEDS + 99).tokens != expected.tokens).any()
  # Other sizes are another program: the same tokens, but for rounding.
  other = draw(PROMPTS, SEEDS, here=few_slots())
  for field in ('tokens', 'logps'):
    got = getattr(other, field) * expected.mask
    np.testing.assert_allclose(got, getattr(expected, field), atol=1e-5)


def test_long_neighbours_do_not_touch_a_bit(monkeypatch):
  """Segments that only others reach add exactly nothing."""
  monkeypatch.setattr(cache, '_FIRST_SEGMENT', 4)
  here = sampling.Engine(
    model()[0],
    sampling.Room(5, 2, 4, prompt_length=30, sample_length=A, chunk=3),
    stop_ids=(),
    prompt_multiple=4,
  )
  here.load(model()[1])
  settings = sampling.Settings(temperature=TEMPERATURE)
  found = []
  for others in ([], [list(range(1, 30))], [[9, 4], [7] * 21]):
    requests = [here.submit(p, settings, [1, 2]) for p in (*others, [5, 2, 8])]
    run(here)
    found.append(requests[-1].samples)
  assert len(here._cache.prompts[0]) > 2  # segments
  assert found[0] == found[1] == found[2]
  # And what many segments give is right.
  (sample, _), prompt = requests[-2].samples, [7] * 21
  logits = full_logits([prompt], [sample.tokens])[0, 20:-1] / TEMPERATURE
  logps = np.asarray(jax.nn.log_softmax(logits))
  np.testing.assert_allclose(
    sample.logps, logps[np.arange(A), sample.tokens], atol=1e-5
  )


def test_a_free_slot_takes_the_next_sample_at_once():
  here = few_slots()
  lengths = [7, 5, 1, 4, 3, 1, 6, 2, 5, 1]
  samples = [
    here.submit([3], sampling.Settings(max_tokens=n), [n]).samples[0]
    if n % 2
    else here.submit([9, 9], sampling.Settings(max_tokens=n), [n]).samples[0]
    for n in lengths
  ]
  turns = 0
  while here.busy:
    before = [len(sample.tokens) for sample in samples]
    here.step()
    grew = np.subtract([len(sample.tokens) for sample in samples], before)
    turns += grew.max()
    if here.waiting:  # then no slot was idle for a single token
      assert sorted(grew)[-4:] == [grew.max()] * 4
  assert [len(sample.tokens) for sample in samples] == lengths
  assert turns <= 10  # 35 tokens in 4 slots


def test_a_prompt_with_more_samples_than_seats_takes_another_row():
  here = engine()
  many = here.submit([3, 4], sampling.Settings(), [7] * 6)
  other = here.submit([5], sampling.Settings(), [0])
  here.step()
  began = [bool(sample.tokens) for sample in many.samples]
  assert began == [1, 1, 1, 1, 1, 0]  # four seats and one, five slots
  assert not other.samples[0].tokens
  run(here)
  assert many.samples == [many.samples[0]] * 6 and other.done


def test_a_cancelled_request_frees_its_slots():
  here = few_slots()
  doomed = here.submit([3, 4], sampling.Settings(), range(6))
  other = here.submit([5], sampling.Settings(), [0])
  here.step()
  assert (here.live, here.waiting) == (4, 3)
  here.cancel(doomed)
  assert (here.live, here.waiting) == (0, 1) and doomed.done
  assert {sample.ended_by for sample in doomed.samples} == {'cancelled'}
  assert [len(sample.tokens) for sample in doomed.samples] == [2] * 4 + [0] * 2
  run(here)
  assert len(other.samples[0].tokens) == A


def test_a_request_ends_where_its_own_stop_says():
  here = few_slots()
  settings = sampling.Settings(temperature=TEMPERATURE)
  plain = here.submit(PROMPTS[0], settings, SEEDS[0])
  run(here)
  for at in (2, 3):  # the last of a chunk, and the first
    wanted = plain.samples[0].tokens[at]

    def stop(ids, wanted=wanted):
      return ids.index(wanted) + 1 if wanted in ids else None

    request = here.submit(PROMPTS[0], settings, SEEDS[0], stop)
    run(here)
    for sample, whole in zip(request.samples, plain.samples):
      kept = stop(whole.tokens) or A
      assert sample.tokens == whole.tokens[:kept]
      assert sample.logps == whole.logps[:kept]
      assert sample.ended_by == ('stop' if stop(whole.tokens) else 'length')


def test_new_parameters_forget_the_prompts():
  here = engine()
  expected = draw(PROMPTS, SEEDS)
  other = jax.tree.map(lambda x: -x, model()[1])
  here.load(other)
  requests = [
    here.submit(p, sampling.Settings(), s) for p, s in zip(PROMPTS, SEEDS)
  ]
  with pytest.raises(RuntimeError, match='samples of other parameters'):
    here.load(model()[1])
  run(here)
  assert (padded(requests).tokens != expected.tokens).any()
  here.load(model()[1])
  np.testing.assert_array_equal(draw(PROMPTS, SEEDS).logps, expected.logps)


def test_settings_of_one_batch_may_differ():
  here = few_slots()
  mixed = [
    sampling.Settings(temperature=0.0),
    sampling.Settings(temperature=TEMPERATURE, top_k=2),
    sampling.Settings(temperature=2.0, top_p=0.5, max_tokens=4),
  ]
  found = []
  for together in (True, False):
    requests = []
    for settings, prompt, seeds in zip(mixed, PROMPTS, SEEDS):
      requests.append(here.submit(prompt, settings, seeds[:2]))
      if not together:
        run(here)
    run(here)
    found.append([request.samples for request in requests])
  assert found[0] == found[1]
  lengths = [[len(s.tokens) for s in samples] for samples in found[0]]
  assert lengths == [[A, A], [A, A], [4, 4]]


def test_a_mesh_draws_the_same_samples():
  config = dataclasses.replace(CONFIG, vocab_size=32, num_kv_heads=4)
  rng = np.random.default_rng(0)
  prompts = [rng.integers(1, 32, n).tolist() for n in (8, 3, 5, 2, 1, 6)]
  found = []
  for mesh in (None, make_mesh(2, 2, 2, devices=jax.devices()[:8])):
    graphdef, params = make_model(config, 0, mesh)
    room = sampling.Room(
      *(8, 4, 2), prompt_length=8, sample_length=5, shards=4 if mesh else 1
    )
    here = sampling.Engine(
      graphdef, room, stop_ids=STOPS, mesh=mesh, prompt_multiple=8
    )
    here.load(params)
    requests = [
      here.submit(prompt, sampling.Settings(), [2 * n, 2 * n + 1])
      for n, prompt in enumerate(prompts)
    ]
    run(here)
    found.append(requests)
  for alone, split in zip(*found):
    for one, other in zip(alone.samples, split.samples):
      assert one.tokens == other.tokens and one.ended_by == other.ended_by
      np.testing.assert_allclose(one.logps, other.logps, atol=1e-5)
  with pytest.raises(ValueError, match='6 slots are not divisible by the 4'):
    sampling.Room(6, 4, 2, prompt_length=8, sample_length=5, shards=4)


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
  samples = draw(PROMPTS, SEEDS[:, :1], temperature=0.0, here=few_slots())
  assert samples.mask.all() and not samples.finished.any()
  actions = samples.tokens[:, 0].tolist()
  logits = full_logits(PROMPTS, actions)
  logps = np.asarray(jax.nn.log_softmax(logits))
  for row, prompt in enumerate(PROMPTS):
    predicting = len(prompt) - 1 + np.arange(A)
    best = logits[row, predicting].argmax(axis=-1)
    np.testing.assert_array_equal(actions[row], best)
    np.testing.assert_allclose(
      samples.logps[row, 0], logps[row, predicting, best], atol=1e-5
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
    max_tokens=2,
    here=engine(stop_ids=(), slots=many, seats=many),
  )
  first, second = samples.tokens[0, :, :2].T
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
  got = drawing._invert(
    jnp.broadcast_to(jnp.asarray(weights, jnp.float32), (502, size)),
    jnp.asarray(uniform, jnp.float32),
  )
  upto = np.cumsum(weights)
  expected = np.searchsorted(upto, uniform * upto[-1], side='right')
  # Rounding may decide between neighbours at an edge.
  assert (np.asarray(got) == np.minimum(expected, size - 1)).mean() > 0.98
  assert (weights[np.asarray(got)] > 0).all()


def test_inverting_at_the_edges_of_blocks_never_takes_what_has_no_weight():
  rng = np.random.default_rng(0)
  weights = rng.uniform(size=(64, drawing._BLOCK)).astype(np.float32)
  weights[:, 0] = 0  # the first of every block
  weights = jnp.asarray(weights.reshape(-1))
  upto = jnp.cumsum(jnp.sum(weights.reshape(64, -1), axis=-1))
  edges = np.asarray(upto[:-1] / upto[-1])[:, None]
  near = edges + np.arange(-32, 33) * 2.0**-23
  uniform = jnp.asarray(np.floor(near * 2**23) / 2**23, jnp.float32).reshape(-1)
  got = jax.vmap(drawing._invert, in_axes=(None, 0))(weights, uniform)
  assert (np.asarray(weights)[np.asarray(got)] > 0).all()


@pytest.mark.parametrize(
  'option, value',
  [('temperature', -1.0), ('top_p', 0.0), ('top_k', -1), ('max_tokens', 0)],
)
def test_options_out_of_range(option, value):
  with pytest.raises(ValueError, match=f'{option} is {value}'):
    sampling.Settings(**{option: value})


def test_what_does_not_fit_the_room():
  with pytest.raises(ValueError, match='rows is 0'):
    sampling.Room(4, 0, 1, prompt_length=8, sample_length=4)
  for prompt in ([], [1] * 9):
    with pytest.raises(ValueError, match=rf'prompt of {len(prompt)} .* is 8'):
      engine().submit(prompt, sampling.Settings(), [0])
  with pytest.raises(ValueError, match='max_tokens is 8; the limit is 7'):
    engine().submit([1], sampling.Settings(max_tokens=8), [0])


def test_prompts_are_padded_by_a_quarter_at_most():
  for length in range(1, 5000):
    bucket = sampling.prefill_bucket(length)
    assert bucket >= length and bucket % 64 == 0
    assert bucket - length < max(64, length / 4)
  assert len({sampling.prefill_bucket(n) for n in range(1, 4097)}) == 20


def test_decoding_on_a_mesh_does_not_gather_the_weights():
  """They are laid out for decoding once, when they are loaded."""
  mesh = make_mesh(1, 4, 2, devices=jax.devices()[:8])
  config = dataclasses.replace(
    CONFIG, embed_dim=64, ffn_dim=256, vocab_size=512, num_kv_heads=4
  )
  graphdef, params = make_model(config, 0, mesh)
  room = sampling.Room(8, 4, 2, prompt_length=8, sample_length=4, shards=4)
  programs = sampling.make_programs(graphdef, room, STOPS, mesh)
  weights = programs.prepare(params)
  cache = programs.allocate(weights)
  place = batch_sharding(mesh)

  def zeros(*shape, dtype='int32'):
    return jax.device_put(np.zeros(shape, dtype), place)

  each, real = zeros(4, 2), zeros(4, 2, dtype='float32')
  done, seeds = zeros(4, 2, dtype='bool'), zeros(4, 2, dtype='uint32')
  slots = Slots(each, done, each, seeds, real, real, each, each)
  seating = Seating(zeros(4, 1), zeros(4, 1, 2), each, each)
  arguments = weights, cache, slots, seating, np.int32(8), None
  text = programs.decode.lower(*arguments).compile().as_text()
  size = sum(x.nbytes for x in jax.tree.leaves(params))
  sent = hlo.traffic(text, 8).sent_bytes
  assert sum(sent.values()) / room.chunk < size / 20
  # In eight bits they are laid out alike.
  rounded = sampling.make_programs(graphdef, room, STOPS, mesh, int8=True)
  for layer, other in zip(weights.layers, rounded.prepare(params).layers):
    for name in ('gate', 'up', 'down'):
      wanted = layer[1]['mlp'][name][...].sharding
      found = other[1]['mlp'][name].get_value()
      assert found.values.sharding == wanted and 'fsdp' not in wanted.spec

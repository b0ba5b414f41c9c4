"""Chunked log-probabilities, and layouts against one sequence at a time."""

import dataclasses
import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mlagent_jax import batching, losses, packed_groups, train_state
from mlagent_jax.batching import Example
from mlagent_jax.model import logps as model_logps
from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.decoder import frozen, make_model
from mlagent_jax.model.layout import right_padded
from mlagent_jax.model.sharding import logical_sharding, make_mesh, on_mesh

V = 61
CONFIG = ModelConfig(
  num_layers=2,
  embed_dim=16,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  ffn_dim=24,
  vocab_size=V,
)
PROMPTS = [[3, 9, 4, 7, 11], [5, 2], [8]]
ACTIONS = [
  [[10, 12, 14], [20, 21, 22, 23], [30]],
  [[31, 32], [33], [40, 41, 42]],
  [[50, 51, 52, 53], [54, 55], []],
]
A = 4


@pytest.fixture(scope='module')
def model():
  graphdef, params = make_model(CONFIG, seed=0)
  # Tenfold, so that attention and the distributions are far from uniform.
  return graphdef, jax.tree.map(lambda x: x * 10 if x.ndim > 2 else x, params)


def packed_batch(rows, length):
  batch = packed_groups.packed_layout(
    PROMPTS,
    ACTIONS,
    rows=rows,
    length=length,
    action_length=A,
    samples=3,
    pad_id=1,
  )
  # None is empty: there are as many rows as are needed.
  assert batch['segment_ids'].any(axis=1).all()
  return jax.tree.map(jnp.asarray, batch)


def group_batch():
  batch = batching.group_layout(
    PROMPTS, ACTIONS, prompt_length=7, action_length=A, pad_id=1
  )
  return jax.tree.map(jnp.asarray, batch)


SEQUENCES = [
  (s, g, PROMPTS[s], action)
  for s, group in enumerate(ACTIONS)
  for g, action in enumerate(group)
  if action
]


def one_row_each(model, temperature=1.0):
  """log p(action | prompt) [N, A] and its mask: a plain row a sequence."""
  N, T = len(SEQUENCES), 10
  tokens = np.zeros((N, T), np.int32)
  mask = np.zeros((N, A), np.float32)
  predicting, targets = np.zeros((2, N, A), np.int32)
  for row, (_, _, prompt, action) in enumerate(SEQUENCES):
    n = len(action)
    tokens[row, : len(prompt) + n] = [*prompt, *action]
    predicting[row, :n] = len(prompt) - 1 + np.arange(n)
    targets[row, :n] = action
    mask[row, :n] = 1
  lengths = jnp.array([len(p) + len(a) for _, _, p, a in SEQUENCES])
  logits = model.logits(model(jnp.asarray(tokens), right_padded(lengths, T)))
  logps = jax.nn.log_softmax(logits / temperature, axis=-1)
  return logps[np.arange(N)[:, None], predicting, targets], mask


def naive(hidden, head, targets, temperature):
  logits = jnp.einsum('btd,dv->btv', hidden, head) / temperature
  logps = jax.nn.log_softmax(logits, axis=-1)
  picked = jnp.take_along_axis(logps, targets[..., None], axis=-1)[..., 0]
  return picked, -jnp.sum(jnp.exp(logps) * logps, axis=-1)


@pytest.mark.parametrize('temperature', [0.7, (0.7, 1.3)], ids=str)
@pytest.mark.parametrize(
  'chunk, split',
  [(4, None), (64, None), (None, None), (4, (2, 2)), (None, (2, 2))],
)
def test_chunks_equal_the_whole(chunk, split, temperature):
  B, T, D, V = 2, 10, 8, 60
  mesh = make_mesh(1, *split, jax.devices()[:4]) if split else None
  rng = np.random.default_rng(0)
  hidden = jnp.asarray(rng.normal(size=(B, T, D)), jnp.float32)
  head = jnp.asarray(rng.normal(size=(D, V)), jnp.float32)
  targets = jnp.asarray(rng.integers(V, size=(B, T)))
  weights = jnp.asarray(rng.normal(size=(2, B, T)), jnp.float32)

  def value(function, hidden, head):
    logps, entropy = function(hidden, head)
    return jnp.sum(weights[0] * logps + weights[1] * entropy), (logps, entropy)

  def run(function):
    @jax.jit
    def gradients(hidden, head):
      return jax.value_and_grad(value, argnums=(1, 2), has_aux=True)(
        function, hidden, head
      )

    where = None if mesh is None else logical_sharding(mesh, ())
    return gradients(*jax.device_put((hidden, head), where))

  def ours(hidden, head):
    with on_mesh(mesh):
      return model_logps.token_logps(
        hidden,
        head,
        targets,
        chunk=chunk,
        temperature=of_rows,
        entropy_gradient=True,
      )

  of_rows, divisor = temperature, temperature
  if isinstance(temperature, tuple):
    of_rows = jnp.float32(temperature)
    divisor = of_rows[:, None, None]
  got = run(ours)
  expected = run(lambda hidden, head: naive(hidden, head, targets, divisor))
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-5),
    got,
    expected,
  )


def largest_array(jaxpr):
  """Elements of the largest array in a jaxpr and in all that it calls."""
  largest = 0
  for equation in jaxpr.eqns:
    for variable in equation.outvars:
      largest = max(largest, getattr(variable.aval, 'size', 0))
    for sub in jax.extend.core.jaxprs_in_params(equation.params):
      largest = max(largest, largest_array(sub))
  return largest


def test_all_logits_never_exist_at_once():
  B, T, D, wide, chunk = 2, 64, 8, 500, 8
  hidden = jnp.zeros((B, T, D))
  head = jnp.zeros((D, wide))
  targets = jnp.zeros((B, T), jnp.int32)

  def loss(hidden, head):
    logps, entropy = model_logps.token_logps(
      hidden, head, targets, chunk=chunk, entropy_gradient=True
    )
    return logps.sum() + entropy.sum()

  gradient = jax.grad(loss, argnums=(0, 1))
  jaxpr = jax.make_jaxpr(gradient)(hidden, head).jaxpr
  assert largest_array(jaxpr) == B * chunk * wide


def products(jaxpr):
  """How many products a jaxpr and all that it calls have."""
  return sum(
    (equation.primitive.name == 'dot_general')
    + sum(map(products, jax.extend.core.jaxprs_in_params(equation.params)))
    for equation in jaxpr.eqns
  )


@pytest.mark.parametrize(
  'wide, chunk, computed',
  [(2**15, 512, 3), (2**15 + 1, 128, 4), (152_064, 128, 4)],
)
def test_logits_of_half_a_gibibyte_are_kept(wide, chunk, computed):
  B, T, D = 8, 512, 8
  shapes = [(B, T, D), (D, wide)]
  arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  targets = jnp.zeros((B, T), jnp.int32)

  def loss(hidden, head):
    return model_logps.token_logps(hidden, head, targets)[0].sum()

  gradient = jax.grad(loss, argnums=(0, 1))
  jaxpr = jax.make_jaxpr(gradient)(*arrays).jaxpr
  assert largest_array(jaxpr) == B * chunk * wide
  # One for the logits, again if they are not kept, and two for gradients.
  assert products(jaxpr) == computed


@pytest.mark.parametrize('first', [0, 7, 30])
def test_two_ways_to_pick_the_targets(first):
  rng = np.random.default_rng(0)
  logits = jnp.asarray(rng.normal(size=(3, 20, 15)), jnp.float32)
  targets = jnp.asarray(rng.integers(45, size=(3, 20))) - first
  here = (targets >= 0) & (targets < 15)
  assert here.any() and not here.all()
  expected = np.zeros((3, 20), np.float32)
  for row, column in zip(*np.nonzero(here), strict=True):
    expected[row, column] = logits[row, column, targets[row, column]]
  np.testing.assert_array_equal(model_logps._gather(logits, targets), expected)
  np.testing.assert_array_equal(
    model_logps._masked_sum(logits, targets), expected
  )


def assert_equal_gradients(gradient, expected):
  """To 1e-5 of the largest entry: entries are sums of terms of that size.

  With every float32 of the package made a float64, the layouts agree to 1e-12
  absolutely: what is left here is rounding.
  """
  error = np.abs(np.asarray(gradient) - np.asarray(expected)).max()
  assert error <= 1e-5 * max(1.0, np.abs(expected).max())


def gradients_of(loss):
  """Value and gradient, compiled as training compiles them.

  Without optimisation, as the other tests compile, one machine's roundings of
  two layouts differed by up to 1.3e-5; which of its kernels did it is unknown.
  """
  options = {'xla_backend_optimization_level': 3}
  return jax.jit(jax.value_and_grad(loss), compiler_options=options)


# Several prompts in a row, and actions of one prompt in several.
@pytest.mark.parametrize(
  'make_batch',
  [
    group_batch,
    functools.partial(packed_batch, 2, 16),
    functools.partial(packed_batch, 5, 9),
  ],
)
def test_shared_prompts_equal_one_sequence_at_a_time(model, make_batch):
  graphdef, params = model
  batch = make_batch()
  rng = np.random.default_rng(0)
  mask = np.asarray(batch['mask'])
  noise = 0.1 * rng.normal(size=mask.shape).astype(np.float32)
  advantages = rng.normal(size=mask.shape[:2]).astype(np.float32)
  options = {'clip_low': 0.2, 'clip_high': 0.3, 'dual_clip': 3.0}
  before = model_logps.make_compute_logps(graphdef)(params, batch) + noise
  before = jax.lax.stop_gradient(before)

  def shared(params):
    loss = losses.make_step_rl_loss(
      importance_cap=None, temperature=0.8, chunk=5, **options
    )
    extra = {'advantages': advantages, 'logps_old': before}
    total, weight, _ = loss(nnx.merge(graphdef, params), {**batch, **extra})
    return total / weight

  def one_at_a_time(params):
    logps, mask = one_row_each(nnx.merge(graphdef, params), 0.8)
    rows, slots = zip(*[(s, g) for s, g, *_ in SEQUENCES])
    total, weight, _ = losses.policy_loss(
      logps, before[rows, slots], advantages[rows, slots], mask, **options
    )
    return total / weight

  loss, gradient = gradients_of(shared)(params)
  expected, expected_gradient = gradients_of(one_at_a_time)(params)
  np.testing.assert_allclose(loss, expected, atol=1e-5)
  jax.tree.map(assert_equal_gradients, gradient, expected_gradient)
  assert any(np.abs(g).max() > 1e-3 for g in jax.tree.leaves(gradient))


def test_packing_equals_no_packing(model):
  graphdef, params = model
  examples = [Example(prompt, action) for _, _, prompt, action in SEQUENCES]
  batch = batching.pack_sft(examples, length=16, rows=4)
  assert batch['segment_ids'].max() > 1
  batch = jax.tree.map(jnp.asarray, batch)

  def loss_of(batch):
    def loss(params):
      merged = nnx.merge(graphdef, params)
      total, weight, _ = losses.make_sft_loss(chunk=7)(merged, batch)
      return total / weight

    return loss

  def unpacked(params):
    logps, mask = one_row_each(nnx.merge(graphdef, params))
    return -jnp.sum(logps * mask) / np.sum(mask)

  expected, expected_gradient = gradients_of(unpacked)(params)
  loss, gradient = gradients_of(loss_of(batch))(params)
  np.testing.assert_allclose(loss, expected, atol=1e-5)
  jax.tree.map(assert_equal_gradients, gradient, expected_gradient)
  # The two layouts of a training set are one loss.
  loss = jax.jit(loss_of(group_batch()))(params)
  np.testing.assert_allclose(loss, expected, atol=1e-5)


def test_micro_batches_change_nothing(model):
  graphdef, params = model
  batch = jax.tree.map(lambda x: jnp.concatenate([x, x[::-1]]), group_batch())
  batch = train_state.put_batch(batch)
  whole = model_logps.make_compute_logps(graphdef)(params, batch)
  parts = model_logps.make_compute_logps(graphdef, micro_batches=3)(
    params, batch
  )
  np.testing.assert_allclose(whole, parts, atol=1e-5)
  with pytest.raises(ValueError, match='6 is not divisible by 4'):
    model_logps.make_compute_logps(graphdef, micro_batches=4)(params, batch)


def test_a_frozen_model_gives_the_same_bits_in_half_the_memory():
  config = dataclasses.replace(CONFIG, dtype='bfloat16')
  graphdef, params = make_model(config, seed=0)
  half = frozen(config, params)
  size = sum(x.nbytes for x in jax.tree.leaves(params))
  assert sum(x.nbytes for x in jax.tree.leaves(half)) == size / 2
  compute = model_logps.make_compute_logps(graphdef)
  np.testing.assert_array_equal(
    compute(half, group_batch()), compute(params, group_batch())
  )

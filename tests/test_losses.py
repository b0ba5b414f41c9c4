"""Losses against float64 NumPy oracles written as loops from the formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlagent_jax import losses

S, G, A = 3, 2, 5
LENGTHS = np.array([[5, 2], [1, 4], [3, 0]])
MASK = (np.arange(A) < LENGTHS[..., None]).astype(np.float32)


def draw(seed, spread=0.4):
  """(logps, logps_old, advantages, importance), far enough apart to clip."""
  rng = np.random.default_rng(seed)
  logps_old = -rng.uniform(0.5, 3.0, size=(S, G, A))
  logps = logps_old + spread * rng.normal(size=(S, G, A))
  advantages = rng.normal(size=(S, G))
  importance = rng.uniform(0.2, 2.0, size=(S, G, A))
  return logps, logps_old, advantages, importance


def aggregate_oracle(values, aggregation):
  """values: (s, g, t) -> float. Returns (sum, weight)."""
  if aggregation == 'token-mean':
    cells = [
      (s, g, t)
      for s in range(S)
      for g in range(G)
      for t in range(LENGTHS[s, g])
    ]
    return sum(values(*cell) for cell in cells), len(cells)
  total, count = 0.0, 0
  for s in range(S):
    for g in range(G):
      n = LENGTHS[s, g]
      if n:
        one = sum(values(s, g, t) for t in range(n))
        total += one / n if aggregation == 'seq-mean-token-mean' else one
        count += 1
  return total, count


def policy_oracle(
  logps, logps_old, advantages, importance, low, high, dual, aggregation
):
  def token(s, g, t):
    exponent = logps[s, g, t] - logps_old[s, g, t]
    r = math.exp(min(max(exponent, -20.0), 20.0))
    a = advantages[s, g]
    loss = max(-a * r, -a * min(max(r, 1 - low), 1 + high))
    if dual is not None and a < 0:
      loss = min(loss, -dual * a)
    return loss * importance[s, g, t]

  return aggregate_oracle(token, aggregation)


@pytest.mark.parametrize('aggregation', losses.AGGREGATIONS)
@pytest.mark.parametrize(
  'low, high, dual', [(0.2, 0.28, 1.5), (0.1, 0.1, None)]
)
def test_policy_loss_and_its_gradient(low, high, dual, aggregation):
  logps, logps_old, advantages, importance = draw(0)

  def ours(logps):
    total, weight, _ = losses.policy_loss(
      logps,
      jnp.asarray(logps_old),
      jnp.asarray(advantages),
      MASK,
      clip_low=low,
      clip_high=high,
      dual_clip=dual,
      aggregation=aggregation,
      importance=importance,
    )
    return total / weight

  def oracle(logps):
    total, weight = policy_oracle(
      logps, logps_old, advantages, importance, low, high, dual, aggregation
    )
    return total / weight

  value, gradient = jax.value_and_grad(ours)(jnp.asarray(logps))
  np.testing.assert_allclose(value, oracle(logps), rtol=1e-5)
  step = 1e-6
  for cell in np.ndindex(S, G, A):
    up, down = logps.copy(), logps.copy()
    up[cell] += step
    down[cell] -= step
    slope = (oracle(up) - oracle(down)) / (2 * step)
    np.testing.assert_allclose(gradient[cell], slope, rtol=1e-4, atol=1e-5)
  # Clipped tokens are among them: no gradient inside the mask.
  assert (np.asarray(gradient)[MASK > 0] == 0).any()


def gspo_oracle(logps, logps_old, advantages, low, high):
  """arXiv 2507.18071 eq. 5 to 7: the mean over sequences, as a loss."""
  total, count = 0.0, 0
  for s in range(S):
    for g in range(G):
      n = LENGTHS[s, g]
      if n:
        difference = sum(logps[s, g, t] - logps_old[s, g, t] for t in range(n))
        ratio = math.exp(difference / n)
        a = advantages[s, g]
        bounded = min(max(ratio, 1 - low), 1 + high)
        total -= min(ratio * a, bounded * a)
        count += 1
  return total / count


def test_gspo_and_its_gradient():
  logps, logps_old, advantages, _ = draw(6)
  # So that sequences clip: their ratios are nearer to 1 than tokens' are.
  low, high = 0.1, 0.05

  def ours(logps):
    total, weight, _ = losses.policy_loss(
      logps,
      jnp.asarray(logps_old),
      jnp.asarray(advantages),
      MASK,
      clip_low=low,
      clip_high=high,
      dual_clip=None,
      ratio_kind='sequence',
      aggregation='seq-mean-token-mean',
    )
    return total / weight

  value, gradient = jax.value_and_grad(ours)(jnp.asarray(logps))
  arguments = logps_old, advantages, low, high
  np.testing.assert_allclose(value, gspo_oracle(logps, *arguments), rtol=1e-5)
  step, clipped = 1e-6, 0
  for cell in np.ndindex(S, G, A):
    up, down = logps.copy(), logps.copy()
    up[cell] += step
    down[cell] -= step
    slope = gspo_oracle(up, *arguments) - gspo_oracle(down, *arguments)
    slope /= 2 * step
    np.testing.assert_allclose(gradient[cell], slope, rtol=1e-4, atol=1e-5)
    clipped += slope == 0 and MASK[cell] > 0
  assert 0 < clipped < LENGTHS.sum()


def test_what_is_outside_the_mask_is_not_in_a_sequence_ratio():
  logps, logps_old, *_ = draw(7)
  logps[MASK == 0] = -np.inf
  got = losses.log_ratios(
    jnp.asarray(logps), jnp.asarray(logps_old), MASK, 'sequence'
  )
  expected = np.where(MASK > 0, logps - logps_old, 0).sum(-1)
  expected = expected / np.maximum(LENGTHS, 1)
  np.testing.assert_allclose(got[..., 0], expected, rtol=1e-5)
  weights = losses.truncated_importance(
    logps, logps_old, cap=1.1, mask=MASK, kind='sequence'
  )
  np.testing.assert_allclose(
    weights[..., 0], np.minimum(np.exp(expected), 1.1), rtol=1e-5
  )


def test_value_loss_and_its_gradient():
  rng = np.random.default_rng(8)
  values_old, returns = rng.uniform(size=(2, S, G, A))
  values = values_old + 0.4 * rng.normal(size=(S, G, A))
  clip = 0.3

  def oracle(values):
    def token(s, g, t):
      v, old, r = (x[s, g, t] for x in (values, values_old, returns))
      bounded = min(max(v, old - clip), old + clip)
      return max((v - r) ** 2, (bounded - r) ** 2) / 2

    total, weight = aggregate_oracle(token, 'token-mean')
    return total / weight

  def ours(values):
    total, weight, metrics = losses.value_loss(
      values, values_old, returns, MASK, value_clip=clip
    )
    return total / weight, metrics

  (value, metrics), gradient = jax.value_and_grad(ours, has_aux=True)(
    jnp.asarray(values)
  )
  np.testing.assert_allclose(value, oracle(values), rtol=1e-5)
  step = 1e-6
  for cell in np.ndindex(S, G, A):
    up, down = values.copy(), values.copy()
    up[cell] += step
    down[cell] -= step
    slope = (oracle(up) - oracle(down)) / (2 * step)
    np.testing.assert_allclose(gradient[cell], slope, rtol=1e-4, atol=1e-5)
  inside = MASK > 0
  total, weight = metrics['value_error']
  expected = ((values - returns)[inside] ** 2).mean()
  np.testing.assert_allclose(total / weight, expected, rtol=1e-5)
  total, weight = metrics['value_clip_fraction']
  still = (np.asarray(gradient) == 0)[inside].mean()
  assert 0 < still == total / weight < 1


def test_adapted_kl_coef():
  # Ziegler et al. 2019: e = clip(KL / target - 1, -0.2, 0.2).
  for kl, error in ((0.011, 0.1), (0.5, 0.2), (0.0, -0.2), (0.009, -0.1)):
    got = losses.adapted_kl_coef(2.0, kl, target=0.01, gain=0.5)
    np.testing.assert_allclose(got, 2.0 * (1 + 0.5 * error), rtol=1e-5)


def test_policy_metrics():
  logps, logps_old, advantages, importance = draw(1, spread=0.8)
  _, _, metrics = losses.policy_loss(
    jnp.asarray(logps),
    jnp.asarray(logps_old),
    jnp.asarray(advantages),
    MASK,
    dual_clip=1.5,
    importance=jnp.asarray(importance),
  )
  metrics = {name: total / count for name, (total, count) in metrics.items()}
  inside = MASK > 0
  ratio = np.exp(logps - logps_old)
  a = np.broadcast_to(advantages[..., None], ratio.shape)
  clipped = ((a > 0) & (ratio > 1.2)) | ((a < 0) & (ratio < 0.8))
  expected = {
    'ratio': ratio[inside].mean(),
    'clip_fraction': clipped[inside].mean(),
    'dual_clip_fraction': ((a < 0) & (ratio > 1.5))[inside].mean(),
    'kl_old': (ratio - 1 - (logps - logps_old))[inside].mean(),
    'importance': importance[inside].mean(),
  }
  assert expected['clip_fraction'] > 0 and expected['dual_clip_fraction'] > 0
  assert metrics.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)


def test_an_advantage_for_every_token():
  logps, logps_old, advantages, _ = map(jnp.asarray, draw(2))
  one = losses.policy_loss(logps, logps_old, advantages, MASK)
  spread = jnp.broadcast_to(advantages[..., None], logps.shape)
  assert one == losses.policy_loss(logps, logps_old, spread, MASK)


def test_exponents_are_clamped():
  logps = jnp.array([[0.0, -500.0]])
  total, _, _ = losses.policy_loss(
    logps, logps[:, ::-1], jnp.array([-1.0]), jnp.ones((1, 2)), dual_clip=None
  )
  # r = e^20 for the first token, and 1 - 0.2 for the second (A < 0).
  np.testing.assert_allclose(total, math.exp(20) + 0.8, rtol=1e-6)
  kl = losses.kl_penalty(logps, logps[:, ::-1], 'k3')
  np.testing.assert_allclose(
    kl[0], [math.exp(-20) - 1 + 500, math.exp(20) - 1 - 500], rtol=1e-6
  )


@pytest.mark.parametrize('aggregation', losses.AGGREGATIONS)
def test_sums_and_weights_add_up_over_parts(aggregation):
  values = draw(3)[0]
  whole = losses.aggregate(values, MASK, aggregation)
  parts = [
    losses.aggregate(values[s : s + 1], MASK[s : s + 1], aggregation)
    for s in range(S)
  ]
  np.testing.assert_allclose(whole, np.sum(parts, axis=0), rtol=1e-6)
  expected = aggregate_oracle(lambda *cell: values[cell], aggregation)
  np.testing.assert_allclose(whole, expected, rtol=1e-6)


def test_sft_loss():
  logps = draw(4)[0]
  total, weight = losses.sft_loss(logps, MASK)
  np.testing.assert_allclose(total, -logps[MASK > 0].sum(), rtol=1e-6)
  assert weight == LENGTHS.sum()


def test_truncated_importance():
  logps_old = np.array([-1.0, -1.0, -1.0, -1.0])
  sampler = np.array([-1.0, -0.5, -1.5, -4.0])
  got = losses.truncated_importance(logps_old, sampler, cap=2.0)
  expected = [min(math.exp(d), 2.0) for d in (0.0, -0.5, 0.5, 3.0)]
  np.testing.assert_allclose(got, expected, rtol=1e-6)
  assert 2.0 in expected
  slope = jax.grad(lambda x: losses.truncated_importance(x, sampler).sum())
  assert not slope(jnp.asarray(logps_old)).any()


def categorical(seed):
  rng = np.random.default_rng(seed)
  logits, ref = rng.normal(size=(2, 4))
  return jnp.asarray(logits), jax.nn.log_softmax(jnp.asarray(ref))


@pytest.mark.parametrize('kind', ['k1', 'k3'])
def test_the_kl_estimators_are_unbiased(kind):
  logits, ref = categorical(0)
  logps = jax.nn.log_softmax(logits)
  probs = np.exp(np.asarray(logps, np.float64))
  exact = np.sum(probs * (np.log(probs) - np.asarray(ref, np.float64)))
  expectation = np.sum(probs * losses.kl_penalty(logps, ref, kind))
  np.testing.assert_allclose(expectation, exact, rtol=1e-5)


def test_k3_is_never_negative_and_k2_is_a_square():
  logps, ref, *_ = draw(5, spread=1.0)
  assert losses.kl_penalty(logps, ref, 'k3').min() >= 0
  np.testing.assert_allclose(
    losses.kl_penalty(logps, ref, 'k2'), (logps - ref) ** 2 / 2, rtol=1e-6
  )


def test_what_the_gradients_of_the_kl_estimators_are():
  logits, ref = categorical(1)

  def kl(p, q):  # of log-probabilities
    return jnp.sum(jnp.exp(p) * (p - q))

  def expected_gradient(kind):
    """sum over x of p(x) times the gradient of the estimate at x."""
    estimates = jax.jacobian(
      lambda z: losses.kl_penalty(jax.nn.log_softmax(z), ref, kind)
    )(logits)
    return jax.nn.softmax(logits) @ estimates

  policy_first = jax.grad(lambda z: kl(jax.nn.log_softmax(z), ref))(logits)
  policy_last = jax.grad(lambda z: kl(ref, jax.nn.log_softmax(z)))(logits)
  np.testing.assert_allclose(expected_gradient('k1'), 0, atol=1e-6)
  np.testing.assert_allclose(expected_gradient('k2'), policy_first, atol=1e-6)
  np.testing.assert_allclose(expected_gradient('k3'), policy_last, atol=1e-6)


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda x: losses.aggregate(x, x, 'mean'), "aggregation 'mean'"),
    (lambda x: losses.kl_penalty(x, x, 'k4'), "KL estimator 'k4'"),
    (lambda x: losses.log_ratios(x, x, x, 'word'), "ratio 'word'"),
    (
      lambda x: losses.policy_loss(x, x, x, x, dual_clip=0.5),
      'dual_clip is 0.5',
    ),
  ],
)
def test_options_that_do_not_exist(call, message):
  with pytest.raises(ValueError, match=message):
    call(jnp.ones((2, 3)))

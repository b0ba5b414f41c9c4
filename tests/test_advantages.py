"""Every estimator against a NumPy oracle written as loops from its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlagent_jax import advantages

REWARDS = np.random.default_rng(0).uniform(size=(5, 4))


def grpo_oracle(rewards, std_floor, use_std):
  out = np.zeros_like(rewards)
  for s, group in enumerate(rewards):
    mean = sum(group) / len(group)
    variance = sum((r - mean) ** 2 for r in group) / (len(group) - 1)
    for g, reward in enumerate(group):
      out[s, g] = reward - mean
      if use_std:
        out[s, g] /= max(variance**0.5, std_floor)
  return out


@pytest.mark.parametrize('use_std', [True, False])
@pytest.mark.parametrize('std_floor', [0.0, 0.3])
def test_grpo(std_floor, use_std):
  got = advantages.grpo(REWARDS, std_floor=std_floor, use_std=use_std)
  expected = grpo_oracle(REWARDS, std_floor, use_std)
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_the_floor_keeps_noise_small():
  noisy = 0.5 + 1e-4 * np.array([[1.0, -1.0, 0.5, -0.5]])
  plain = advantages.grpo(noisy, std_floor=1e-8)
  floored = advantages.grpo(noisy, std_floor=0.05)
  assert np.abs(plain).max() > 1
  np.testing.assert_allclose(floored, (noisy - noisy.mean()) / 0.05, atol=1e-5)


@pytest.mark.parametrize('reward', [0.1, 0.7, 1 / 3])
def test_equal_rewards_give_exactly_zero(reward):
  # A mean of equal numbers may be off by one bit; the floor would divide it.
  rewards = np.full((2, 7), reward)
  assert not np.any(advantages.grpo(rewards, std_floor=1e-9))
  assert not np.any(advantages.rloo(rewards))
  assert not np.any(advantages.reinforce(rewards, std_floor=1e-9))


def test_rloo():
  expected = np.zeros_like(REWARDS)
  for s, group in enumerate(REWARDS):
    for g, reward in enumerate(group):
      others = [r for i, r in enumerate(group) if i != g]
      expected[s, g] = reward - sum(others) / len(others)
  np.testing.assert_allclose(advantages.rloo(REWARDS), expected, atol=1e-6)


def test_reinforce():
  expected = (REWARDS - REWARDS.mean()) / REWARDS.std(ddof=1)
  got = advantages.reinforce(REWARDS, std_floor=1e-6)
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_missing_rewards_enter_no_mean():
  rewards = np.array([[0.1, np.nan, 0.9, 0.3], [0.5, np.nan, np.nan, np.nan]])
  valid = np.isfinite(rewards)
  kept = rewards[:1, [0, 2, 3]]
  for estimate in (
    lambda r, **kwargs: advantages.grpo(r, std_floor=0.01, **kwargs),
    advantages.rloo,
  ):
    got = np.asarray(estimate(rewards, valid=valid))
    np.testing.assert_allclose(got[0, [0, 2, 3]], estimate(kept)[0], atol=1e-6)
    # Nothing to compare the only sample of the second group with.
    assert not got[~valid].any() and not got[1].any()
  got = np.asarray(advantages.reinforce(rewards, std_floor=0.01, valid=valid))
  present = rewards[valid]
  expected = (present - present.mean()) / present.std(ddof=1)
  np.testing.assert_allclose(got[valid], expected, atol=1e-5)


@pytest.mark.parametrize('gamma, lam', [(1.0, 1.0), (0.9, 0.8), (1.0, 0.0)])
def test_gae(gamma, lam):
  rng = np.random.default_rng(1)
  lengths = [6, 3, 1]
  rewards, values = rng.normal(size=(2, 3, 6))
  mask = np.arange(6) < np.array(lengths)[:, None]
  expected = np.zeros((3, 6))
  for row, n in enumerate(lengths):
    value = [*values[row, :n], 0.0]  # nothing follows the last token
    for t in range(n):
      expected[row, t] = sum(
        (gamma * lam) ** k
        * (rewards[row, t + k] + gamma * value[t + k + 1] - value[t + k])
        for k in range(n - t)
      )
  got, returns = advantages.gae(rewards, values, mask, gamma=gamma, lam=lam)
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(
    returns, (expected + values) * mask, rtol=1e-5, atol=1e-5
  )


def test_the_papers_ppo_is_reward_minus_value():
  values = np.random.default_rng(2).normal(size=(2, 3, 4))
  rewards = np.arange(6.0).reshape(2, 3)
  mask = np.ones((2, 3, 4))
  mask[0, 0, 2:] = 0
  spread = advantages.token_rewards(rewards, mask)
  got, _ = jax.jit(advantages.gae)(spread, values, mask)
  np.testing.assert_allclose(
    got, (rewards[..., None] - values) * mask, atol=1e-5
  )


def test_token_rewards():
  mask = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 0]])
  kl = np.array([[0.1, 0.2, 9.0], [0.3, 0.4, 0.5], [9.0, 9.0, 9.0]])
  got = advantages.token_rewards(
    np.array([1.0, 2.0, 3.0]), mask, kl=kl, kl_coef=0.5
  )
  expected = [[-0.05, 1 - 0.1, 0], [-0.15, -0.2, 2 - 0.25], [0, 0, 0]]
  np.testing.assert_allclose(got, expected, atol=1e-6)


def test_whiten():
  x = np.random.default_rng(3).normal(2.0, 3.0, size=(4, 5))
  mask = np.arange(5) < np.array([5, 2, 1, 3])[:, None]
  expected = (x - x[mask].mean()) / x[mask].std(ddof=1) * mask
  got = advantages.whiten(jnp.asarray(x), mask, std_floor=1e-6)
  np.testing.assert_allclose(got, expected, atol=1e-5)


def test_duration_weights():
  seconds = np.array([[0.0, 3.0], [9.0, np.nan]])
  valid = np.array([[1, 1], [1, 0]])
  got = advantages.duration_weights(seconds, floor=1.0, valid=valid)
  # Of 1, 4 and 10 seconds, whose mean is 5.
  np.testing.assert_allclose(got, [[0.2, 0.8], [2.0, 0.0]], rtol=1e-6)
  alike = advantages.duration_weights(np.full((2, 3), 7.0), floor=0.5)
  np.testing.assert_allclose(alike, 1.0, rtol=1e-6)
  nothing = advantages.duration_weights(
    seconds, floor=1.0, valid=np.zeros((2, 2))
  )
  assert not nothing.any()


def test_explained_variance():
  rng = np.random.default_rng(4)
  returns, noise = rng.normal(size=(2, 3, 4, 5))
  mask = rng.uniform(size=(3, 4, 5)) < 0.7
  got = advantages.explained_variance(returns - noise, returns, mask)
  expected = 1 - noise[mask].var() / returns[mask].var()
  np.testing.assert_allclose(got, expected, rtol=1e-4)
  know = advantages.explained_variance(returns, returns, mask)
  np.testing.assert_allclose(know, 1.0)


@pytest.mark.parametrize('estimator', ['grpo', 'rloo'])
def test_a_group_of_one_is_refused(estimator):
  with pytest.raises(ValueError, match='samples_per_state is 1'):
    advantages.check_group_size(estimator, 1)
  options = {'std_floor': 0.1} if estimator == 'grpo' else {}
  with pytest.raises(ValueError, match='at least 2'):
    getattr(advantages, estimator)(np.ones((8, 1)), **options)


def test_other_group_sizes():
  advantages.check_group_size('grpo', 2)
  advantages.check_group_size('reinforce', 1)
  advantages.check_group_size('gae', 1)
  with pytest.raises(ValueError, match='unknown advantage'):
    advantages.check_group_size('a2c', 8)
  with pytest.raises(ValueError, match='holds 1 sample'):
    advantages.reinforce(np.ones((1, 1)), std_floor=0.1)

"""Advantages: how much better an action was than what it is compared with.

Sources: GRPO is arXiv 2402.03300 eq. 3 (here with the unbiased std and a floor
under it, so that a group which differs only by validation noise is not blown up
to unit variance); without the std it is Dr. GRPO, arXiv 2503.20783. RLOO is
arXiv 2402.14740 eq. 6. `reinforce` whitens over the batch, as in REINFORCE++
(arXiv 2501.03262). GAE is arXiv 1506.02438 eq. 16, over the tokens of one
action; the paper's PPO has gamma = lambda = 1, where it is R - V_t. Duration
weights are arXiv 2509.01684 section 4.1.

Axes: S states, G samples of a state, A tokens of an action. All functions are
pure, take NumPy or jax arrays, compute in float32 and may be jitted. `valid`
[S, G] leaves out samples that have no reward (an outcome that never came): they
enter no mean and get advantage 0.
"""

import jax
import jax.numpy as jnp

GROUP_RELATIVE = ('grpo', 'rloo')


def check_group_size(estimator, samples_per_state):
  """Raises ValueError if a group leaves an estimator nothing to compare with.

  Args:
    estimator: 'grpo', 'rloo', 'reinforce' or 'gae'; for use at start-up.
    samples_per_state: G.
  """
  known = (*GROUP_RELATIVE, 'reinforce', 'gae')
  if estimator not in known:
    raise ValueError(f'unknown advantage {estimator!r}; known: {known}')
  least = 2 if estimator in GROUP_RELATIVE else 1
  if samples_per_state < least:
    raise ValueError(
      f'{estimator} compares the samples of a state with each other and needs'
      f' at least {least} per state, but samples_per_state is'
      f' {samples_per_state}; raise it or use reinforce'
    )


def _moments(rewards, valid, axis):
  """(deviation from the mean, unbiased std, count), over `valid` on `axis`.

  Deviations are taken from one of the rewards first, so that equal rewards give
  exactly 0 and not a rounding error that a small std would amplify.
  """
  count = jnp.sum(valid, axis=axis, keepdims=True)
  first = jnp.max(
    jnp.where(valid > 0, rewards, -jnp.inf), axis=axis, keepdims=True
  )
  first = jnp.where(count > 0, first, 0.0)
  shifted = (rewards - first) * valid
  mean = jnp.sum(shifted, axis=axis, keepdims=True) / jnp.maximum(count, 1)
  deviation = (shifted - mean) * valid
  squares = jnp.sum(deviation**2, axis=axis, keepdims=True)
  return deviation, jnp.sqrt(squares / jnp.maximum(count - 1, 1)), count


def _prepare(rewards, valid):
  rewards = jnp.asarray(rewards, jnp.float32)
  if valid is None:
    return rewards, jnp.ones_like(rewards)
  valid = jnp.asarray(valid, jnp.float32)
  # A missing reward may be stored as NaN.
  return jnp.where(valid > 0, rewards, 0.0), valid


def grpo(rewards, *, std_floor, use_std=True, valid=None):
  """(reward - group mean) / max(unbiased group std, std_floor).

  Args:
    rewards: [S, G], G >= 2.
    std_floor: least value of the divisor, in units of the reward.
    use_std: False leaves the division out.
    valid: [S, G] of 0/1, or None for all. A group with fewer than two valid
      samples gets 0: it has nothing to compare with.

  Returns:
    [S, G] float32.
  """
  check_group_size('grpo', rewards.shape[-1])
  deviation, std, _ = _moments(*_prepare(rewards, valid), axis=-1)
  return deviation / jnp.maximum(std, std_floor) if use_std else deviation


def rloo(rewards, *, valid=None):
  """Reward minus the mean of the group's *other* rewards.

  Args:
    rewards: [S, G], G >= 2.
    valid: as in `grpo`.

  Returns:
    [S, G] float32: G / (G - 1) times the deviation from the group mean.
  """
  check_group_size('rloo', rewards.shape[-1])
  deviation, _, count = _moments(*_prepare(rewards, valid), axis=-1)
  return deviation * count / jnp.maximum(count - 1, 1)


def reinforce(rewards, *, std_floor, valid=None):
  """Rewards whitened over the whole batch: zero mean, unit unbiased std.

  Args:
    rewards: any shape, two valid samples at least.
    std_floor: least value of the divisor, in units of the reward.
    valid: 0/1 of the same shape, or None for all.

  Returns:
    float32 of the same shape.
  """
  rewards, valid = _prepare(rewards, valid)
  if rewards.size < 2:
    raise ValueError(
      f'reinforce whitens over the batch, which holds {rewards.size} sample'
    )
  deviation, std, _ = _moments(rewards, valid, axis=None)
  return deviation / jnp.maximum(std, std_floor)


def token_rewards(rewards, mask, *, kl=None, kl_coef=0.0):
  """Rewards of the tokens: the action's on its last one, minus the KL term.

  The sum over an action's tokens is its KL-penalised reward, for the
  estimators that take one number an action.

  Args:
    rewards: [..., ] one an action.
    mask: [..., A] 1 on action tokens, which come first.
    kl: [..., A] the penalty of each token (`losses.kl_penalty`), or None.
    kl_coef: its coefficient.

  Returns:
    [..., A] float32.
  """
  mask = jnp.asarray(mask, jnp.float32)
  following = jnp.pad(mask[..., 1:], [(0, 0)] * (mask.ndim - 1) + [(0, 1)])
  last = mask * (1.0 - following)
  spread = last * jnp.asarray(rewards, jnp.float32)[..., None]
  return spread if kl is None else spread - kl_coef * kl * mask


def gae(rewards, values, mask, *, gamma=1.0, lam=1.0):
  """Generalised advantage estimates over the tokens of an action.

  delta_t = r_t + gamma V_{t+1} - V_t and A_t = sum_k (gamma lam)^k delta_{t+k};
  the value after the last token is 0 (one action is one episode).

  Args:
    rewards: [..., A] of the tokens, see `token_rewards`.
    values: [..., A] the critic's values before each token.
    mask: [..., A] 1 on action tokens, which come first.
    gamma: discount.
    lam: lambda.

  Returns:
    (advantages, returns): [..., A] float32 each, 0 outside the mask; returns
    are advantages + values, the critic's targets.
  """
  mask = jnp.asarray(mask, jnp.float32)
  rewards = jnp.asarray(rewards, jnp.float32) * mask
  values = jnp.asarray(values, jnp.float32) * mask

  def backward(carry, token):
    next_value, next_advantage = carry
    reward, value, here = token
    delta = reward + gamma * next_value - value
    advantage = (delta + gamma * lam * next_advantage) * here
    return (value, advantage), advantage

  zero = jnp.zeros(mask.shape[:-1], jnp.float32)
  tokens = [jnp.moveaxis(x, -1, 0) for x in (rewards, values, mask)]
  _, advantages = jax.lax.scan(
    backward, (zero, zero), tuple(tokens), reverse=True
  )
  advantages = jnp.moveaxis(advantages, 0, -1)
  return advantages, (advantages + values) * mask


def whiten(advantages, mask, *, std_floor):
  """Token advantages with zero mean and unit unbiased std over the mask.

  What PPO does with `gae`'s before the loss; arrays are [..., A].
  """
  advantages, mask = _prepare(advantages, mask)
  deviation, std, _ = _moments(advantages, mask, axis=None)
  return deviation / jnp.maximum(std, std_floor)


def explained_variance(values, returns, mask):
  """1 - var(returns - values) / var(returns) over the mask, a scalar.

  1 is a critic that knows, 0 one that knows the mean; NaN if all returns are
  equal.
  """
  errors, mask = _prepare(returns - values, mask)
  _, error, _ = _moments(errors, mask, axis=None)
  _, spread, _ = _moments(jnp.where(mask > 0, returns, 0.0), mask, axis=None)
  return jnp.squeeze(1.0 - (error / spread) ** 2)


def duration_weights(seconds, *, floor, valid=None):
  """Weights that let slow actions count as much as the time they take.

  weight = (seconds + floor) / mean over the batch of (seconds + floor): an
  action that ran for twice as long has twice the gradient, and the mean weight
  is 1. Multiply the advantages by it; a policy gradient is linear in them.

  Args:
    seconds: [S, G] wall-clock seconds of each action's run, 0 without one.
    floor: seconds that every action takes besides, > 0: sampling it.
    valid: [S, G] of 0/1, or None for all; others get weight 0.

  Returns:
    [S, G] float32.
  """
  seconds, valid = _prepare(seconds, valid)
  taken = (seconds + floor) * valid
  return taken * jnp.sum(valid) / jnp.maximum(jnp.sum(taken), floor)

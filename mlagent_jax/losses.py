"""Losses as pure functions of arrays, and the closures that a train step takes.

Every loss returns (sum, weight): the loss is sum / weight, and sums and weights
of micro-batches add up, so that accumulated gradients equal the big batch's
with unequal token counts too.

Sources and symbols: PPO's clipped surrogate is arXiv 1707.06347 eq. 7 with
ratio r = exp(logp - logp_old), advantage A and an asymmetric range
[1 - clip_low, 1 + clip_high] (DAPO, arXiv 2503.14476); the dual clip c is arXiv
1912.09729 eq. 6; KL estimators are Schulman's k1, k2, k3
(http://joschu.net/blog/kl-approx.html); the truncated importance weights that
correct for a sampler other than the trainer are min(exp(logp_old -
logp_sampler), cap). Deviation: every exponent is clamped to +-20.

A batch is a dict of arrays as `mlagent_jax.batching` makes it. Axes: B rows, T
tokens, S states, G samples of a state, A tokens of an action, D model, V
vocabulary. Log-probabilities are natural logarithms in float32.
"""

import jax
import jax.numpy as jnp

from mlagent_jax.model.logps import batch_logps

EXPONENT_LIMIT = 20.0
AGGREGATIONS = ('token-mean', 'seq-mean-token-sum', 'seq-mean-token-mean')


def aggregate(values, mask, aggregation):
  """Reduces token values to (sum, weight).

  Args:
    values: [..., A]; the last axis is one sequence (one action).
    mask: [..., A] of 0/1; values outside it do not count.
    aggregation: 'token-mean': sum over tokens, over the number of tokens.
      'seq-mean-token-sum': sum over tokens, over the number of sequences.
      'seq-mean-token-mean': sum of the sequences' means, over their number.
      A sequence without tokens is none.
  """
  mask = mask.astype(jnp.float32)
  values = jnp.where(mask > 0, values, 0.0)
  if aggregation == 'token-mean':
    return jnp.sum(values), jnp.sum(mask)
  lengths = jnp.sum(mask, axis=-1)
  sequences = jnp.sum((lengths > 0).astype(jnp.float32))
  sums = jnp.sum(values, axis=-1)
  if aggregation == 'seq-mean-token-sum':
    return jnp.sum(sums), sequences
  if aggregation == 'seq-mean-token-mean':
    return jnp.sum(sums / jnp.maximum(lengths, 1.0)), sequences
  raise ValueError(f'unknown aggregation {aggregation!r}: {AGGREGATIONS}')


def sft_loss(logps, mask):
  """Mean negative log-probability of action tokens.

  Args:
    logps: [..., A] or [B, T].
    mask: same shape, 1 on action tokens.

  Returns:
    (sum over the mask, sum(mask)).
  """
  return aggregate(-logps, mask, 'token-mean')


def _ratio(difference):
  return jnp.exp(jnp.clip(difference, -EXPONENT_LIMIT, EXPONENT_LIMIT))


def truncated_importance(logps_old, logps_sampler, *, cap=2.0):
  """min(exp(logp_old - logp_sampler), cap) per token, without gradient."""
  weights = jnp.minimum(_ratio(logps_old - logps_sampler), cap)
  return jax.lax.stop_gradient(weights)


def kl_penalty(logps, logps_ref, kind):
  """A single-sample estimate of KL(policy || reference) for every token.

  With d = logp - logp_ref: k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d. In
  expectation under the policy the *values* of k1 and k3 are the KL (k2 is
  biased); of the *gradients* taken through logp only k2's is the KL's: k1's is
  0 in expectation, k3's is that of KL(reference || policy).
  """
  difference = logps - logps_ref
  if kind == 'k1':
    return difference
  if kind == 'k2':
    return 0.5 * difference**2
  if kind == 'k3':
    return _ratio(-difference) - 1.0 + difference
  raise ValueError(f"unknown KL estimator {kind!r}: 'k1', 'k2', 'k3'")


def policy_loss_tokens(
  logps, logps_old, advantages, *, clip_low, clip_high, dual_clip
):
  """The clipped policy loss of every token, before masks and weights.

  max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)), and for A < 0 also
  min(., -c A) with c = dual_clip.

  Args:
    logps: [..., A].
    logps_old: [..., A].
    advantages: broadcastable to [..., A].
    clip_low: epsilon below.
    clip_high: epsilon above.
    dual_clip: c > 1, or None for none.

  Returns:
    (loss, ratio, clipped, dual_clipped): [..., A] each; the last two are bool.
  """
  if dual_clip is not None and dual_clip <= 1.0:
    raise ValueError(f'dual_clip is {dual_clip}; it must exceed 1, or be None')
  ratio = _ratio(logps - logps_old)
  plain = -advantages * ratio
  bounded = -advantages * jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
  loss = jnp.maximum(plain, bounded)
  clipped = bounded > plain
  if dual_clip is None:
    return loss, ratio, clipped, jnp.zeros_like(clipped)
  ceiling = -dual_clip * advantages
  dual_clipped = (advantages < 0) & (loss > ceiling)
  loss = jnp.where(dual_clipped, ceiling, loss)
  return loss, ratio, clipped, dual_clipped


def policy_loss(
  logps,
  logps_old,
  advantages,
  mask,
  *,
  clip_low=0.2,
  clip_high=0.2,
  dual_clip=3.0,
  aggregation='token-mean',
  importance=None,
  penalty=None,
):
  """The clipped policy loss over action tokens.

  Args:
    logps: [..., A] under the policy being trained.
    logps_old: [..., A] under the policy before this batch's first update.
    advantages: [...] one an action, or [..., A] one a token.
    mask: [..., A] 1 on action tokens.
    clip_low: r is clipped to [1 - clip_low, 1 + clip_high].
    clip_high: see clip_low.
    dual_clip: c > 1: with A < 0 the loss is at most -c A; None for none.
    aggregation: one of AGGREGATIONS, see `aggregate` for the denominator.
    importance: [..., A] weights of the tokens' policy terms, or None.
    penalty: [..., A] added to the tokens' weighted policy terms (coefficient
      times KL, minus coefficient times entropy), or None.

  Returns:
    (sum, weight, metrics); metrics are (sum, weight) over tokens: ratio,
    clip_fraction, dual_clip_fraction, and kl_old (k3 estimate of the distance
    to the old policy).
  """
  if advantages.ndim == logps.ndim - 1:
    advantages = advantages[..., None]
  tokens, ratio, clipped, dual_clipped = policy_loss_tokens(
    logps,
    logps_old,
    advantages,
    clip_low=clip_low,
    clip_high=clip_high,
    dual_clip=dual_clip,
  )
  figures = {
    'ratio': ratio,
    'clip_fraction': clipped,
    'dual_clip_fraction': dual_clipped,
    # The samples are the old policy's: KL(old || new).
    'kl_old': kl_penalty(logps_old, logps, 'k3'),
  }
  if importance is not None:
    tokens *= importance
    figures['importance'] = importance
  if penalty is not None:
    tokens += penalty
  metrics = {
    name: aggregate(jax.lax.stop_gradient(value), mask, 'token-mean')
    for name, value in figures.items()
  }
  return *aggregate(tokens, mask, aggregation), metrics


def make_sft_loss(*, chunk=128):
  """loss_fn(model, batch) -> (sum, weight, metrics) of supervised tuning.

  The batch is `batching.pack_sft`'s or `batching.group_layout`'s; the weight is
  the number of action tokens.
  """

  def loss_fn(model, batch):
    logps, entropy = batch_logps(model, batch, chunk=chunk)
    mask = batch['mask']
    metrics = {'entropy': aggregate(entropy, mask, 'token-mean')}
    return *sft_loss(logps, mask), metrics

  return loss_fn


def make_step_rl_loss(
  *,
  clip_low=0.2,
  clip_high=0.2,
  dual_clip=3.0,
  aggregation='token-mean',
  kl_coef=0.0,
  kl_kind='k3',
  entropy_coef=0.0,
  importance_cap=2.0,
  temperature=1.0,
  chunk=128,
):
  """loss_fn(model, batch) -> (sum, weight, metrics) of step-wise RL.

  The batch is `batching.group_layout`'s with, besides,

    advantages [S, G] or [S, G, A];
    logps_old [S, G, A]: left out before the first update on these samples, when
      the old policy is the policy itself: the ratio is then exactly 1, in any
      micro-batch, with nothing to compute first. For the updates after the
      first, `model.logps.make_compute_logps` computes it;
    logps_sampler [S, G, A]: as the sampler recorded it, unless importance_cap
      is None;
    logps_ref [S, G, A]: of the reference, if kl_coef is not 0.

  Args:
    clip_low: see `policy_loss`.
    clip_high: see `policy_loss`.
    dual_clip: see `policy_loss`.
    aggregation: see `policy_loss`.
    kl_coef: of the KL to the reference in the loss; 0 leaves it out (without
      needing logps_ref; if the batch has it, the KL is still a metric).
    kl_kind: 'k1', 'k2' or 'k3', see `kl_penalty`.
    entropy_coef: of the entropy bonus.
    importance_cap: cap of the truncated importance weights; None for none.
    temperature: of the sampler; log-probabilities are of that distribution.
    chunk: of `model.logps.token_logps`.
  """

  def loss_fn(model, batch):
    logps, entropy = batch_logps(
      model,
      batch,
      chunk=chunk,
      temperature=temperature,
      entropy_gradient=entropy_coef != 0,
    )
    mask = batch['mask']
    logps_old = batch.get('logps_old', jax.lax.stop_gradient(logps))
    importance = None
    if importance_cap is not None:
      importance = truncated_importance(
        logps_old, batch['logps_sampler'], cap=importance_cap
      )
    penalty = -entropy_coef * entropy if entropy_coef else None
    figures = {'entropy': entropy}
    if kl_coef or 'logps_ref' in batch:
      kl = kl_penalty(logps, batch['logps_ref'], kl_kind)
      figures['kl'] = kl
      if kl_coef:
        penalty = kl_coef * kl + (0.0 if penalty is None else penalty)
    total, weight, metrics = policy_loss(
      logps,
      logps_old,
      batch['advantages'],
      mask,
      clip_low=clip_low,
      clip_high=clip_high,
      dual_clip=dual_clip,
      aggregation=aggregation,
      importance=importance,
      penalty=penalty,
    )
    for name, value in figures.items():
      value = jax.lax.stop_gradient(value)
      metrics[name] = aggregate(value, mask, 'token-mean')
    return total, weight, metrics

  return loss_fn

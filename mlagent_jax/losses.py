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
logp_sampler), cap). GSPO (arXiv 2507.18071 eq. 5 to 7) has one ratio a
sequence in the place of r: exp of the mean over its tokens of logp - logp_old.
The critic's loss is PPO's with a clipped value. Deviation: every exponent is
clamped to +-20.

A batch is a dict of arrays as `mlagent_jax.batching` makes it. Axes: B rows, T
tokens, S states, G samples of a state, A tokens of an action, D model, V
vocabulary. Log-probabilities are natural logarithms in float32.
"""

import jax
import jax.numpy as jnp

from mlagent_jax.model.logps import batch_logps

EXPONENT_LIMIT = 20.0
AGGREGATIONS = ('token-mean', 'seq-mean-token-sum', 'seq-mean-token-mean')
RATIOS = ('token', 'sequence')
KL_KINDS = ('k1', 'k2', 'k3')


def aggregate(values, mask, aggregation):
  """Reduces token values to (sum, weight).

  Args:
    values: [..., A]; the last axis is one sequence (one action).
    mask: [..., A] of 0/1; values outside it do not count.
    aggregation: 'token-mean': sum over tokens, over the number of tokens; here
      the mask may be more than 1, how often a token counts.
      'seq-mean-token-sum': sum over tokens, over the number of sequences.
      'seq-mean-token-mean': sum of the sequences' means, over their number.
      A sequence without tokens is none.
  """
  mask = mask.astype(jnp.float32)
  values = jnp.where(mask > 0, values, 0.0)
  if aggregation == 'token-mean':
    return jnp.sum(values * mask), jnp.sum(mask)
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


def log_ratios(logps, logps_other, mask, kind='token'):
  """Logp - logp_other, of every token or meaned over its sequence.

  Args:
    logps: [..., A].
    logps_other: [..., A].
    mask: [..., A] 1 on action tokens.
    kind: 'token', or 'sequence' for the length-normalised one of GSPO, whose
      exponential is the geometric mean of the tokens' ratios.

  Returns:
    [..., A]; of a sequence the same number at every token.
  """
  difference = logps - logps_other
  if kind == 'token':
    return difference
  if kind == 'sequence':
    inside = jnp.where(mask > 0, difference, 0.0)
    lengths = jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1.0)
    mean = jnp.sum(inside, axis=-1, keepdims=True) / lengths
    return jnp.broadcast_to(mean, difference.shape)
  raise ValueError(f'unknown ratio {kind!r}: {RATIOS}')


def truncated_importance(
  logps_old, logps_sampler, *, cap=2.0, mask=None, kind='token'
):
  """min(exp(logp_old - logp_sampler), cap), without gradient.

  Of every token, or of its sequence (`kind`, see `log_ratios`; needs `mask`).
  """
  exponent = log_ratios(logps_old, logps_sampler, mask, kind)
  return jax.lax.stop_gradient(jnp.minimum(_ratio(exponent), cap))


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
  raise ValueError(f'unknown KL estimator {kind!r}: {KL_KINDS}')


def adapted_kl_coef(coef, kl, *, target, gain):
  """The next coefficient of the adaptive controller.

  coef * (1 + gain * clip(kl / target - 1, -0.2, 0.2)): Ziegler et al. 2019
  (arXiv 1909.08593 section 2.2), whose gain is 0.1. Deviation: its KL is a
  whole sequence's, ours is the mean over tokens, as every KL here.

  Args:
    coef: scalar, the coefficient of the batch that `kl` was measured on.
    kl: scalar, the measured KL, nats a token.
    target: the KL that is wanted, nats a token.
    gain: how fast the coefficient follows.
  """
  return coef * (1.0 + gain * jnp.clip(kl / target - 1.0, -0.2, 0.2))


def policy_loss_tokens(
  log_ratio, advantages, *, clip_low, clip_high, dual_clip
):
  """The clipped policy loss of every token, before masks and weights.

  max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)), and for A < 0 also
  min(., -c A) with c = dual_clip.

  Args:
    log_ratio: [..., A], see `log_ratios`.
    advantages: broadcastable to [..., A].
    clip_low: epsilon below.
    clip_high: epsilon above.
    dual_clip: c > 1, or None for none.

  Returns:
    (loss, ratio, clipped, dual_clipped): [..., A] each; the last two are bool.
  """
  if dual_clip is not None and dual_clip <= 1.0:
    raise ValueError(f'dual_clip is {dual_clip}; it must exceed 1, or be None')
  ratio = _ratio(log_ratio)
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
  ratio_kind='token',
  aggregation='token-mean',
  importance=None,
  penalty=None,
):
  """The clipped policy loss over action tokens.

  Args:
    logps: [..., A] under the policy being trained.
    logps_old: [..., A] under the policy before this batch's first update.
    advantages: [...] one an action, or [..., A] one a token.
    mask: [..., A] 1 on action tokens, or how often they count (aggregation
      'token-mean' and ratio_kind 'token' only).
    clip_low: r is clipped to [1 - clip_low, 1 + clip_high].
    clip_high: see clip_low.
    dual_clip: c > 1: with A < 0 the loss is at most -c A; None for none.
    ratio_kind: 'token', or 'sequence' for GSPO's. GSPO's own objective is that
      with aggregation 'seq-mean-token-mean' and no dual clip.
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
    log_ratios(logps, logps_old, mask, ratio_kind),
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


def value_loss(values, values_old, returns, mask, *, value_clip):
  """The critic's loss: half the squared error, of the worse of two values.

  max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2) / 2 over tokens: a value
  that moved further than c from the old one, towards its return, has no
  gradient. As in PPO's reference implementations; arXiv 2006.05990 section 3.5.

  Args:
    values: [..., A] of the critic being trained.
    values_old: [..., A] of the critic before this batch's first update.
    returns: [..., A] the targets, as of `advantages.gae`.
    mask: [..., A] 1 on action tokens.
    value_clip: c, in units of the reward.

  Returns:
    (sum, weight, metrics); the weight is sum(mask). Metrics: value,
    value_error (mean squared error), value_clip_fraction.
  """
  bounded = jnp.clip(values, values_old - value_clip, values_old + value_clip)
  error, bounded_error = (values - returns) ** 2, (bounded - returns) ** 2
  figures = {
    'value': values,
    'value_error': error,
    'value_clip_fraction': bounded_error > error,
  }
  metrics = {
    name: aggregate(jax.lax.stop_gradient(value), mask, 'token-mean')
    for name, value in figures.items()
  }
  tokens = 0.5 * jnp.maximum(error, bounded_error)
  return *aggregate(tokens, mask, 'token-mean'), metrics


def make_critic_loss(*, value_clip):
  """loss_fn(critic, batch) -> (sum, weight, metrics), see `value_loss`.

  The batch is `batching.group_layout`'s with, besides, values [S, G, A] (of the
  critic before the first update) and returns [S, G, A].
  """

  def loss_fn(critic, batch):
    return value_loss(
      critic(batch),
      batch['values'],
      batch['returns'],
      batch['mask'],
      value_clip=value_clip,
    )

  return loss_fn


def make_sft_loss(*, chunk=None):
  """loss_fn(model, batch) -> (sum, weight, metrics) of supervised tuning.

  The batch is `batching.pack_sft`'s, `batching.group_layout`'s or of
  `packed_groups`; the weight is the number of action tokens.
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
  ratio_kind='token',
  aggregation='token-mean',
  kl_coef=0.0,
  kl_kind='k3',
  entropy_coef=0.0,
  importance_cap=2.0,
  temperature=1.0,
  chunk=None,
):
  """loss_fn(model, batch) -> (sum, weight, metrics) of step-wise RL.

  The batch is of `batching.group_layout` or `packed_groups.packed_layout`, and
  has besides

    advantages [S, G] or [S, G, A];
    logps_old [S, G, A]: of `model.logps.make_compute_logps`, before the first
      update on these samples; left out if there is but one update;
    first [S]: if there, 1 in the first update and 0 later. In the first one the
      old policy is the policy itself, and its log-probabilities are those that
      the loss computes: the ratio is exactly 1, in any micro-batch. So it is if
      there is no logps_old. One program serves all updates of a batch;
    logps_sampler [S, G, A]: as the sampler recorded it, unless importance_cap
      is None;
    logps_ref [S, G, A]: of the reference, if kl_coef is not 0;
    kl_coef [S]: if kl_coef is None.

  Args:
    clip_low: see `policy_loss`.
    clip_high: see `policy_loss`.
    dual_clip: see `policy_loss`.
    ratio_kind: see `policy_loss`; also of the importance weights.
    aggregation: see `policy_loss`.
    kl_coef: of the KL to the reference in the loss; 0 leaves it out (without
      needing logps_ref; if the batch has it, the KL is still a metric). None
      reads it from the batch, for a coefficient that changes.
    kl_kind: 'k1', 'k2' or 'k3', see `kl_penalty`.
    entropy_coef: of the entropy bonus.
    importance_cap: cap of the truncated importance weights; None for none.
    temperature: of the sampler; log-probabilities are of that distribution.
      None reads it from the batch, as `batch_logps` does.
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
    own = jax.lax.stop_gradient(logps)
    logps_old = batch.get('logps_old', own)
    if 'first' in batch:
      is_first = batch['first'][:, None, None] > 0
      logps_old = jnp.where(is_first, own, logps_old)
    importance = None
    if importance_cap is not None:
      importance = truncated_importance(
        logps_old,
        batch['logps_sampler'],
        cap=importance_cap,
        mask=mask,
        kind=ratio_kind,
      )
    penalty = -entropy_coef * entropy if entropy_coef else None
    figures = {'entropy': entropy}
    coef = batch['kl_coef'][:, None, None] if kl_coef is None else kl_coef
    if kl_coef != 0 or 'logps_ref' in batch:
      kl = kl_penalty(logps, batch['logps_ref'], kl_kind)
      figures['kl'] = kl
      if kl_coef != 0:
        penalty = coef * kl + (0.0 if penalty is None else penalty)
    total, weight, metrics = policy_loss(
      logps,
      logps_old,
      batch['advantages'],
      mask,
      clip_low=clip_low,
      clip_high=clip_high,
      dual_clip=dual_clip,
      ratio_kind=ratio_kind,
      aggregation=aggregation,
      importance=importance,
      penalty=penalty,
    )
    for name, value in figures.items():
      value = jax.lax.stop_gradient(value)
      metrics[name] = aggregate(value, mask, 'token-mean')
    return total, weight, metrics

  return loss_fn

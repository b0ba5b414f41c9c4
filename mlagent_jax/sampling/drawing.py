"""From logits to tokens: one random number a token, by inversion.

A sample depends on its prompt, its seed and the parameters alone: the random
number of its token j is that of `fold_in(key(seed), j)`, turned into a token
by inverting the cumulative distribution. What else is in the batch, and in
which row, plays no part.

The log-probabilities are those of the full distribution at the temperature,
before top-k, top-p and any constraint: what the trainer computes for these
tokens (`model.logps.token_logps` with the same temperature). Greedy decoding
gives those of temperature 1.
"""

import jax
import jax.numpy as jnp

_BLOCK = 128  # of the cumulative sum over V, see `_invert`
_ONE = 0x3F800000  # the bits of 1.0; those of numbers in [0, 1] are below


def uniforms(seeds: jax.Array, steps: jax.Array) -> jax.Array:
  """The random number in [0, 1) of one token of each sample.

  Args:
    seeds: any shape, uint32.
    steps: of that shape or a scalar, int; the token's index in its sample.
  """

  def one(seed, step):
    key = jax.random.key(seed, impl='threefry2x32')
    return jax.random.uniform(jax.random.fold_in(key, step))

  steps = jnp.broadcast_to(steps, seeds.shape)
  flat = jax.vmap(one)(seeds.reshape(-1), steps.reshape(-1))
  return flat.reshape(seeds.shape)


def restrict(probs: jax.Array, top_k, top_p) -> jax.Array:
  """Sets the probabilities of tokens that may not be drawn to 0.

  Nothing is sorted, which is slow on every device: the smallest probability
  that is kept is found bit by bit (the bits of floats that are not negative
  are ordered as the floats are).

  Args:
    probs: [..., V], at most 1.
    top_k: [...] or a scalar; keep the k largest, 0 keeps all.
    top_p: [...] or a scalar; then keep the fewest whose renormalised
      probability reaches top_p. Those that equal the smallest one are kept
      too.
  """
  V = probs.shape[-1]
  shape = probs.shape[:-1]
  top_k = jnp.broadcast_to(top_k, shape)
  top_p = jnp.broadcast_to(top_p, shape)
  bits = jax.lax.bitcast_convert_type(probs.astype(jnp.float32), jnp.int32)

  def largest(measure, target):
    """The largest x [...] for which measure(bits >= x) reaches the target."""

    def try_bit(turn, found):
      candidate = found | (1 << (_ONE.bit_length() - 1 - turn))
      reached = measure(bits >= candidate[..., None]) >= target
      return jnp.where(reached, candidate, found)

    zero = jnp.zeros(shape, jnp.int32)
    return jax.lax.fori_loop(0, _ONE.bit_length(), try_bit, zero)

  def count(kept):
    return jnp.sum(kept, axis=-1)

  k = jnp.where((top_k > 0) & (top_k < V), top_k, V)
  in_k = bits >= largest(count, k)[..., None]

  def mass(kept):
    return jnp.sum(jnp.where(kept & in_k, probs, 0.0), axis=-1)

  least = largest(mass, top_p * mass(True))
  least = jnp.where(top_p < 1, least, 0)
  return jnp.where(in_k & (bits >= least[..., None]), probs, 0.0)


def _invert(weights: jax.Array, uniform: jax.Array) -> jax.Array:
  """The index at which the cumulative sum of weights passes uniform * total.

  In two levels, blocks and then inside the block: a cumulative sum over a
  whole vocabulary is slow on every device, and less exact.

  Args:
    weights: [..., V], not negative.
    uniform: [...] in [0, 1).

  Returns:
    [...] int32, an index of positive weight.
  """
  V = weights.shape[-1]
  blocks = -(-V // _BLOCK)
  pad = [(0, 0)] * (weights.ndim - 1) + [(0, blocks * _BLOCK - V)]
  weights = jnp.pad(weights, pad)
  weights = weights.reshape(*weights.shape[:-1], blocks, _BLOCK)

  def locate(weights, target):
    """(index, what is left of target there) for weights [..., n]."""
    upto = jnp.cumsum(weights, axis=-1)
    # Rounding may push the target past the end: take the last positive one.
    positive = jnp.where(weights > 0, jnp.arange(weights.shape[-1]), 0)
    last = jnp.max(positive, axis=-1)
    index = jnp.minimum(jnp.sum(upto <= target[..., None], axis=-1), last)
    before = jnp.take_along_axis(upto - weights, index[..., None], axis=-1)
    # Sums round: what is left must not be below 0, where nothing has weight.
    return index, jnp.maximum(target - before[..., 0], 0.0)

  sums = jnp.sum(weights, axis=-1)
  block, left = locate(sums, uniform * jnp.sum(sums, axis=-1))
  inside = jnp.take_along_axis(weights, block[..., None, None], axis=-2)
  index, _ = locate(inside[..., 0, :], left)
  return (block * _BLOCK + index).astype(jnp.int32)


def likeliest(
  logits: jax.Array, count: int, *, temperature
) -> tuple[jax.Array, jax.Array]:
  """The likeliest tokens of each distribution, in falling order.

  Args:
    logits: [..., V] float32.
    count: K; at most V.
    temperature: [...] or a scalar, as of `choose`.

  Returns:
    (tokens [..., K] int32, their log-probabilities [..., K] float32), the
    latter as `choose` gives them.
  """
  logps, tokens = jax.lax.top_k(_logps(logits, temperature), count)
  return tokens.astype(jnp.int32), logps


def _logps(logits, temperature):
  temperature = jnp.broadcast_to(jnp.float32(temperature), logits.shape[:-1])
  divisor = jnp.where(temperature == 0, 1.0, temperature)[..., None]
  return jax.nn.log_softmax(logits / divisor, axis=-1)


def choose(
  logits: jax.Array,
  uniform: jax.Array,
  *,
  temperature,
  top_k=0,
  top_p=1.0,
  allowed: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Draws one token from each distribution.

  Args:
    logits: [..., V] float32.
    uniform: [...] in [0, 1).
    temperature: [...] or a scalar; divides the logits, 0 takes the largest.
    top_k: [...] or a scalar, see `restrict`.
    top_p: [...] or a scalar, see `restrict`.
    allowed: [..., V] bool, the tokens that may be drawn; all by default.
      Comes before top_k and top_p.

  Returns:
    (tokens [...] int32, their log-probabilities [...] float32), the latter at
    the temperature (1 if it is 0) and of the full distribution.
  """
  shape = logits.shape[:-1]
  temperature = jnp.broadcast_to(jnp.float32(temperature), shape)
  greedy = temperature == 0
  logits = logits / jnp.where(greedy, 1.0, temperature)[..., None]
  logps = jax.nn.log_softmax(logits, axis=-1)
  if allowed is None:
    probs = jnp.exp(logps)
  else:
    logits = jnp.where(allowed, logits, -jnp.inf)
    # Renormalised: what is allowed may be too rare for float32.
    probs = jax.nn.softmax(logits, axis=-1)
  probs = jax.lax.cond(
    jnp.any((jnp.asarray(top_k) > 0) | (jnp.asarray(top_p) < 1)),
    lambda probs: restrict(probs, top_k, top_p),
    lambda probs: probs,
    probs,
  )
  best = jnp.argmax(logits, axis=-1).astype(jnp.int32)
  tokens = jnp.where(greedy, best, _invert(probs, uniform))
  return tokens, jnp.take_along_axis(logps, tokens[..., None], axis=-1)[..., 0]

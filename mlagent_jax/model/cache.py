"""Keys and values of past tokens, as the sampler keeps them.

A prompt is computed once for all samples that continue it, so there are two
stores: *rows* hold prompts, which nobody writes while tokens are decoded, and
*slots* hold what each sample has added. A slot has a *seat* at the row of its
prompt, and any slot may sit at any row: for each token the queries of the
slots move to their seats (they are small) and the keys stay where they are.

Both stores are cut into segments along their tokens, each about as long as all
before it. A segment that nobody has reached is not read. The softmax is put
together from the segments' own (as in flash decoding, arXiv 2205.14135); what
a segment without any seen token adds is exactly 0, so that the bits of a
sample's result do not depend on how long its neighbours are.

Axes: Z shards of the batch (the devices on its mesh axes, 1 without a mesh),
each with R rows, W seats a row and B slots; P tokens of a segment; N query
heads, K kv heads, H head dim, L layers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.sharding import constrain

AXES = ('batch', None, 'kv_heads', None, None)
_FIRST_SEGMENT = 256
# Finite, so that a row that sees nothing stays free of NaN.
_MASKED = float(jnp.finfo(jnp.float32).min)


class Segment(NamedTuple):
  """Keys and values after the rotary embedding, in the computation's dtype.

  Attributes:
    keys: [Z, R, K, P, H] (prompts) or [Z, B, K, P, H] (samples).
    values: the same shape.
  """

  keys: jax.Array
  values: jax.Array


class Cache(NamedTuple):
  """Both stores: a tuple of segments for each of L layers.

  Attributes:
    prompts: L tuples of segments over the rows.
    samples: L tuples of segments over the slots.
  """

  prompts: tuple[tuple[Segment, ...], ...]
  samples: tuple[tuple[Segment, ...], ...]


class Seating(NamedTuple):
  """Who decodes which prompt, and how far everybody is.

  Attributes:
    lengths: [Z, R] int32, tokens stored of each row's prompt.
    slots: [Z, R, W] int32, the slot at each seat; any slot at an empty one.
    seats: [Z, B] int32, r * W + w of each slot.
    steps: [Z, B] int32, tokens stored of each slot's sample.
  """

  lengths: jax.Array
  slots: jax.Array
  seats: jax.Array
  steps: jax.Array


def segment_sizes(tokens: int) -> list[int]:
  """How a store of so many tokens is cut: 256, 256, 512, 1024, …"""
  sizes, total = [], 0
  while total < tokens:
    sizes.append(min(max(total, _FIRST_SEGMENT), tokens - total))
    total += sizes[-1]
  return sizes


def empty_cache(
  config: ModelConfig,
  *,
  shards: int,
  rows: int,
  slots: int,
  prompt_length: int,
  sample_length: int,
) -> Cache:
  """A cache without any token.

  Args:
    config: of the decoder.
    shards: Z.
    rows: R of a shard.
    slots: B of a shard.
    prompt_length: tokens that a row can hold.
    sample_length: tokens that a slot can hold.
  """

  def segment(holders, tokens):
    shape = (shards, holders, config.num_kv_heads, tokens, config.head_dim)
    empty = constrain(jnp.zeros(shape, config.dtype), AXES)
    return Segment(empty, empty)

  def store(holders, tokens):
    return tuple(
      tuple(segment(holders, size) for size in segment_sizes(tokens))
      for _ in range(config.num_layers)
    )

  return Cache(store(rows, prompt_length), store(slots, sample_length))


def store_prompts(cache: Cache, keys, values, rows) -> Cache:
  """Puts one prompt of every shard into a row.

  Args:
    cache: what to write to.
    keys: [L, Z, P, K, H], as of `Decoder.prefill`.
    values: the same shape.
    rows: [Z] int32, which row; R for none.
  """

  def layer(segments, keys, values):
    written, start = [], 0
    for segment in segments:
      end = start + segment.keys.shape[3]
      pair = (x[:, start:end].swapaxes(1, 2) for x in (keys, values))
      if start < keys.shape[1]:
        segment = Segment(*map(put, segment, pair))
      written.append(segment)
      start = end
    return tuple(written)

  @jax.vmap
  def put_one(store, prompt, row):
    return store.at[row, :, : prompt.shape[1]].set(prompt, mode='drop')

  def put(store, prompts):  # [Z, R, K, P, H], [Z, K, at most P, H]
    return constrain(put_one(store, prompts.astype(store.dtype), rows), AXES)

  prompts = (layer(*each) for each in zip(cache.prompts, keys, values))
  return cache._replace(prompts=tuple(prompts))


def append(segments, keys, values, steps) -> tuple[Segment, ...]:
  """Adds one token to every slot of a layer.

  Args:
    segments: of the slots.
    keys: [Z, B, K, H].
    values: [Z, B, K, H].
    steps: [Z, B] int32, where; beyond the last segment nothing is written.
  """

  @jax.vmap
  @jax.vmap
  def put_one(store, new, step):
    return store.at[:, step].set(new, mode='drop')

  written, start = [], 0
  for segment in segments:
    size = segment.keys.shape[3]
    here = (steps >= start) & (steps < start + size)
    index = jnp.where(here, steps - start, size)
    pair = (put_one(*each, index) for each in zip(segment, (keys, values)))
    written.append(Segment(*(constrain(store, AXES) for store in pair)))
    start += size
  return tuple(written)


def attend(q, prompts, samples, seating: Seating) -> jax.Array:
  """Attention of each slot's newest token, which is in its store already.

  Args:
    q: [Z, B, N, H], queries.
    prompts: segments [Z, R, K, P, H] of one layer.
    samples: segments [Z, B, K, P, H] of one layer.
    seating: who sits where.

  Returns:
    [Z, B, N, H] in the dtype of q; scores and softmax are float32.
  """
  Z, B, N, H = q.shape
  R, K = prompts[0].keys.shape[1:3]
  W = seating.slots.shape[2]
  q = (q * H**-0.5).reshape(Z, B, K, N // K, H)

  def move(x, index):  # along axis 1, to index [Z, n]
    index = index.reshape(*index.shape, *(1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, index, axis=1)

  seated = move(q, seating.slots.reshape(Z, R * W))
  seated = seated.reshape(Z, R, W, K, N // K, H).swapaxes(2, 3)
  seated = seated.reshape(Z, R, K, W * (N // K), H)
  # For each row: the longest that any slot reaches, 0 where nobody sits.
  in_prompt = _over_segments(seated, prompts, seating.lengths)

  def to_slots(x):  # [Z, R, K, W * (N / K), …] -> [Z, B, K, N / K, …]
    x = x.reshape(Z, R, K, W, N // K, *x.shape[4:]).swapaxes(2, 3)
    x = x.reshape(Z, R * W, K, N // K, *x.shape[5:])
    return move(x, seating.seats)

  in_prompt = jax.tree.map(to_slots, in_prompt)
  in_sample = _over_segments(q, samples, seating.steps + 1)
  _, total, out = _join(in_prompt, in_sample)
  return (out / total[..., None]).astype(q.dtype).reshape(Z, B, N, H)


def _over_segments(q, segments, lengths):
  """Attention over the first `lengths` [Z, n] tokens of each holder's store.

  Args:
    q: [Z, n, K, Q, H], scaled.
    segments: [Z, n, K, P, H] each.
    lengths: [Z, n] int32.

  Returns:
    (top, total, out): the largest score [Z, n, K, Q], the sum of
    exp(score - top), and the sum of exp(score - top) * value [..., H]; all
    float32.
  """

  def over(segment, start):
    tokens = start + jnp.arange(segment.keys.shape[3])
    seen = (tokens < lengths[..., None])[:, :, None, None]
    scores = jnp.einsum(
      'znkqh,znkph->znkqp', q, segment.keys, preferred_element_type=jnp.float32
    )
    scores = jnp.where(seen, scores, _MASKED)
    top = jnp.max(scores, axis=-1)
    weights = jnp.exp(scores - top[..., None])
    weights = jnp.where(seen, weights, 0.0)
    out = jnp.einsum(
      'znkqp,znkph->znkqh',
      weights.astype(q.dtype),
      segment.values,
      preferred_element_type=jnp.float32,
    )
    return top, jnp.sum(weights, axis=-1), out

  def nothing(segment):
    del segment
    shape = q.shape[:-1]
    return (
      jnp.full(shape, _MASKED),
      jnp.zeros(shape),
      jnp.zeros(q.shape, jnp.float32),
    )

  found, start = None, 0
  longest = jnp.max(lengths)
  for segment in segments:
    if found is None:
      found = over(segment, start)
    else:
      part = jax.lax.cond(
        longest > start, lambda s, at=start: over(s, at), nothing, segment
      )
      found = _join(found, part)
    start += segment.keys.shape[3]
  return found


def _join(first, second):
  """Attention over two sets of tokens from that over each."""
  top = jnp.maximum(first[0], second[0])
  a, b = jnp.exp(first[0] - top), jnp.exp(second[0] - top)
  total = a * first[1] + b * second[1]
  return top, total, a[..., None] * first[2] + b[..., None] * second[2]

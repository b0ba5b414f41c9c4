"""The sampler: a prompt is computed once, G continuations decode against it.

`make_sampler` returns one jitted program: prefill of S prompts, then a
`while_loop` that decodes one token of all S x G samples a turn against the
prompts' keys and values (stored once per state) and each sample's own suffix.
It stops as soon as every sample has.

A sample depends on its prompt, its seed and the parameters alone: the random
number of its token j is that of `fold_in(key(seed), j)`, one uniform a token,
turned into a token by inverting the cumulative distribution. What else is in
the batch, and in which row, plays no part.

The recorded log-probabilities are those of the full distribution at the given
temperature, before top-k and top-p: what the trainer computes for these tokens
(`model.logps.token_logps` with the same temperature). Greedy decoding records
those of temperature 1.

Axes: S states, G samples of a state, P prompt length, A new tokens, V
vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mlagent_jax.model.cache import empty_suffix_cache
from mlagent_jax.model.sharding import on_mesh
from mlagent_jax.train_state import put_batch

_BLOCK = 128  # of the cumulative sum over V, see `_invert`


class Samples(NamedTuple):
  """What the sampler returns.

  Attributes:
    tokens: [S, G, A] int32, 0 after the end of a sample.
    logps: [S, G, A] float32, 0 after the end of a sample.
    mask: [S, G, A] float32, 1 on the sample's tokens; its stop token is one.
    finished: [S, G] bool, whether a stop token ended the sample.
  """

  tokens: jax.Array
  logps: jax.Array
  mask: jax.Array
  finished: jax.Array


def uniforms(seeds: jax.Array, step: jax.Array) -> jax.Array:
  """The random number in [0, 1) of token `step` of each sample.

  Args:
    seeds: any shape, uint32.
    step: scalar int, index of the token in its sample.
  """

  def one(seed):
    key = jax.random.key(seed, impl='threefry2x32')
    return jax.random.uniform(jax.random.fold_in(key, step))

  return jax.vmap(one)(seeds.reshape(-1)).reshape(seeds.shape)


def restrict(logits: jax.Array, top_k: int, top_p: float) -> jax.Array:
  """Sets the logits that may not be drawn to -inf.

  Args:
    logits: [..., V].
    top_k: keep the k largest; 0 keeps all.
    top_p: then keep the fewest whose renormalised probability reaches top_p.
      Logits that equal the smallest kept one are kept too.
  """
  V = logits.shape[-1]
  limited = 0 < top_k < V
  if not limited and top_p >= 1.0:
    return logits
  # Only the k largest have to be sorted.
  largest, _ = jax.lax.top_k(logits, top_k if limited else V)
  least = largest[..., -1:]
  if top_p < 1.0:
    probs = jax.nn.softmax(largest, axis=-1)
    before = jnp.cumsum(probs, axis=-1) - probs
    kept = jnp.where(before < top_p, largest, jnp.inf)
    least = jnp.min(kept, axis=-1, keepdims=True)
  return jnp.where(logits >= least, logits, -jnp.inf)


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
    return index, target - before[..., 0]

  sums = jnp.sum(weights, axis=-1)
  block, left = locate(sums, uniform * jnp.sum(sums, axis=-1))
  inside = jnp.take_along_axis(weights, block[..., None, None], axis=-2)
  index, _ = locate(inside[..., 0, :], left)
  return (block * _BLOCK + index).astype(jnp.int32)


def choose(
  logits: jax.Array,
  uniform: jax.Array,
  *,
  temperature: float,
  top_k: int = 0,
  top_p: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
  """Draws one token from each distribution.

  Args:
    logits: [..., V] float32.
    uniform: [...] in [0, 1).
    temperature: divides the logits; 0 takes the largest.
    top_k: see `restrict`.
    top_p: see `restrict`.

  Returns:
    (tokens [...] int32, their log-probabilities [...] float32), the latter at
    the temperature (1 if it is 0) and before top_k and top_p.
  """
  if temperature > 0:
    logits = logits / temperature
  logps = jax.nn.log_softmax(logits, axis=-1)
  if temperature > 0:
    allowed = jnp.exp(restrict(logps, top_k, top_p))
    tokens = _invert(allowed, uniform)
  else:
    tokens = jnp.argmax(logits, axis=-1).astype(jnp.int32)
  return tokens, jnp.take_along_axis(logps, tokens[..., None], axis=-1)[..., 0]


def make_sampler(
  graphdef: nnx.GraphDef,
  *,
  samples_per_prompt: int,
  max_new_tokens: int,
  stop_ids: Sequence[int],
  temperature: float = 1.0,
  top_p: float = 1.0,
  top_k: int = 0,
  prompt_multiple: int = 64,
  mesh: jax.sharding.Mesh | None = None,
) -> Callable[..., Samples]:
  """Makes the sampler of a decoder.

  Args:
    graphdef: of the decoder.
    samples_per_prompt: G.
    max_new_tokens: A, with the stop token.
    stop_ids: tokens that end a sample, and belong to it.
    temperature: divides the logits; 0 is greedy.
    top_p: see `restrict`; 1 for none.
    top_k: see `restrict`; 0 for none.
    prompt_multiple: prompts are padded to a multiple of it, so that a program
      is compiled for each multiple and not for each length.
    mesh: the mesh that the parameters live on; states are split over it.

  Returns:
    sample(params, prompts [S, P] int32 padded on the right, lengths [S], seeds
    [S, G] uint32) -> Samples. A row of length 0 holds no prompt (it fills a
    batch up): its samples are empty. It raises ValueError if shapes disagree, a
    length exceeds P, or S does not divide by the mesh.

  Raises:
    ValueError: if an option is out of its range.
  """
  G, A = samples_per_prompt, max_new_tokens
  for name, value, fine in (
    ('samples_per_prompt', G, G >= 1),
    ('max_new_tokens', A, A >= 1),
    ('temperature', temperature, 0 <= temperature < math.inf),
    ('top_p', top_p, 0 < top_p <= 1),
    ('top_k', top_k, top_k >= 0),
    ('prompt_multiple', prompt_multiple, prompt_multiple >= 1),
  ):
    if not fine:
      raise ValueError(f'sampler: {name} is {value}')
  stops = np.asarray(sorted(set(stop_ids)), np.int32)

  def run(params, prompts, lengths, seeds):
    with on_mesh(mesh):
      return generate(params, prompts, lengths, seeds)

  def generate(params, prompts, lengths, seeds):
    model = nnx.merge(graphdef, params)
    S = prompts.shape[0]
    empty = jnp.broadcast_to((lengths == 0)[:, None], (S, G))
    lengths = jnp.maximum(lengths, 1)

    def draw(hidden, step, done, samples):
      """Draws token `step` of every sample that is not done, and records it."""
      tokens, logps = choose(
        model.logits(hidden),
        uniforms(seeds, step),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
      )
      stopped = (tokens[..., None] == stops).any(axis=-1) & ~done

      def record(old, new):
        new = jnp.where(done, 0, new).astype(old.dtype)[..., None]
        return jax.lax.dynamic_update_slice_in_dim(old, new, step, axis=2)

      samples = Samples(
        record(samples.tokens, tokens),
        record(samples.logps, logps),
        record(samples.mask, jnp.ones_like(logps)),
        samples.finished | stopped,
      )
      return jnp.where(done, 0, tokens), done | stopped, samples

    def turn(carry):
      step, tokens, done, samples, suffixes = carry
      hidden, suffixes = model.decode(
        tokens, step, lengths, prompt_cache, suffixes
      )
      tokens, done, samples = draw(hidden, step + 1, done, samples)
      return step + 1, tokens, done, samples, suffixes

    last, prompt_cache = model.prefill(prompts, lengths)
    samples = Samples(
      jnp.zeros((S, G, A), jnp.int32),
      jnp.zeros((S, G, A), jnp.float32),
      jnp.zeros((S, G, A), jnp.float32),
      jnp.zeros((S, G), bool),
    )
    first = jnp.broadcast_to(last[:, None], (S, G, last.shape[-1]))
    step = jnp.int32(0)
    tokens, done, samples = draw(first, step, empty, samples)
    suffixes = empty_suffix_cache(model.config, S, G, A)
    *_, samples, _ = jax.lax.while_loop(
      lambda carry: (carry[0] + 1 < A) & ~jnp.all(carry[2]),
      turn,
      (step, tokens, done, samples, suffixes),
    )
    return samples

  run = jax.jit(run)

  def sample(params, prompts, lengths, seeds) -> Samples:
    prompts = np.asarray(prompts, np.int32)
    lengths = np.asarray(lengths, np.int32)
    seeds = np.asarray(seeds, np.uint32)
    S, P = prompts.shape
    if lengths.shape != (S,) or seeds.shape != (S, G):
      raise ValueError(
        f'sampler: prompts {prompts.shape} need lengths ({S},) and seeds'
        f' ({S}, {G}), not {lengths.shape} and {seeds.shape}'
      )
    if lengths.min() < 0 or lengths.max() > P:
      raise ValueError(
        f'sampler: prompts are padded to {P} tokens, but lengths go from'
        f' {lengths.min()} to {lengths.max()}'
      )
    # Trailing padding beyond the longest prompt is not computed.
    bucket = max(-(-int(lengths.max()) // prompt_multiple), 1)
    padded = np.zeros((S, bucket * prompt_multiple), np.int32)
    width = min(P, padded.shape[1])
    padded[:, :width] = prompts[:, :width]
    return run(params, *put_batch((padded, lengths, seeds), mesh))

  return sample

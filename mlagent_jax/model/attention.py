"""Grouped-query attention over a layout.

`prepare` is the one place that chooses an implementation. It is asked once a
forward pass, before the scan over layers, so that what all layers share can be
made once; what it returns is called by every layer.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from mlagent_jax.model import splash, triton
from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.layers import rotate
from mlagent_jax.model.layout import Layout
from mlagent_jax.model.linear import Projections, constant, contract
from mlagent_jax.model.sharding import constrain, platform

# Finite, so that a row of padding, which sees nothing, stays free of NaN.
_MASKED = float(jnp.finfo(jnp.float32).min)

# Large enough for a matrix unit, small enough for a cache.
QUERY_BLOCK = 64

# Parts of a row that each leave out the keys behind them: 4 compute 5/8 of all
# scores, of which half are asked for.
BANDS = 4

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def prepare(layout: Layout) -> Attend:
  """The attention of one forward pass over `layout`.

  Packed groups have the plain one on every platform: the kernels take no masks
  that differ from row to row.

  Returns:
    attend(q [B, T, N, H], k [B, T, K, H], v [B, T, K, H]) -> [B, T, N, H].
    What it returns for padding tokens (segment 0) is finite and meaningless.
  """
  if layout.branches is not None:
    return functools.partial(causal_attention, layout=layout)
  kind = platform()
  if kind == 'tpu':
    return splash.prepare(layout)
  if kind in ('gpu', 'cuda', 'rocm'):
    return triton.prepare(layout, plain_attention)
  attend = shared_prompt_attention if layout.slots[0] else causal_attention
  return functools.partial(attend, layout=layout)


def plain_attention(q, k, v, layout: Layout, *, first: int = 0) -> jax.Array:
  """softmax(q k^T / sqrt(H)) v, for a block of queries at a time.

  The scores of one block, [B, N, C, T] with C at most QUERY_BLOCK, are all
  that exists of [B, N, T, T], forward and backward (they are computed again):
  memory grows with T, and on a CPU a block stays in its caches.

  Args:
    q: [B, T, N, H].
    k: [B, S, K, H], each serving N / K consecutive query heads, of the first
      S tokens of the row; no query sees what is behind them.
    v: [B, S, K, H].
    layout: which token sees which.
    first: the queries are of C tokens of the row, q [B, C, N, H], from this on.

  Returns:
    [B, T, N, H] in the dtype of q; scores and softmax are float32.
  """
  B, T, N, H = q.shape
  K = k.shape[2]
  blocks = -(-T // QUERY_BLOCK)
  C = -(-T // blocks)
  q = jnp.pad(q * H**-0.5, ((0, 0), (0, blocks * C - T), (0, 0), (0, 0)))
  q = q.reshape(B, blocks, C, K, N // K, H).transpose(1, 0, 3, 4, 2, 5)
  # [B, K, H, S]: no product, forward or backward, has to turn the large scores,
  # which XLA on CPU does three times slower.
  k, v = k.transpose(0, 2, 3, 1), v.transpose(0, 2, 3, 1)

  @functools.partial(jax.checkpoint, prevent_cse=False)  # inside a loop
  def one_block(block):
    q, queries = block  # [B, K, N / K, C, H], [C]
    scores = contract('bkrch,bkhs->bkrcs', q, k, jnp.float32)
    seen = layout.mask(queries)[:, None, None, :, : k.shape[3]]
    scores = jnp.where(seen, scores, _MASKED)
    top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - top)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    # Divided after the product, as in flash attention (arXiv 2205.14135): the
    # backward pass then sums over H and not over T.
    out = contract('bkrcs,bkhs->bkrch', weights.astype(v.dtype), v, jnp.float32)
    return (out / total).astype(v.dtype)

  queries = first + jnp.arange(blocks * C).reshape(blocks, C)
  out = jax.lax.map(one_block, (q, queries))  # [blocks, B, K, N / K, C, H]
  out = out.transpose(1, 0, 4, 2, 3, 5).reshape(B, blocks * C, N, H)
  return out[:, :T]


def causal_attention(q, k, v, layout: Layout) -> jax.Array:
  """`plain_attention` in bands of queries, which see no key behind them."""
  T = q.shape[1]
  blocks = -(-T // QUERY_BLOCK)
  bands = min(BANDS, blocks)
  ends = [min(T, (i + 1) * blocks // bands * QUERY_BLOCK) for i in range(bands)]
  return jnp.concatenate(
    [
      plain_attention(
        q[:, start:end], k[:, :end], v[:, :end], layout, first=start
      )
      for start, end in zip([0, *ends], ends)
    ],
    axis=1,
  )


def shared_prompt_attention(q, k, v, layout: Layout) -> jax.Array:
  """`plain_attention` over rows [prompt | G slots of A tokens].

  An action's queries meet the keys of the prompt and of their own slot, and not
  those of the other slots to be masked. A block is as many slots as have
  QUERY_BLOCK queries, at least one: its scores, [B, N, slots * A, P + A], are
  all that exists at once.
  """
  G, A = layout.slots
  segments = layout.segment_ids
  B, T, N, H = q.shape
  P, K = T - G * A, k.shape[2]
  prompt = Layout(layout.positions[:, :P], segments[:, :P])
  of_prompt = causal_attention(q[:, :P], k[:, :P], v[:, :P], prompt)
  per_block = min(G, max(1, QUERY_BLOCK // A))
  blocks = -(-G // per_block)

  def split(x):  # [B, G * A, …] -> [blocks, B, slots of a block, A, …]
    x = x.reshape(B, G, A, *x.shape[2:])
    padding = [(0, 0), (0, blocks * per_block - G), *[(0, 0)] * (x.ndim - 2)]
    x = jnp.pad(x, padding).reshape(B, blocks, per_block, *x.shape[2:])
    return jnp.moveaxis(x, 1, 0)

  # Axes: b row, k head of keys, r query heads of it, g slot, a query, s key of
  # the same slot, p key of the prompt, h. Keys as in `plain_attention`.
  queries = split((q[:, P:] * H**-0.5).reshape(B, G * A, K, N // K, H))
  queries = queries.transpose(0, 1, 4, 2, 5, 3, 6)  # bkgrah
  own_k, own_v = (split(x[:, P:]).transpose(0, 1, 4, 2, 5, 3) for x in (k, v))
  prompt_k, prompt_v = (x[:, :P].transpose(0, 2, 3, 1) for x in (k, v))
  order = jnp.arange(A)

  @functools.partial(jax.checkpoint, prevent_cse=False)  # inside a loop
  def one_block(block):
    q, k, v, mine = block  # …, [B, slots, A]
    mine = mine[..., None]
    seen = (mine == segments[:, None, None, :P]) & (mine != 0)  # bgap
    seen_own = (mine == jnp.swapaxes(mine, -1, -2)) & (mine != 0)
    seen_own &= order[:, None] >= order  # bgas

    def masked(scores, seen):
      return jnp.where(seen[:, None, :, None], scores, _MASKED)

    of_prompt = contract('bkgrah,bkhp->bkgrap', q, prompt_k, jnp.float32)
    of_own = contract('bkgrah,bkghs->bkgras', q, k, jnp.float32)
    of_prompt, of_own = masked(of_prompt, seen), masked(of_own, seen_own)
    top = jax.lax.stop_gradient(
      jnp.maximum(
        jnp.max(of_prompt, axis=-1, keepdims=True),
        jnp.max(of_own, axis=-1, keepdims=True),
      )
    )
    of_prompt, of_own = jnp.exp(of_prompt - top), jnp.exp(of_own - top)
    total = jnp.sum(of_prompt, axis=-1, keepdims=True)
    total += jnp.sum(of_own, axis=-1, keepdims=True)
    of_prompt, of_own = of_prompt.astype(v.dtype), of_own.astype(v.dtype)
    out = contract('bkgrap,bkhp->bkgrah', of_prompt, prompt_v, jnp.float32)
    out += contract('bkgras,bkghs->bkgrah', of_own, v, jnp.float32)
    return (out / total).astype(v.dtype)

  parts = queries, own_k, own_v, split(segments[:, P:])
  out = jax.lax.map(one_block, parts)  # [blocks, B, K, slots, N / K, A, H]
  out = out.transpose(1, 0, 3, 5, 2, 4, 6).reshape(B, -1, N, H)[:, : G * A]
  return jnp.concatenate([of_prompt, out], axis=1)


class Attention(Projections):
  """Projections of grouped-query attention; `attend` does the rest."""

  def __init__(self, config: ModelConfig, out_scale: float, rngs: nnx.Rngs):
    super().__init__(config)
    D, N, K, H = (
      config.embed_dim,
      config.num_heads,
      config.num_kv_heads,
      config.head_dim,
    )
    to_heads = ('embed', 'heads', 'head_dim')
    to_kv_heads = ('embed', 'kv_heads', 'head_dim')
    from_heads = ('heads', 'head_dim', 'embed')
    self.add('wq', rngs, (D, N, H), to_heads, 1, D**-0.5)
    self.add('wk', rngs, (D, K, H), to_kv_heads, 1, D**-0.5)
    self.add('wv', rngs, (D, K, H), to_kv_heads, 1, D**-0.5)
    out_scale *= (N * H) ** -0.5
    self.add('wo', rngs, (N, H, D), from_heads, 2, out_scale)
    self.bias = config.qkv_bias
    if self.bias:
      self.bq = constant(0.0, (N, H), to_heads[1:])
      self.bk = constant(0.0, (K, H), to_kv_heads[1:])
      self.bv = constant(0.0, (K, H), to_kv_heads[1:])

  def heads(self, x: jax.Array, angles) -> tuple[jax.Array, ...]:
    """Queries, keys and values of [B, T, D], rotated.

    Args:
      x: [B, T, D].
      angles: cosine and sine [B, T, H / 2].

    Returns:
      q [B, T, N, H], k [B, T, K, H] and v [B, T, K, H].
    """
    q = self.project('wq', 'btd,dnh->btnh', x)
    k = self.project('wk', 'btd,dkh->btkh', x)
    v = self.project('wv', 'btd,dkh->btkh', x)
    if self.bias:
      q += self.bq[...].astype(x.dtype)
      k += self.bk[...].astype(x.dtype)
      v += self.bv[...].astype(x.dtype)
    q = constrain(rotate(q, angles), ('batch', None, 'heads', None))
    k = constrain(rotate(k, angles), ('batch', None, 'kv_heads', None))
    return q, k, constrain(v, ('batch', None, 'kv_heads', None))

  def output(self, heads: jax.Array) -> jax.Array:
    """Maps [B, T, N, H] to [B, T, D]."""
    return self.project('wo', 'btnh,nhd->btd', heads)

"""Which token sees which: positions, segments and slots of a row of tokens.

One rule covers padding, packing and the shared-prompt layout. Token t sees
token s if and only if

  s <= t                                       (order in the row)
  segment[s] == segment[t] != 0                (same example, not padding)
  slot(s) == 0 or slot(s) == slot(t)           (the prompt, or its own action)

A row of packed examples has segments 1, 2, 3 … and no slots. A prompt with its
G actions, [prompt | action 1 | … | action G], is one segment whose last G * A
tokens are the slots 1, … G; every action's positions go on from the end of the
prompt. Slots are alike in all rows and known when a program is compiled, so
that a kernel can leave out what no token of a block sees.

A row of packed groups has several such segments without padding between. There
slot(s) is data: `branches`, which no kernel knows in advance.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Layout:
  """Where each token of [B, T] stands.

  Attributes:
    positions: [B, T] int32, position for the rotary embedding.
    segment_ids: [B, T] int32, 0 for padding, from 1 for examples.
    slots: (G, A): the last G * A tokens of every row are G slots of A tokens;
      static.
    branches: [B, T] int32, the slot of each token where it differs from row to
      row; None where it does not.
  """

  positions: jax.Array
  segment_ids: jax.Array
  slots: tuple[int, int] = dataclasses.field(
    default=(0, 1), metadata={'static': True}
  )
  branches: jax.Array | None = None

  def slot_of(self, tokens):
    """The slots of tokens (integers, NumPy's or JAX's); 0 is the prompt."""
    G, A = self.slots
    prompt = self.segment_ids.shape[1] - G * A
    return (tokens >= prompt) * ((tokens - prompt) // A + 1)

  def mask(self, queries: jax.Array | None = None) -> jax.Array:
    """Which token sees which.

    Args:
      queries: [C] int32, the tokens t to ask for; all by default. One that
        is T or above sees nothing.

    Returns:
      [B, C, T] bool: whether token queries[c] (axis 1) sees token s (axis 2).
    """
    segments = self.segment_ids
    order = jnp.arange(segments.shape[1])
    queries = order if queries is None else queries
    take = functools.partial(jnp.take, axis=1, mode='fill', fill_value=0)
    my_segments = take(segments, queries)[:, :, None]
    seen = (
      self.sees(queries[:, None], order)
      & (segments[:, None, :] == my_segments)
      & (my_segments != 0)
    )
    if self.branches is None:
      return seen
    mine = take(self.branches, queries)[:, :, None]
    branches = self.branches[:, None, :]
    return seen & ((branches == 0) | (branches == mine))

  def sees(self, t, s):
    """The rule of order and slots, of tokens t and s that broadcast."""
    slots = self.slot_of(s)
    return (s <= t) & ((slots == 0) | (slots == self.slot_of(t)))


def layout_of(batch: Mapping[str, jax.Array]) -> Layout:
  """The layout of a batch as `mlagent_jax.batching` makes it.

  Args:
    batch: 'positions' and 'segment_ids' [B, T]; 'branches' [B, T] (packed
      groups); the shape of 'targets', [B, T] (packed) or [S, G, A] (shared
      prompt, S = B).
  """
  if 'branches' in batch:
    return Layout(
      batch['positions'], batch['segment_ids'], branches=batch['branches']
    )
  slots = batch['targets'].shape[1:] if batch['targets'].ndim == 3 else (0, 1)
  return Layout(batch['positions'], batch['segment_ids'], slots)


def right_padded(lengths: jax.Array, total: int) -> Layout:
  """The layout of one example a row, padded on the right.

  Args:
    lengths: [B] int32, tokens of each row.
    total: T.
  """
  order = jnp.arange(total, dtype=jnp.int32)
  positions = jnp.broadcast_to(order, (lengths.shape[0], total))
  segments = (positions < lengths[:, None]).astype(jnp.int32)
  return Layout(positions, segments)

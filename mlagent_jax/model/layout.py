"""Which token sees which: positions, segments and slots of a row of tokens.

One rule covers padding, packing and the shared-prompt layout. Token t sees
token s if and only if

  s <= t                                       (order in the row)
  segment[s] == segment[t] != 0                (same example, not padding)
  slot[s] == 0 or slot[s] == slot[t]           (the prompt, or its own action)

A row of packed examples has segments 1, 2, 3 … and slots 0. A prompt with its
G actions, [prompt | action 1 | … | action G], is one segment with slots 0, 1,
… G; every action's positions go on from the end of the prompt.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Layout:
  """Where each token of [B, T] stands.

  Attributes:
    positions: [B, T] int32, position for the rotary embedding.
    segment_ids: [B, T] int32, 0 for padding, from 1 for examples.
    slot_ids: [B, T] int32, 0 for a prompt, g >= 1 for the g-th action.
  """

  positions: jax.Array
  segment_ids: jax.Array
  slot_ids: jax.Array

  def mask(self, queries: jax.Array | None = None) -> jax.Array:
    """Which token sees which.

    Args:
      queries: [C] int32, the tokens t to ask for; all by default. One that
        is T or above sees nothing.

    Returns:
      [B, C, T] bool: whether token queries[c] (axis 1) sees token s (axis 2).
    """
    segments, slots = self.segment_ids, self.slot_ids
    order = jnp.arange(segments.shape[1])
    queries = order if queries is None else queries
    take = functools.partial(jnp.take, axis=1, mode='fill', fill_value=0)
    my_segments = take(segments, queries)[:, :, None]
    my_slots = take(slots, queries)[:, :, None]
    return (
      (order <= queries[:, None])
      & (segments[:, None, :] == my_segments)
      & (my_segments != 0)
      & ((slots[:, None, :] == 0) | (slots[:, None, :] == my_slots))
    )


def right_padded(lengths: jax.Array, total: int) -> Layout:
  """The layout of one example a row, padded on the right.

  Args:
    lengths: [B] int32, tokens of each row.
    total: T.
  """
  order = jnp.arange(total, dtype=jnp.int32)
  positions = jnp.broadcast_to(order, (lengths.shape[0], total))
  segments = (positions < lengths[:, None]).astype(jnp.int32)
  return Layout(positions, segments, jnp.zeros_like(positions))

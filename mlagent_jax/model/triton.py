"""Attention on GPU: the Triton kernel of JAX, over a layout.

The kernel knows the order of a row and its segments. Slots it does not know:
of the shared-prompt layout it computes the prompt, and the actions' queries go
through plain attention in blocks.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax.experimental.pallas.ops.gpu import attention as kernel_lib

from mlagent_jax.model.layout import Layout
from mlagent_jax.model.sharding import axes_of_heads, on_each_device

_TILE = 128


def prepare(
  layout: Layout, plain: Callable, *, interpret: bool = False
) -> Callable:
  """The attention of one forward pass over `layout`, as `attention.prepare`.

  Args:
    layout: which token sees which.
    plain: `attention.plain_attention`.
    interpret: run the kernel without a GPU (slow; for tests).

  Returns:
    attend(q [B, T, N, H], k [B, T, K, H], v [B, T, K, H]) -> [B, T, N, H].
  """
  T = layout.segment_ids.shape[1]
  G, A = layout.slots
  P = T - G * A

  def of_prompts(q, k, v, segments):  # [B, P, …]
    def pad(x):
      return jnp.pad(x, [(0, 0), (0, -P % _TILE)] + [(0, 0)] * (x.ndim - 2))

    # The kernel wants as many heads of keys as of queries.
    k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    out = kernel_lib.mha(
      *map(pad, (q, k, v, segments)),
      sm_scale=q.shape[-1] ** -0.5,
      causal=True,
      interpret=interpret,
    )
    return out[:, :P]

  def of_one_device(q, k, v, positions, segments):
    prompts = of_prompts(*(x[:, :P] for x in (q, k, v, segments)))
    if not G:
      return prompts
    local = Layout(positions, segments, layout.slots)
    actions = plain(q[:, P:], k, v, local, first=P)
    return jnp.concatenate([prompts, actions], axis=1)

  def attend(q, k, v):
    rows = ('batch', None)
    heads, kv_heads = axes_of_heads(q.shape[2], k.shape[2])
    queries, keys = (*rows, heads, None), (*rows, kv_heads, None)
    return on_each_device(
      of_one_device, [queries, keys, keys, rows, rows], queries, check_vma=False
    )(q, k, v, layout.positions, layout.segment_ids)

  return attend

"""Attention on TPU: the splash kernel of JAX, over a layout.

Splash attention leaves out the blocks of [T, T] that no token sees, so the
order of the row and the slots of the shared-prompt layout, which are known when
a program is compiled, go into its mask; segments, which are data, go in as the
kernel's own segment ids. Block skipping makes an action cost its prompt and its
own slot, not the other actions.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as kernel_lib,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask as mask_lib,
)

from mlagent_jax.model.layout import Layout
from mlagent_jax.model.sharding import axes_of_heads, on_each_device

# A multiple of the 128 lanes; MaxText's default.
BLOCK = 512
_LANES = 128


class _Mask(mask_lib.Mask):
  """The rule of a layout without its segments, block by block."""

  def __init__(self, layout: Layout, length: int):
    # NumPy's: a traced layout would make the mask a traced value.
    segments = np.zeros((1, layout.segment_ids.shape[1]), np.int32)
    self._layout = Layout(segments, segments, layout.slots)
    self._length = length

  @property
  def shape(self) -> tuple[int, int]:
    return self._length, self._length

  def __getitem__(self, index) -> np.ndarray:
    t, s = (np.arange(self._length)[part] for part in index)
    slots = self._layout.slot_of(s)
    # Most blocks are all alike, and there are thousands.
    if s[0] > t[-1]:
      return np.zeros((len(t), len(s)), bool)
    if s[-1] <= t[0] and not slots.any():
      return np.ones((len(t), len(s)), bool)
    return self._layout.sees(t[:, None], s)

  def __eq__(self, other) -> bool:
    return isinstance(other, _Mask) and self._key == other._key

  def __hash__(self) -> int:
    return hash(self._key)

  @property
  def _key(self):
    layout = self._layout
    return self._length, layout.segment_ids.shape, layout.slots


def prepare(
  layout: Layout, *, block: int = BLOCK, interpret: bool = False
) -> Callable:
  """The attention of one forward pass over `layout`, as `attention.prepare`.

  Args:
    layout: which token sees which.
    block: largest tile, a multiple of 128.
    interpret: run the kernel without a TPU (slow; for tests).

  Returns:
    attend(q [B, T, N, H], k [B, T, K, H], v [B, T, K, H]) -> [B, T, N, H].
  """
  T = layout.segment_ids.shape[1]
  block = min(block, -(-T // _LANES) * _LANES)
  length = -(-T // block) * block
  names = ('block_q', 'block_kv', 'block_kv_compute', 'block_q_dkv')
  names += ('block_kv_dkv', 'block_kv_dkv_compute', 'block_q_dq', 'block_kv_dq')
  kernel = kernel_lib.make_splash_mha(
    mask_lib.MultiHeadMask([_Mask(layout, length)]),  # of all heads
    block_sizes=kernel_lib.BlockSizes(**dict.fromkeys(names, block)),
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
  )

  def of_one_row(q, k, v, segments):  # [N, T, H], [K, T, H], [K, T, H], [T]
    return kernel(q, k, v, kernel_lib.SegmentIds(segments, segments))

  def of_one_device(q, k, v, segments):
    def lay_out(x):  # [B, T, N, H] -> [B, N, length, H]
      x = jnp.pad(x, ((0, 0), (0, length - T), (0, 0), (0, 0)))
      return x.transpose(0, 2, 1, 3)

    segments = jnp.pad(segments, ((0, 0), (0, length - T)))
    q = lay_out(q * q.shape[-1] ** -0.5)
    out = jax.vmap(of_one_row)(q, lay_out(k), lay_out(v), segments)
    return out.transpose(0, 2, 1, 3)[:, :T]

  def attend(q, k, v):
    heads, kv_heads = axes_of_heads(q.shape[2], k.shape[2])
    queries, keys = (
      ('batch', None, heads, None),
      ('batch', None, kv_heads, None),
    )
    return on_each_device(
      of_one_device,
      [queries, keys, keys, ('batch', None)],
      queries,
      check_vma=False,
    )(q, k, v, layout.segment_ids)

  return attend

"""FLOPs of a program, and the least time that a chip needs for it.

Model FLOPs count what the mathematics asks for: 2 a multiply-add, matrix
products and attention only, a causal token sees itself and what is before it
(T (T + 1) / 2 pairs of a row, and not T squared), a backward pass is twice its
forward pass, and nothing is counted twice that is computed twice. Rows are
taken as full. Executed FLOPs add what is computed again: a block with remat,
the logits of a chunk, and the scores in the backward kernels of attention.

The roofline is a lower bound: every part of the chip at its peak, and compute,
memory and interconnect in parallel, so that the slowest of the three is the
time. MFU is model FLOPs over that time, over the peak.
"""

import dataclasses

from mlagent_jax.model.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Chip:
  """One chip of a generation.

  Attributes:
    name: as in a topology's name.
    flops: bf16 FLOP/s.
    hbm_gib: GiB of memory that a program may use.
    hbm_bandwidth: bytes/s.
    link_bandwidth: bytes/s that a chip sends along one mesh axis: both
      directions of one axis of the torus, or its NVLink.
  """

  name: str
  flops: float
  hbm_gib: float
  hbm_bandwidth: float
  link_bandwidth: float


# TPU: FLOP/s, HBM and one-way bandwidth of an ICI link, of which an axis has
# two, from the table of https://jax-ml.github.io/scaling-book/tpus/; see also
# https://cloud.google.com/tpu/docs/system-architecture-tpu-vm. hbm_gib is what
# the compiler (libtpu 0.0.42) says when a program exceeds it. H100: datasheet
# of the SXM, https://www.nvidia.com/en-us/data-center/h100/ (dense FLOP/s;
# NVLink has 900 GB/s in both directions together).
CHIPS = {
  'TPU v5 lite': Chip('v5e', 197e12, 15.75, 0.81e12, 2 * 45e9),
  'TPU v5': Chip('v5p', 459e12, 95.74, 2.8e12, 2 * 90e9),
  'TPU v6 lite': Chip('v6e', 918e12, 31.25, 1.6e12, 2 * 90e9),
  'NVIDIA H100 80GB HBM3': Chip('h100', 989e12, 79.1, 3.35e12, 450e9),
}


@dataclasses.dataclass(frozen=True)
class Work:
  """What a program computes, over all chips.

  Attributes:
    tokens: that go through the blocks.
    predicted: tokens whose logits are computed.
    pairs: (token, token it sees) pairs of attention, of one head and layer.
    trains: whether there is a backward pass.
  """

  tokens: int
  predicted: int
  pairs: int
  trains: bool

  def model_flops(self, model: ModelConfig) -> float:
    """By the convention of this module, over all chips."""
    return (3 if self.trains else 1) * sum(self._forward(model))

  def executed_flops(self, model: ModelConfig) -> float:
    """With what is computed again, over all chips."""
    blocks, attention, head = self._forward(model)
    if not self.trains:
      return blocks + attention + head
    again = model.remat == 'full'
    # Forward 2 products of [T, T] a head, backward 7: the scores and their
    # gradients in the kernels of dq and of dk, dv.
    kernels = 1 + 3.5 + (model.remat != 'none')
    return blocks * (3 + again) + attention * kernels + head * 4

  def _forward(self, model) -> tuple[float, float, float]:
    blocks = 2.0 * self.tokens * model.num_layers * block_params(model)
    heads = model.num_heads * model.head_dim
    attention = 4.0 * self.pairs * model.num_layers * heads
    head = 2.0 * self.predicted * model.embed_dim * model.vocab_size
    return blocks, attention, head


def block_params(model: ModelConfig) -> int:
  """Weights of the matrix products of one block."""
  heads = 2 * (model.num_heads + model.num_kv_heads) * model.head_dim
  return model.embed_dim * (heads + 3 * model.ffn_dim)


def num_params(model: ModelConfig) -> int:
  """Weights of matrix products and embeddings (norms and biases are few)."""
  embeddings = 1 if model.tied_embeddings else 2
  return (
    model.num_layers * block_params(model)
    + embeddings * model.vocab_size * model.embed_dim
  )


def causal_pairs(length: int) -> int:
  """Pairs of a row of `length` tokens."""
  return length * (length + 1) // 2


def shared_prompt_pairs(prompt: int, samples: int, action: int) -> int:
  """Pairs of [prompt | samples slots of action tokens]."""
  own = action * prompt + causal_pairs(action)
  return causal_pairs(prompt) + samples * own


@dataclasses.dataclass(frozen=True)
class Estimate:
  """The roofline of one run of a program.

  Attributes:
    compute_seconds: executed FLOPs at the peak.
    hbm_seconds: bytes of memory at its bandwidth.
    interconnect_seconds: bytes sent at the bandwidth of a link.
    binds: 'compute', 'hbm' or 'interconnect': the largest.
    seconds: that one.
    mfu: model FLOPs of that time over the peak.
  """

  compute_seconds: float
  hbm_seconds: float
  interconnect_seconds: float
  binds: str
  seconds: float
  mfu: float


def estimate(
  chip: Chip,
  chips: int,
  work: Work,
  model: ModelConfig,
  hbm_bytes: float,
  sent_bytes: float,
) -> Estimate:
  """The roofline of one run.

  Args:
    chip: the generation.
    chips: how many.
    work: over all chips.
    model: its shape.
    hbm_bytes: of one chip, read and written.
    sent_bytes: of one chip, sent to others.
  """
  parts = {
    'compute': work.executed_flops(model) / chips / chip.flops,
    'hbm': hbm_bytes / chip.hbm_bandwidth,
    'interconnect': sent_bytes / chip.link_bandwidth,
  }
  binds = max(parts, key=parts.get)
  seconds = parts[binds]
  mfu = work.model_flops(model) / chips / chip.flops / seconds
  return Estimate(*parts.values(), binds, seconds, mfu)

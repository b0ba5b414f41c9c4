"""Shape of a decoder as a frozen dataclass (floor 0)."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A Qwen2/2.5 or Llama decoder. Axis letters as in the whole project.

  Attributes:
    num_layers: L.
    embed_dim: D.
    num_heads: N, query heads.
    num_kv_heads: K; N is a multiple of K.
    head_dim: H.
    ffn_dim: F.
    vocab_size: V.
    qkv_bias: bias on query, key and value projections (Qwen2: yes).
    tied_embeddings: the output head is the transposed embedding.
    rope_theta: base of the rotary embedding.
    rms_norm_eps: epsilon of every RMSNorm.
    dtype: dtype of the computation ('float32' or 'bfloat16'); master weights
      are always float32.
    remat: rematerialisation policy of the layer scan: 'none', 'dots' (keep
      the outputs of matrix products) or 'full'.
  """

  num_layers: int
  embed_dim: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  ffn_dim: int
  vocab_size: int
  qkv_bias: bool = True
  tied_embeddings: bool = False
  rope_theta: float = 1e6
  rms_norm_eps: float = 1e-6
  dtype: str = 'float32'
  remat: str = 'none'

  def __post_init__(self):
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'num_heads {self.num_heads} is not a multiple of num_kv_heads'
        f' {self.num_kv_heads}'
      )
    if self.head_dim % 2:
      raise ValueError(f'head_dim {self.head_dim} is odd; RoPE needs pairs')

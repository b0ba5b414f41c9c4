"""Shape of a decoder as a frozen dataclass (floor 0)."""

import dataclasses

# Weight matrices of a block that LoRA can adapt.
LORA_TARGETS = ('wq', 'wk', 'wv', 'wo', 'gate', 'up', 'down')
DTYPES = ('float32', 'bfloat16')
REMAT = ('none', 'dots', 'full')


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
      the results of projections and of attention) or 'full' (keep a block's
      input).
    lora_rank: rank of the adapters (LoRA), which alone are trained then; 0 for
      none.
    lora_alpha: what the adapters add is multiplied by lora_alpha / lora_rank.
    lora_targets: which weight matrices of a block have one.
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
  lora_rank: int = 0
  lora_alpha: float = 16.0
  lora_targets: tuple[str, ...] = LORA_TARGETS

  def __post_init__(self):
    for name, choices in (('dtype', DTYPES), ('remat', REMAT)):
      if getattr(self, name) not in choices:
        raise ValueError(f'{name} {getattr(self, name)!r} is none of {choices}')
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'num_heads {self.num_heads} is not a multiple of num_kv_heads'
        f' {self.num_kv_heads}'
      )
    if self.head_dim % 2:
      raise ValueError(f'head_dim {self.head_dim} is odd; RoPE needs pairs')
    unknown = sorted(set(self.lora_targets) - set(LORA_TARGETS))
    if (
      unknown
      or self.lora_rank < 0
      or (self.lora_rank and not self.lora_targets)
    ):
      raise ValueError(
        f'lora_rank {self.lora_rank} with lora_targets {self.lora_targets}: the'
        f' rank is 0 or more, targets are some of {LORA_TARGETS}'
      )

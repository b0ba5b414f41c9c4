"""A GGUF file as a Hugging Face model: its config and its tensors.

Quantised tensors are dequantised to float32 when they are asked for. llama.cpp
stores the rows of Llama's query and key projections in another order (pairs of
the rotary embedding interleaved); that is undone here. Sources: the `gguf`
package (constants, quants) and llama.cpp, convert_hf_to_gguf.py
(LlamaModel.permute).
"""

import pathlib
from collections.abc import Iterator, Mapping

import numpy as np

from mlagent_jax.model.hf_config import FAMILIES
from mlagent_jax.model.safetensors_files import WeightsError

_LAYER = {
  'attn_norm': 'input_layernorm',
  'attn_q': 'self_attn.q_proj',
  'attn_k': 'self_attn.k_proj',
  'attn_v': 'self_attn.v_proj',
  'attn_output': 'self_attn.o_proj',
  'ffn_norm': 'post_attention_layernorm',
  'ffn_gate': 'mlp.gate_proj',
  'ffn_up': 'mlp.up_proj',
  'ffn_down': 'mlp.down_proj',
}
_OUTSIDE = {
  'token_embd': 'model.embed_tokens',
  'output_norm': 'model.norm',
  'output': 'lm_head',
}


class GgufFile(Mapping[str, np.ndarray]):
  """The tensors of a GGUF file under Hugging Face's names, float32.

  Attributes:
    hf_config: what config.json would say.
  """

  def __init__(self, path: pathlib.Path):
    """Reads the metadata.

    Raises:
      WeightsError: if the file is not a model that we compute.
      ImportError: if the package `gguf` is not installed.
    """
    import gguf

    try:
      reader = gguf.GGUFReader(path)
    except (ValueError, IndexError) as error:
      raise WeightsError(f'{path} is no GGUF file: {error}') from error
    self._path = path
    self._fields = {k: field.contents() for k, field in reader.fields.items()}
    self._dequantize = gguf.quants.dequantize
    self._tensors = {_hf_name(t.name): t for t in reader.tensors}
    self.hf_config = self._make_config()

  def _make_config(self):
    family = self._fields.get('general.architecture')
    if family not in FAMILIES:
      raise WeightsError(
        f'{self._path} has architecture {family!r}, none of {tuple(FAMILIES)}'
      )
    scaling = self._fields.get(f'{family}.rope.scaling.type', 'none')
    if scaling != 'none':
      raise WeightsError(
        f'{self._path} has rope.scaling.type={scaling!r}; only the plain'
        ' rotary embedding is supported'
      )

    def field(name):
      key = f'{family}.{name}'
      if key not in self._fields:
        raise WeightsError(f'{self._path} has no {key}')
      return self._fields[key]

    heads, width = field('attention.head_count'), field('embedding_length')
    head_dim = self._fields.get(f'{family}.attention.key_length')
    head_dim = head_dim or width // heads
    rotated = self._fields.get(f'{family}.rope.dimension_count', head_dim)
    if rotated != head_dim:
      raise WeightsError(
        f'{self._path} rotates {rotated} of {head_dim} dimensions of a head;'
        ' only all are supported'
      )
    # A float32 of the file, as the decimal number that it was written for.
    epsilon = float(str(np.float32(field('attention.layer_norm_rms_epsilon'))))
    return {
      'architectures': [FAMILIES[family]],
      'model_type': family,
      'hidden_act': 'silu',
      'hidden_size': width,
      'intermediate_size': field('feed_forward_length'),
      'num_hidden_layers': field('block_count'),
      'num_attention_heads': heads,
      'num_key_value_heads': self._fields.get(
        f'{family}.attention.head_count_kv', heads
      ),
      'head_dim': head_dim,
      'vocab_size': len(self._fields['tokenizer.ggml.tokens']),
      'tie_word_embeddings': 'lm_head.weight' not in self._tensors,
      'rope_theta': self._fields.get(f'{family}.rope.freq_base', 1e4),
      'rms_norm_eps': epsilon,
      'max_position_embeddings': field('context_length'),
      'bos_token_id': self._fields.get('tokenizer.ggml.bos_token_id'),
      'eos_token_id': self._fields.get('tokenizer.ggml.eos_token_id'),
      'torch_dtype': 'float32',
    }

  def __getitem__(self, name: str) -> np.ndarray:
    tensor = self._tensors[name]
    values = self._dequantize(tensor.data, tensor.tensor_type)
    if self.hf_config['model_type'] == 'llama':
      if '.q_proj.' in name:
        return _in_halves(values, self.hf_config['num_attention_heads'])
      if '.k_proj.' in name:
        return _in_halves(values, self.hf_config['num_key_value_heads'])
    return values

  def __iter__(self) -> Iterator[str]:
    return iter(self._tensors)

  def __len__(self) -> int:
    return len(self._tensors)

  def dtype(self, name: str) -> np.dtype:
    """float32: quantised values are kept as what they stand for."""
    del name
    return np.dtype(np.float32)


def _hf_name(name: str) -> str:
  """'model.layers.0.mlp.up_proj.weight' of 'blk.0.ffn_up.weight'.

  A name without counterpart stays as it is, and is refused as such later.
  """
  parts = name.split('.')
  if parts[0] == 'blk' and len(parts) == 4 and parts[2] in _LAYER:
    return f'model.layers.{parts[1]}.{_LAYER[parts[2]]}.{parts[3]}'
  if len(parts) == 2 and parts[0] in _OUTSIDE:
    return f'{_OUTSIDE[parts[0]]}.{parts[1]}'
  return name


def _in_halves(rows: np.ndarray, heads: int) -> np.ndarray:
  """Rows (x[i], x[i + H / 2]) of each head from interleaved pairs."""
  pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
  return pairs.swapaxes(1, 2).reshape(rows.shape)

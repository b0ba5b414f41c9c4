"""The shape of a decoder from and to Hugging Face's config.json.

What this decoder does not compute (scaled rotary embeddings, sliding windows,
other activations, other biases, quantised weights) is refused by name.
"""

from collections.abc import Mapping

from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.safetensors_files import WeightsError

FAMILIES = {'qwen2': 'Qwen2ForCausalLM', 'llama': 'LlamaForCausalLM'}

# Fields that change what a model computes -> what we compute. None as a value
# is Hugging Face's "not used".
_COMPUTED = {
  'hidden_act': ('silu',),
  'use_sliding_window': (False, None),
  'mlp_bias': (False, None),
  'attention_dropout': (0, None),
  'partial_rotary_factor': (1, None),
  'quantization_config': (None,),
}
_NEEDED = (
  'hidden_size',
  'intermediate_size',
  'num_attention_heads',
  'num_hidden_layers',
  'rms_norm_eps',
  'vocab_size',
)


def config_from_hf(hf_config: Mapping, **overrides) -> ModelConfig:
  """The shape of a Hugging Face model.

  Args:
    hf_config: its config.json as a dict (or `config.to_dict()`).
    **overrides: fields of ModelConfig to set otherwise (dtype, remat).

  Raises:
    WeightsError: for another family, a setting that we do not compute, or a
      field that is missing.
  """
  family = hf_config.get('model_type')
  if family not in FAMILIES:
    raise WeightsError(f'model_type {family!r} is not one of {tuple(FAMILIES)}')
  # Qwen2's bias is on by definition; Llama's option also adds one to o_proj.
  computed = _COMPUTED | {
    'architectures': ([FAMILIES[family]], None, []),
    'attention_bias': (family == 'qwen2', None),
  }
  for field, allowed in computed.items():
    value = hf_config.get(field, allowed[0])
    if value not in allowed:
      raise WeightsError(
        f'{family} config has {field}={value!r}; only {allowed[0]!r} is'
        ' supported'
      )
  layer_types = set(hf_config.get('layer_types') or ()) - {'full_attention'}
  if layer_types:
    raise WeightsError(
      f'{family} config has layer_types with {sorted(layer_types)}; only'
      " 'full_attention' is supported"
    )
  lacking = [field for field in _NEEDED if hf_config.get(field) is None]
  if lacking:
    raise WeightsError(f'{family} config has no {", ".join(lacking)}')
  num_heads = hf_config['num_attention_heads']
  embed_dim = hf_config['hidden_size']
  fields = {
    'num_layers': hf_config['num_hidden_layers'],
    'embed_dim': embed_dim,
    'num_heads': num_heads,
    'num_kv_heads': hf_config.get('num_key_value_heads') or num_heads,
    'head_dim': hf_config.get('head_dim') or embed_dim // num_heads,
    'ffn_dim': hf_config['intermediate_size'],
    'vocab_size': hf_config['vocab_size'],
    'qkv_bias': family == 'qwen2',
    'tied_embeddings': hf_config.get('tie_word_embeddings', False),
    'rope_theta': _rope_theta(hf_config),
    'rms_norm_eps': hf_config['rms_norm_eps'],
  }
  return ModelConfig(**(fields | overrides))


def config_to_hf(
  config: ModelConfig, *, max_positions: int, dtype: str
) -> dict:
  """The config.json of a model that has none, such as one trained from scratch.

  Args:
    config: its shape.
    max_positions: the longest sequence that it is meant for.
    dtype: of the exported weights, such as 'bfloat16'.
  """
  family = 'qwen2' if config.qkv_bias else 'llama'
  return {
    'architectures': [FAMILIES[family]],
    'model_type': family,
    'hidden_act': 'silu',
    'hidden_size': config.embed_dim,
    'intermediate_size': config.ffn_dim,
    'num_hidden_layers': config.num_layers,
    'num_attention_heads': config.num_heads,
    'num_key_value_heads': config.num_kv_heads,
    'head_dim': config.head_dim,
    'vocab_size': config.vocab_size,
    'tie_word_embeddings': config.tied_embeddings,
    'rope_theta': config.rope_theta,
    'rms_norm_eps': config.rms_norm_eps,
    'max_position_embeddings': max_positions,
    'torch_dtype': dtype,
  }


def _rope_theta(hf_config):
  """Base of the rotary embedding, from either place where it is written."""
  rope = hf_config.get('rope_parameters') or hf_config.get('rope_scaling') or {}
  kind = rope.get('rope_type', rope.get('type', 'default'))
  if kind != 'default':
    raise WeightsError(
      f'config has rope_type={kind!r}; only the plain rotary embedding is'
      ' supported'
    )
  part = rope.get('partial_rotary_factor', 1)
  if part != 1:
    raise WeightsError(
      f'config has partial_rotary_factor={part!r}; only 1 is supported'
    )
  theta = rope.get('rope_theta', hf_config.get('rope_theta'))
  # Both families' default where config.json does not say.
  return 10_000.0 if theta is None else float(theta)

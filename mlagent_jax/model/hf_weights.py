"""Weights from and to Hugging Face's Qwen2 and Llama checkpoints.

Linear layers there are [out, in] matrices, one tensor a layer; ours are
[in, out] with heads as an axis of their own, stacked over layers. `_TENSORS`
is the whole correspondence. Nothing is approximated: what this decoder does
not compute (scaled rotary embeddings, sliding windows, other activations,
other biases) is refused by name.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.decoder import abstract_model
from mlagent_jax.model.sharding import state_shardings

FAMILIES = ('qwen2', 'llama')


class _Tensor(NamedTuple):
  """One of our parameters and its counterpart (of one layer, if in blocks)."""

  name: str
  from_hf: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
  to_hf: Callable[[np.ndarray], np.ndarray]


def _as_is(name):
  return _Tensor(name, lambda w, shape: w.reshape(shape), lambda w: w)


def _linear(name):
  return _Tensor(name, lambda w, shape: w.T.reshape(shape), lambda w: w.T)


def _to_heads(name):  # [N H, D] <-> [D, N, H]
  return _Tensor(
    name,
    lambda w, shape: w.T.reshape(shape),
    lambda w: w.reshape(len(w), -1).T,
  )


def _from_heads(name):  # [D, N H] <-> [N, H, D]
  return _Tensor(
    name,
    lambda w, shape: w.T.reshape(shape),
    lambda w: w.reshape(-1, w.shape[-1]).T,
  )


def _head_bias(name):  # [N H] <-> [N, H]
  return _Tensor(name, lambda w, shape: w.reshape(shape), np.ravel)


_LAYER = 'model.layers.{layer}.'
_TENSORS = {
  'embedding': _as_is('model.embed_tokens.weight'),
  'final_norm.scale': _as_is('model.norm.weight'),
  'output': _linear('lm_head.weight'),
  'blocks.attention_norm.scale': _as_is(_LAYER + 'input_layernorm.weight'),
  'blocks.attention.wq': _to_heads(_LAYER + 'self_attn.q_proj.weight'),
  'blocks.attention.wk': _to_heads(_LAYER + 'self_attn.k_proj.weight'),
  'blocks.attention.wv': _to_heads(_LAYER + 'self_attn.v_proj.weight'),
  'blocks.attention.bq': _head_bias(_LAYER + 'self_attn.q_proj.bias'),
  'blocks.attention.bk': _head_bias(_LAYER + 'self_attn.k_proj.bias'),
  'blocks.attention.bv': _head_bias(_LAYER + 'self_attn.v_proj.bias'),
  'blocks.attention.wo': _from_heads(_LAYER + 'self_attn.o_proj.weight'),
  'blocks.mlp_norm.scale': _as_is(_LAYER + 'post_attention_layernorm.weight'),
  'blocks.mlp.gate': _linear(_LAYER + 'mlp.gate_proj.weight'),
  'blocks.mlp.up': _linear(_LAYER + 'mlp.up_proj.weight'),
  'blocks.mlp.down': _linear(_LAYER + 'mlp.down_proj.weight'),
}


def config_from_hf(hf_config: Mapping, **overrides) -> ModelConfig:
  """The shape of a Hugging Face model.

  Args:
    hf_config: its config.json as a dict (or `config.to_dict()`).
    **overrides: fields of ModelConfig to set otherwise (dtype, remat).

  Raises:
    ValueError: for another family, or a setting that we do not compute.
    KeyError: if config.json lacks a field; the message names it.
  """
  family = hf_config.get('model_type')
  if family not in FAMILIES:
    raise ValueError(f'model_type {family!r} is not one of {FAMILIES}')

  def refuse(field, allowed):
    value = hf_config.get(field, allowed[0])
    if value not in allowed:
      raise ValueError(
        f'{family} config has {field}={value!r}; only {allowed[0]!r} is'
        ' supported'
      )

  refuse('hidden_act', ('silu',))
  refuse('use_sliding_window', (False, None))
  refuse('mlp_bias', (False, None))
  # Qwen2's bias is on by definition; Llama's option also adds one to o_proj.
  refuse('attention_bias', (family == 'qwen2', None))
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


def _rope_theta(hf_config):
  """Base of the rotary embedding, from either place where it is written."""
  rope = hf_config.get('rope_parameters') or hf_config.get('rope_scaling') or {}
  kind = rope.get('rope_type', rope.get('type', 'default'))
  if kind != 'default':
    raise ValueError(
      f'config has rope_type={kind!r}; only the plain rotary embedding is'
      ' supported'
    )
  theta = rope.get('rope_theta', hf_config.get('rope_theta'))
  # Both families' default where config.json does not say.
  return 10_000.0 if theta is None else float(theta)


def from_hf(
  tensors: Mapping[str, np.ndarray],
  config: ModelConfig,
  mesh: jax.sharding.Mesh | None = None,
) -> nnx.State:
  """Parameters from a Hugging Face state dict.

  Args:
    tensors: name -> array of any float dtype; a lazy mapping works, since
      tensors are asked for one at a time.
    config: the shape, as of `config_from_hf`.
    mesh: if given, every device gets its own part only.

  Returns:
    float32 parameters, as `make_model` returns.

  Raises:
    KeyError: if a tensor is missing.
    ValueError: if a tensor has the wrong shape or no counterpart, or if
      lm_head differs from the embedding that the config ties it to.
  """
  _, shapes = abstract_model(config)
  _check_names(tensors, config, shapes)
  shardings = None if mesh is None else state_shardings(shapes, mesh)

  def load(path, shape, sharding=None):
    entry = _TENSORS[_name(path)]

    def part(index):
      """The part of our array that a device asks for, layer by layer."""
      if '{layer}' not in entry.name:
        return _read(tensors, entry, entry.name, shape.shape)[index]
      layers = range(config.num_layers)[index[0]]
      return np.stack(
        [
          _read(
            tensors, entry, entry.name.format(layer=layer), shape.shape[1:]
          )[index[1:]]
          for layer in layers
        ]
      )

    if sharding is None:
      return jax.numpy.asarray(part((slice(None),) * len(shape.shape)))
    return jax.make_array_from_callback(shape.shape, sharding, part)

  rest = () if shardings is None else (shardings,)
  return jax.tree.map_with_path(load, shapes, *rest)


def to_hf(params: nnx.State, config: ModelConfig) -> dict[str, np.ndarray]:
  """The Hugging Face state dict of `params`, float32 NumPy arrays.

  A tied head has no tensor of its own, as in Hugging Face's files.

  Args:
    params: parameters of a model of `config`.
    config: its shape.
  """
  out = {}
  for path, value in jax.tree_util.tree_leaves_with_path(params):
    entry = _TENSORS[_name(path)]
    value = np.asarray(value)
    if '{layer}' in entry.name:
      for layer in range(config.num_layers):
        tensor = entry.to_hf(value[layer])
        out[entry.name.format(layer=layer)] = np.ascontiguousarray(tensor)
    else:
      out[entry.name] = np.ascontiguousarray(entry.to_hf(value))
  return out


def _name(path) -> str:
  """'blocks.mlp.gate' of a path to the array in its parameter."""
  name = jax.tree_util.keystr(path, simple=True, separator='.')
  return name.removesuffix('.value')


def _read(tensors, entry, name, shape):
  """One tensor in our shape and float32."""
  tensor = np.asarray(tensors[name])
  # What theirs must be, for ours to be `shape`.
  expected = entry.to_hf(np.broadcast_to(np.float32(0), shape)).shape
  if tensor.shape != expected:
    raise ValueError(
      f'tensor {name} has shape {tensor.shape}; the config asks for {expected}'
    )
  return entry.from_hf(tensor, shape).astype(np.float32)


def _check_names(tensors, config, shapes):
  """Every tensor that we need is there, and every one there is understood."""
  needed = set()
  for path, _ in jax.tree_util.tree_leaves_with_path(shapes):
    name = _TENSORS[_name(path)].name
    needed |= {name.format(layer=layer) for layer in range(config.num_layers)}
  there = set(tensors)
  missing = sorted(needed - there)
  if missing:
    raise KeyError(
      f'tensor {missing[0]} is missing ({len(missing)} of {len(needed)} are)'
    )
  head = _TENSORS['output'].name
  if config.tied_embeddings and head in there:
    embedding = _TENSORS['embedding'].name
    if not np.array_equal(tensors[head], tensors[embedding]):
      raise ValueError(
        f'tensor {head} differs from {embedding}, but the config ties them'
      )
    there.remove(head)
  # Buffers of older versions; computed, not stored, by ours.
  there = {name for name in there if not name.endswith('rotary_emb.inv_freq')}
  extra = sorted(there - needed)
  if extra:
    raise ValueError(
      f'tensor {extra[0]} has no counterpart in this config'
      f' ({len(extra)} of {len(there)} have none)'
    )

"""Weights from and to Hugging Face's Qwen2 and Llama tensors.

Linear layers there are [out, in] matrices, one tensor a layer; ours are
[in, out] with heads as an axis of their own, stacked over layers. `_TENSORS`
is the whole correspondence, and nothing is approximated.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.decoder import abstract_model
from mlagent_jax.model.safetensors_files import WeightsError
from mlagent_jax.model.sharding import state_shardings


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
HEAD = _TENSORS['output'].name
EMBEDDING = _TENSORS['embedding'].name

# (parameter, layer) -> its values in our shape; layer None: not in a block.
ReadLayer = Callable[[str, int | None], np.ndarray]


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
  """'blocks.mlp.gate' -> its stacked shape, for every parameter."""
  _, shapes = abstract_model(config)
  return {
    parameter_name(path): leaf.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
  }


def parameter_name(path) -> str:
  """'blocks.mlp.gate' of a path to the array in its parameter."""
  name = jax.tree_util.keystr(path, simple=True, separator='.')
  return name.removesuffix('.value')


def layers_of(name: str, config: ModelConfig) -> list[int | None]:
  """The layers that a parameter is stacked over; [None] outside of blocks."""
  if '{layer}' not in _TENSORS[name].name:
    return [None]
  return list(range(config.num_layers))


def hf_name(name: str, layer: int | None) -> str:
  """Hugging Face's name of one layer of a parameter."""
  return _TENSORS[name].name.format(layer=layer)


def places(config: ModelConfig) -> dict[str, tuple[str, int | None]]:
  """Hugging Face's name -> (parameter, layer), for all that a model needs."""
  return {
    hf_name(name, layer): (name, layer)
    for name in parameter_shapes(config)
    for layer in layers_of(name, config)
  }


def to_hf_tensor(name: str, value: np.ndarray) -> np.ndarray:
  """One layer of a parameter in Hugging Face's shape, perhaps a view."""
  return _TENSORS[name].to_hf(value)


class HfTensors:
  """A Hugging Face state dict, read as our parameters, layer by layer."""

  def __init__(self, tensors: Mapping[str, np.ndarray], config: ModelConfig):
    """Checks the names.

    Args:
      tensors: name -> array of any float dtype; a lazy mapping works, since
        tensors are asked for one at a time.
      config: the shape, as of `config_from_hf`.

    Raises:
      WeightsError: if a tensor is missing or has no counterpart, or if lm_head
        differs from the embedding that the config ties it to.
    """
    self._tensors = tensors
    self._shapes = parameter_shapes(config)
    _check_names(tensors, config)

  def read(self, name: str, layer: int | None) -> np.ndarray:
    """See `ReadLayer`; in the tensor's own dtype, perhaps a view of it.

    Raises:
      WeightsError: if the tensor has another shape than the config asks for.
    """
    entry, shape = _TENSORS[name], self._shapes[name]
    shape = shape if layer is None else shape[1:]
    tensor = np.asarray(self._tensors[hf_name(name, layer)])
    # What theirs must be, for ours to be `shape`.
    expected = entry.to_hf(np.broadcast_to(np.float32(0), shape)).shape
    if tensor.shape != expected:
      raise WeightsError(
        f'tensor {hf_name(name, layer)} has shape {tensor.shape}; the config'
        f' asks for {expected}'
      )
    return entry.from_hf(tensor, shape)


def load_params(
  read: Callable[[str, tuple[slice, ...]], np.ndarray],
  config: ModelConfig,
  mesh: jax.sharding.Mesh | None = None,
) -> nnx.State:
  """float32 parameters, of which every device reads its own part only.

  Args:
    read: (parameter, index into its stacked shape) -> values.
    config: the shape.
    mesh: the mesh, or None for a single device.

  Raises:
    ValueError: if an axis of a parameter does not divide by the mesh.
  """
  _, shapes = abstract_model(config)
  if mesh is None:
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = jax.tree.map(lambda _: here, shapes)
  else:
    shardings = state_shardings(shapes, mesh)

  def load(path, leaf, sharding):
    name = parameter_name(path)
    return jax.make_array_from_callback(
      leaf.shape,
      sharding,
      lambda index: np.asarray(read(name, index), np.float32),
    )

  return jax.tree.map_with_path(load, shapes, shardings)


def from_hf(
  tensors: Mapping[str, np.ndarray],
  config: ModelConfig,
  mesh: jax.sharding.Mesh | None = None,
) -> nnx.State:
  """Parameters from a Hugging Face state dict.

  Args:
    tensors: see `HfTensors`.
    config: the shape, as of `config_from_hf`.
    mesh: if given, every device gets its own part only.

  Returns:
    float32 parameters, as `make_model` returns.

  Raises:
    WeightsError: if a tensor is missing, has the wrong shape or no counterpart,
      or if lm_head differs from the embedding that the config ties it to.
  """
  source = HfTensors(tensors, config)

  def read(name, index):
    """The part of our array that a device asks for, layer by layer."""
    if layers_of(name, config) == [None]:
      return source.read(name, None)[index]
    layers = range(config.num_layers)[index[0]]
    first = source.read(name, layers[0])[index[1:]]
    part = np.empty((len(layers), *first.shape), np.float32)
    part[0] = first
    for row, layer in enumerate(layers[1:], start=1):
      part[row] = source.read(name, layer)[index[1:]]
    return part

  return load_params(read, config, mesh)


def to_hf(params: nnx.State, config: ModelConfig) -> dict[str, np.ndarray]:
  """The Hugging Face state dict of `params`, float32 NumPy arrays.

  A tied head has no tensor of its own, as in Hugging Face's files.

  Args:
    params: parameters of a model of `config`.
    config: its shape.
  """
  read = reader_of(params)
  return {
    theirs: np.ascontiguousarray(to_hf_tensor(name, read(name, layer)))
    for theirs, (name, layer) in places(config).items()
  }


def reader_of(params: nnx.State) -> ReadLayer:
  """Reads parameters on devices, one layer to the host at a time."""
  by_name = {
    parameter_name(path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  }

  def read(name, layer):
    value = by_name[name] if layer is None else by_name[name][layer]
    return np.asarray(jnp.asarray(value))

  return read


def computed_by_us(names: Mapping[str, object]) -> Iterator[str]:
  """The tensors that hold weights: older versions saved buffers too."""
  return (name for name in names if not name.endswith('rotary_emb.inv_freq'))


def _check_names(tensors, config):
  """Every tensor that we need is there, and every one there is understood."""
  needed = places(config).keys()
  there = set(computed_by_us(tensors))
  missing = sorted(needed - there)
  if missing:
    raise WeightsError(
      f'tensor {missing[0]} is missing ({len(missing)} of {len(needed)} are)'
    )
  if config.tied_embeddings and HEAD in there:
    if not np.array_equal(tensors[HEAD], tensors[EMBEDDING]):
      raise WeightsError(
        f'tensor {HEAD} differs from {EMBEDDING}, but the config ties them'
      )
    there.remove(HEAD)
  extra = sorted(there - needed)
  if extra:
    raise WeightsError(
      f'tensor {extra[0]} has no counterpart in this config'
      f' ({len(extra)} of {len(there)} have none)'
    )

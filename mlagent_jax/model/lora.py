"""LoRA adapters of a decoder as a whole: apart, together, made, merged.

`linear.Projections` computes with them (arXiv 2106.09685). Here the parameters
of a model are split into what is trained and what is frozen, and adapters are
added into the weights that they adapt, so that what was trained is an ordinary
model again.
"""

import dataclasses

import jax
from flax import nnx

from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.decoder import Decoder, abstract_model
from mlagent_jax.model.sharding import state_shardings


def split(params: nnx.State) -> tuple[nnx.State, nnx.State]:
  """(what is trained, what is frozen): the adapters alone, if there are any."""
  adapters, rest = nnx.split_state(params, nnx.LoRAParam, ...)
  if not jax.tree.leaves(adapters):
    return params, nnx.State({})
  return adapters, rest


def join(trained: nnx.State, frozen: nnx.State) -> nnx.State:
  """The parameters that `split` was given."""
  if not jax.tree.leaves(frozen):
    return trained
  return nnx.merge_state(trained, frozen)


def make_adapters(
  config: ModelConfig, seed: int, mesh: jax.sharding.Mesh | None = None
) -> nnx.State:
  """Fresh adapters, for weights that come from elsewhere.

  Args:
    config: with a lora_rank above 0.
    seed: the same seed gives the same adapters on every mesh.
    mesh: if given, every adapter is created in its place.
  """
  _, shapes = abstract_model(config)
  shapes, _ = split(shapes)

  def initialise():
    # The compiler leaves out the weights, which nobody asks for.
    return nnx.state(Decoder(config, rngs=nnx.Rngs(params=seed)), nnx.LoRAParam)

  shardings = None if mesh is None else state_shardings(shapes, mesh)
  return jax.jit(initialise, out_shardings=shardings)()


def merged(
  params: nnx.State, config: ModelConfig, mesh: jax.sharding.Mesh | None = None
) -> tuple[nnx.State, ModelConfig]:
  """The model without adapters that computes the same: W + alpha / r * A B.

  Args:
    params: with adapters or without.
    config: of the model.
    mesh: where the parameters are, or None.

  Returns:
    Parameters, and the config with lora_rank 0.
  """
  if not config.lora_rank:
    return params, config
  plain = dataclasses.replace(config, lora_rank=0)
  _, shapes = abstract_model(plain)
  shardings = None if mesh is None else state_shardings(shapes, mesh)
  scale = config.lora_alpha / config.lora_rank

  def merge(params):
    arrays = {
      _name(path): leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }

    def weight(path, _):
      name = _name(path)
      weight = arrays[name]
      if f'{name}_a' not in arrays:
        return weight
      a, b = arrays[f'{name}_a'], arrays[f'{name}_b']
      L, r = b.shape[:2]
      product = a.reshape(L, -1, r) @ b.reshape(L, r, -1)
      return weight + scale * product.reshape(weight.shape)

    return jax.tree.map_with_path(weight, shapes)

  return jax.jit(merge, out_shardings=shardings)(params), plain


def _name(path) -> str:
  name = jax.tree_util.keystr(path, simple=True, separator='.')
  return name.removesuffix('.value')

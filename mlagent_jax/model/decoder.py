"""The decoder of Qwen2/2.5 and Llama: stacked blocks under one scan.

Definition in Flax NNX, functional at the boundary: `make_model` returns a
static graphdef and a pytree of parameters; `nnx.merge(graphdef, params)` is
the model again, inside or outside of jit.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from mlagent_jax.model import cache as kv_cache
from mlagent_jax.model.attention import Attention, prepare
from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.int8 import INPUT_AXES, quantise
from mlagent_jax.model.layers import RMSNorm, SwiGLU, rotary_angles
from mlagent_jax.model.layout import Layout, right_padded
from mlagent_jax.model.linear import PRODUCT, parameter
from mlagent_jax.model.sharding import (
  axes_of_scale,
  constrain,
  state_shardings,
)

_ATTENTION = 'attention'  # names its result, as PRODUCT a projection's
# What the backward pass of a block may keep (ModelConfig.remat).
_REMAT = {
  'none': lambda body: body,
  'dots': lambda body: jax.checkpoint(
    body,
    policy=jax.checkpoint_policies.save_only_these_names(PRODUCT, _ATTENTION),
    prevent_cse=False,  # a scan already prevents it
  ),
  'full': lambda body: jax.checkpoint(body, prevent_cse=False),
}
_BETWEEN_BLOCKS = ('batch', 'sequence', None)


class Block(nnx.Module):
  """x + attention(norm(x)), then x + mlp(norm(x))."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    D, epsilon = config.embed_dim, config.rms_norm_eps
    # 2 L branches add up in the residual stream.
    out_scale = (2 * config.num_layers) ** -0.5
    self.attention_norm = RMSNorm(D, epsilon)
    self.attention = Attention(config, out_scale, rngs)
    self.mlp_norm = RMSNorm(D, epsilon)
    self.mlp = SwiGLU(config, out_scale, rngs)

  def __call__(self, x, angles, attend):
    """One block over [B, T, D].

    Args:
      x: [B, T, D].
      angles: rotary cosine and sine, [B, T, H / 2].
      attend: (q, k, v) -> [B, T, N, H].

    Returns:
      [B, T, D], and the keys and values [B, T, K, H] of these tokens.
    """
    q, k, v = self.attention.heads(self.attention_norm(x), angles)
    heads = checkpoint_name(attend(q, k, v), _ATTENTION)
    x += self.attention.output(heads)
    x += self.mlp(self.mlp_norm(x))
    return x, (k, v)


class Decoder(nnx.Module):
  """A decoder-only transformer with its blocks stacked on a layer axis."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.config = config
    V, D = config.vocab_size, config.embed_dim
    self.embedding = parameter(rngs, (V, D), ('vocab', 'embed'), D**-0.5)

    @nnx.split_rngs(splits=config.num_layers)
    @nnx.vmap(transform_metadata={nnx.PARTITION_NAME: 'layers'})
    def make_blocks(rngs):
      return Block(config, rngs=rngs)

    self.blocks = make_blocks(rngs)
    self.final_norm = RMSNorm(D, config.rms_norm_eps)
    if not config.tied_embeddings:
      self.output = parameter(rngs, (D, V), ('embed', 'vocab'), D**-0.5)

  def __call__(self, tokens: jax.Array, layout: Layout) -> jax.Array:
    """Hidden states after the final norm.

    Args:
      tokens: [B, T] int32.
      layout: which token sees which, and positions.

    Returns:
      [B, T, D] in the dtype of the computation; meaningless where padding.
    """
    attend = prepare(layout)
    angles = self._angles(layout.positions)

    def body(x, block):
      x, _ = block(x, angles, attend)
      return constrain(x, _BETWEEN_BLOCKS), None

    x = constrain(self._embed(tokens), _BETWEEN_BLOCKS)
    x, _ = self._scan_blocks(body, x)
    return self.final_norm(x)

  def head(self) -> jax.Array:
    """The output weight [D, V] in the dtype of the computation."""
    if self.config.tied_embeddings:
      weight = self.embedding[...].T
    else:
      weight = self.output[...]
    return weight.astype(self.config.dtype)

  def logits(self, hidden: jax.Array) -> jax.Array:
    """Maps [..., D] to [..., V] logits in float32."""
    return jnp.einsum(
      '...d,dv->...v',
      hidden,
      self.head(),
      preferred_element_type=jnp.float32,
    )

  def prefill(self, tokens, lengths) -> tuple[jax.Array, jax.Array]:
    """Keys and values of S prompts.

    Args:
      tokens: [S, P] int32, padded on the right.
      lengths: [S] int32.

    Returns:
      Keys and values, [L, S, P, K, H] each; meaningless where padding.
    """
    layout = right_padded(lengths, tokens.shape[1])
    attend = prepare(layout)
    angles = self._angles(layout.positions)
    x = constrain(self._embed(tokens), ('batch', None, None))
    _, pair = self._scan_blocks(lambda x, block: block(x, angles, attend), x)
    return pair

  def decode(
    self,
    blocks: Sequence[Block],
    tokens: jax.Array,
    cache: kv_cache.Cache,
    seating: kv_cache.Seating,
  ) -> tuple[jax.Array, kv_cache.Cache]:
    """Computes one more token of every sample.

    A token sees its prompt, the earlier tokens of its own sample and itself.

    Args:
      blocks: each layer's, as of `unstack`.
      tokens: [Z, B] int32, the next token of each slot.
      cache: where keys and values are.
      seating: who sits where, and how far.

    Returns:
      Hidden states [Z, B, D] after the final norm, and the cache with these
      tokens.
    """
    rows = jnp.take_along_axis(
      seating.lengths, seating.seats // seating.slots.shape[2], axis=1
    )
    angles = self._angles(rows + seating.steps)
    samples = list(cache.samples)
    # The slots of a shard stand where a row's tokens stand in training.
    x = constrain(self._embed(tokens), ('batch', None, None))
    for number, block in enumerate(blocks):

      def attend(q, k, v, number=number):
        samples[number] = kv_cache.append(samples[number], k, v, seating.steps)
        return kv_cache.attend(
          q, cache.prompts[number], samples[number], seating
        )

      x, _ = block(x, angles, attend)
    return self.final_norm(x), cache._replace(samples=tuple(samples))

  def _embed(self, tokens):
    return self.embedding[...].astype(self.config.dtype)[tokens]

  def _angles(self, positions):
    return rotary_angles(
      positions, self.config.head_dim, self.config.rope_theta
    )

  def _scan_blocks(self, body, x, *per_layer):
    """Scans body(x, block, *one layer of each) -> (x, output) over layers."""
    graphdef, params = nnx.split(self.blocks)

    def step(x, layer):
      params, *rest = layer
      return body(x, nnx.merge(graphdef, params), *rest)

    step = _REMAT[self.config.remat](step)
    return jax.lax.scan(step, x, (params, *per_layer))


def make_model(
  config: ModelConfig, seed: int, mesh: jax.sharding.Mesh | None = None
) -> tuple[nnx.GraphDef, nnx.State]:
  """A freshly initialised decoder.

  Args:
    config: its shape.
    seed: the same seed gives the same parameters on every mesh.
    mesh: if given, every parameter is created in its place, never whole.

  Returns:
    The static graphdef and the parameters; `nnx.merge` joins them.

  Raises:
    ValueError: if an axis of a parameter does not divide by the mesh.
  """
  return abstract_model(config)[0], _initialiser(config, seed, mesh)()


@functools.lru_cache(maxsize=8)
def _initialiser(
  config: ModelConfig, seed: int, mesh: jax.sharding.Mesh | None
):
  """The function that makes parameters, compiled once."""

  def initialise():
    return nnx.state(Decoder(config, rngs=nnx.Rngs(params=seed)), nnx.Param)

  if mesh is None:
    # As a checkpoint's: what is compiled for one serves the other.
    places = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  else:
    places = state_shardings(abstract_model(config)[1], mesh)
  return jax.jit(initialise, out_shardings=places)


def frozen(config: ModelConfig, params: nnx.State) -> nnx.State:
  """Parameters that nothing updates, in the dtype of the computation.

  Every layer casts its parameters to that dtype before it uses them, so that
  the results are the same bits, in half the memory for bfloat16.
  """
  return jax.tree.map(lambda x: x.astype(config.dtype), params)


def abstract_model(config: ModelConfig) -> tuple[nnx.GraphDef, nnx.State]:
  """The graphdef and the parameters' shapes, without computing anything."""
  model = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(params=0)))
  return nnx.split(model)


class Unstacked(NamedTuple):
  """A decoder as decoding reads it: its layers apart, in its own dtype.

  A scan over stacked layers copies each layer's weights out of the stack
  before it uses them, which costs nothing beside a whole prompt, but as much
  as the product itself beside one token of every sample. Nor is any matrix
  split over devices that decode different samples, as for training: it would
  be gathered again for every token. Each of them has a copy, split over the
  devices of one batch part alone.

  Attributes:
    rest: graphdef and parameters of the decoder without its blocks.
    layers: graphdef and parameters of each block.
  """

  rest: tuple[nnx.GraphDef, nnx.State]
  layers: tuple[tuple[nnx.GraphDef, nnx.State], ...]


def unstack(
  graphdef: nnx.GraphDef, params: nnx.State, *, int8: bool = False
) -> Unstacked:
  """Takes a decoder apart, for `Decoder.decode`.

  Args:
    graphdef: of the decoder.
    params: its parameters, with stacked layers.
    int8: the blocks' matrices are rounded to eight bits.
  """
  model = nnx.merge(graphdef, params)
  config = model.config
  block, stacked = nnx.split(model.blocks)
  del model.blocks

  def one_layer(number):
    def take(path, parameter):
      axes = parameter.get_metadata('out_sharding')[1:]
      value = parameter[...][number]
      inputs = INPUT_AXES.get(jax.tree_util.keystr(path[-1:], simple=True))
      rounds = int8 and inputs
      value = quantise(value, inputs) if rounds else value.astype(config.dtype)
      return _placed(parameter, value, axes)

    return jax.tree.map_with_path(take, stacked, is_leaf=_is_variable)

  def take_rest(parameter):
    axes = parameter.get_metadata('out_sharding')
    return _placed(parameter, parameter[...].astype(config.dtype), axes)

  rest, params = nnx.split(model)
  params = jax.tree.map(take_rest, params, is_leaf=_is_variable)
  layers = tuple((block, one_layer(n)) for n in range(config.num_layers))
  return Unstacked((rest, params), layers)


def _is_variable(node) -> bool:
  return isinstance(node, nnx.Variable)


def _decoding_axes(axes):
  """Every device that decodes has all of `embed`, see `Unstacked`."""
  return tuple(None if axis == 'embed' else axis for axis in axes)


def _placed(parameter, value, axes):
  """The parameter with another value (an array, or `Int8`), laid out."""
  axes = _decoding_axes(axes)

  def place(x):
    return constrain(x, axes_of_scale(x.shape, axes))

  taken = parameter.replace(jax.tree.map(place, value))
  taken.set_metadata(out_sharding=axes)
  return taken

"""The critic of PPO: the policy's decoder with a value head in its place.

V_t is the value before token t of an action: it is read from the hidden state
that predicts token t, so that V_0 is the prompt's and the same for all of its
samples. Values are computed in the shared-prompt layout, like log-probabilities
(`model.logps`): the prompt once for its G actions.

A critic starts from the policy's parameters with a head of zeros, so that its
first values are 0 (InstructGPT, arXiv 2203.02155, appendix C.4, starts it from
a reward model; there is none here).

Axes: S states, G samples of a state, A tokens of an action, D model.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.decoder import Decoder
from mlagent_jax.model.layout import layout_of
from mlagent_jax.model.logps import action_hidden
from mlagent_jax.model.sharding import (
  constrain,
  map_parts,
  on_mesh,
  state_shardings,
)


class Critic(nnx.Module):
  """A decoder without an output head, and a linear map from D to a value."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    # Tied: the critic holds no [D, V] output that nothing would use.
    self.decoder = Decoder(
      dataclasses.replace(config, tied_embeddings=True), rngs=rngs
    )
    # With adapters only they are trained: the head then counts as one.
    kind = nnx.LoRAParam if config.lora_rank else nnx.Param
    self.weight = _zeros(kind, config.embed_dim, 'embed')
    self.bias = _zeros(kind, 1, 'norm')

  def __call__(self, batch) -> jax.Array:
    """Values of a batch of `batching.group_layout`: [S, G, A] float32.

    Meaningless outside batch['mask'].
    """
    hidden = self.decoder(batch['tokens'], layout_of(batch))
    hidden = constrain(hidden, ('batch', None, None))
    predicting = action_hidden(hidden, batch).astype(jnp.float32)
    values = jnp.einsum('sgad,d->sga', predicting, self.weight[...])
    return values + self.bias[...]


def _zeros(kind, size: int, axis: str) -> nnx.Param:
  zeros = jnp.zeros((size,), jnp.float32)
  return kind(zeros, out_sharding=(axis,), eager_sharding=False)


def abstract_critic(config: ModelConfig) -> tuple[nnx.GraphDef, nnx.State]:
  """The graphdef and the parameters' shapes, without computing anything."""
  critic = nnx.eval_shape(lambda: Critic(config, rngs=nnx.Rngs(params=0)))
  return nnx.split(critic)


def critic_from_policy(
  params: nnx.State, shapes: nnx.State, mesh: jax.sharding.Mesh | None = None
) -> nnx.State:
  """A critic's parameters: copies of the policy's, and a head of zeros.

  Args:
    params: of the policy, on `mesh`.
    shapes: of the critic, as of `abstract_critic`.
    mesh: the mesh, or None on a single device.
  """
  policy = {
    _name(path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  }

  def initialise(path, shape, sharding):
    name = _name(path)
    if name.startswith('decoder.'):
      return policy[name.removeprefix('decoder.')].copy()
    return jnp.zeros(shape.shape, shape.dtype, device=sharding)

  if mesh is None:
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = jax.tree.map(lambda _: here, shapes)
  else:
    shardings = state_shardings(shapes, mesh)
  return jax.tree.map_with_path(initialise, shapes, shardings)


def _name(path) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='.')


def make_compute_values(graphdef, *, micro_batches=1, mesh=None):
  """Makes the jitted function that computes a batch's values.

  Args:
    graphdef: of the critic.
    micro_batches: the leading axis is computed in that many parts.
    mesh: the mesh that the parameters live on, or None.

  Returns:
    compute_values(params, batch as of `train_state.put_batch`) -> [S, G, A]
    float32.
  """

  def compute(params, batch):
    with on_mesh(mesh):
      critic = nnx.merge(graphdef, params)
      return map_parts(critic, batch, micro_batches, mesh)

  return jax.jit(compute)

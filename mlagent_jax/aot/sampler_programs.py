"""The sampler's programs, for `programs.PROGRAMS`: prefill and decode.

Sampling is RL's: the states of one batch, G samples each. Beside it are the
policy with its optimizer, the reference, and a critic if there is one.
"""

import jax
import jax.numpy as jnp

from mlagent_jax import sampling
from mlagent_jax.aot import roofline
from mlagent_jax.aot.program import Program, parameters, reference
from mlagent_jax.model import cache as kv_cache
from mlagent_jax.model import sharding
from mlagent_jax.sampling.programs import Slots
from mlagent_jax.stages import learner as learner_lib
from mlagent_jax.stages import rl_update


def prefill(learner: learner_lib.Learner) -> Program:
  """One prompt for every group of devices that shares a batch row."""
  room, programs, weights, cache = _sampler(learner)
  Z, P = room.shards, room.prompt_length
  tokens = _split(learner, (Z, P))
  each = _split(learner, (Z,))
  params = parameters(learner)
  state = rl_update.state_shapes(learner)
  work = roofline.Work(Z * P, 0, Z * roofline.causal_pairs(P), trains=False)
  beside = state.policy.opt_state, state.critic, reference(learner), weights
  arguments = params, cache, tokens, each, each
  return Program(programs.prefill, arguments, work, beside)


def decode(learner: learner_lib.Learner) -> Program:
  """A chunk of tokens of every slot, each at the end of a full prompt."""
  room, programs, weights, cache = _sampler(learner)
  Z, B, R = room.shards, room.slots // room.shards, room.rows // room.shards
  each = _split(learner, (Z, B))
  real = _split(learner, (Z, B), 'float32')
  seeds = _split(learner, (Z, B), 'uint32')
  done = _split(learner, (Z, B), 'bool')
  slots = Slots(each, done, each, seeds, real, real, each, each)
  lengths = _split(learner, (Z, R))
  seats = _split(learner, (Z, R, room.seats))
  seating = kv_cache.Seating(lengths, seats, each, each)
  enough = jax.ShapeDtypeStruct(
    (), jnp.int32, sharding=sharding.logical_sharding(learner.mesh, ())
  )
  tokens = room.slots * room.chunk
  keys = room.prompt_length + room.sample_length // 2
  work = roofline.Work(tokens, tokens, tokens * keys, trains=False)
  beside = rl_update.state_shapes(learner), reference(learner)
  arguments = weights, cache, slots, seating, enough, None
  return Program(programs.decode, arguments, work, beside)


def _sampler(learner):
  """(room, programs, their weights, their cache) of RL's sampling."""
  settings = learner.config.rl
  room = learner.room(
    settings.samples_per_state, settings.states_per_batch, learner.mesh
  )
  programs = sampling.make_programs(
    learner.graphdef,
    room,
    learner.tokenizer.stop_ids,
    learner.mesh,
    learner.config.sampler.int8,
  )
  weights = jax.eval_shape(programs.prepare, parameters(learner))
  cache = jax.eval_shape(programs.allocate, weights)
  place = sharding.logical_sharding(learner.mesh, kv_cache.AXES)
  return (
    room,
    programs,
    _placed(weights, sharding.state_shardings(weights, learner.mesh)),
    _placed(cache, jax.tree.map(lambda _: place, cache)),
  )


def _placed(shapes, shardings):
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    shardings,
  )


def _split(learner, shape, dtype='int32'):
  split = sharding.batch_sharding(learner.mesh)
  return jax.ShapeDtypeStruct(shape, dtype, sharding=split)

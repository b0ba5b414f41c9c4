"""The sampler's device programs: prepare, allocate, prefill, decode.

`make_programs` returns jitted functions of arrays alone, so that each can be
lowered for another machine from abstract shapes: `prepare` from those of the
parameters, the rest from what `jax.eval_shape` says of the one before.

Axes: Z shards of the batch, each with R rows of prompts, W seats a row and B
slots of samples; C tokens of a chunk, P prompt length, V vocabulary.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mlagent_jax.model import cache as kv_cache
from mlagent_jax.model.decoder import unstack
from mlagent_jax.model.sharding import constrain, on_mesh
from mlagent_jax.sampling.drawing import choose, likeliest, uniforms


@dataclasses.dataclass(frozen=True)
class Room:
  """How much the sampler holds at once, over all shards.

  Attributes:
    slots: samples that are decoded at once.
    rows: prompts that are kept at once.
    seats: samples of one row at once.
    prompt_length: the longest prompt, in tokens.
    sample_length: the longest sample, its stop token included.
    chunk: tokens that are decoded before the host looks at them.
    shards: parts that slots and rows are split into, one a batch device.
  """

  slots: int
  rows: int
  seats: int
  prompt_length: int
  sample_length: int
  chunk: int = 16
  shards: int = 1

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if getattr(self, field.name) < 1:
        raise ValueError(
          f'sampler: {field.name} is {getattr(self, field.name)}'
        )
    for name in ('slots', 'rows'):
      if getattr(self, name) % self.shards:
        raise ValueError(
          f'sampler: {getattr(self, name)} {name} are not divisible by the'
          f' {self.shards} devices of the batch'
        )


LIKELIEST = 20  # tokens told beside each that was drawn; as OpenAI's API


class Slots(NamedTuple):
  """What each slot decodes, [Z, B] each.

  Attributes:
    tokens: int32, its newest token; at first its prompt's last.
    done: bool, nothing is to be decoded.
    limits: int32, tokens of the sample at most.
    seeds: uint32.
    temperature: float32.
    top_p: float32.
    top_k: int32.
    states: int32, of the constraint's automaton; 0 without one.
  """

  tokens: Any
  done: Any
  limits: Any
  seeds: Any
  temperature: Any
  top_p: Any
  top_k: Any
  states: Any


class Chunk(NamedTuple):
  """What was decoded.

  Attributes:
    tokens: [Z, B, C] int32, 0 beyond a slot's count.
    logps: [Z, B, C] float32, 0 beyond a slot's count.
    counts: [Z, B] int32.
    states: [Z, B] int32, see `Slots`, after these tokens.
    likeliest: (tokens [Z, B, C, K] int32, their log-probabilities), what was
      likeliest in place of each token; None without.
  """

  tokens: Any
  logps: Any
  counts: Any
  states: Any
  likeliest: Any


class Programs(NamedTuple):
  """The jitted functions.

  Attributes:
    prepare: (params) -> weights, as decoding reads them.
    allocate: (weights) -> cache, empty.
    prefill: (params, cache, tokens [Z, P], lengths [Z], rows [Z]) -> cache
      with one prompt of every shard in the row that is named (R for none).
      The cache is donated.
    decode: (weights, cache, slots, seating, enough, constraint, tell) ->
      (cache, chunk). Ends after C tokens, or when `enough` (scalar) slots are
      done. The constraint is None where all tokens may be drawn. `tell` (scalar
      bool) says whether the likeliest tokens are found (else they are 0); None
      leaves them out of the program. The cache is donated.
  """

  prepare: Callable
  allocate: Callable
  prefill: Callable
  decode: Callable


def prefill_bucket(length: int, multiple: int = 64) -> int:
  """The length that a prompt is padded to: few programs, little padding.

  A multiple of `multiple`, and of a quarter of the power of two below: four
  lengths an octave, at most a quarter of padding.
  """
  grain = 1 << max((max(length, 1) - 1).bit_length() - 3, 0)
  grain = math.lcm(multiple, grain)
  return max(-(-length // grain), 1) * grain


def make_programs(
  graphdef: nnx.GraphDef,
  room: Room,
  stop_ids: Sequence[int],
  mesh: jax.sharding.Mesh | None = None,
  int8: bool = False,
) -> Programs:
  """Makes the programs of a decoder.

  Args:
    graphdef: of the decoder.
    room: sizes; its shards are the devices on the mesh axes of the batch.
    stop_ids: tokens that end a sample, and belong to it.
    mesh: the mesh that the parameters live on.
    int8: tokens are decoded with the blocks' matrices in eight bits (see
      `model.int8`); prompts are computed with the parameters as they are.
  """
  stops = np.asarray(sorted(set(stop_ids)), np.int32)

  def prepare(params):
    return unstack(graphdef, params, int8=int8)

  def allocate(weights):
    return kv_cache.empty_cache(
      nnx.merge(*weights.rest).config,
      shards=room.shards,
      rows=room.rows // room.shards,
      slots=room.slots // room.shards,
      prompt_length=room.prompt_length,
      sample_length=room.sample_length,
    )

  def prefill(params, cache, tokens, lengths, rows):
    pair = nnx.merge(graphdef, params).prefill(tokens, lengths)
    return kv_cache.store_prompts(cache, *pair, rows)

  def decode(
    weights, cache, slots: Slots, seating, enough, constraint, tell=None
  ):
    model = nnx.merge(*weights.rest)
    blocks = [nnx.merge(*layer) for layer in weights.layers]

    def turn(carry):
      now, slots, seating, cache, chunk = carry
      hidden, cache = model.decode(blocks, slots.tokens, cache, seating)
      allowed = None
      if constraint is not None:
        allowed = constraint.allowed(slots.states)
        allowed = constrain(allowed, ('batch', None, 'vocab'))
      logits = constrain(model.logits(hidden), ('batch', None, 'vocab'))
      tokens, logps = choose(
        logits,
        uniforms(slots.seeds, seating.steps),
        temperature=slots.temperature,
        top_k=slots.top_k,
        top_p=slots.top_p,
        allowed=allowed,
      )
      live = ~slots.done

      def record(old, new):
        new = jnp.where(jnp.expand_dims(live, range(2, new.ndim)), new, 0)
        new = new.astype(old.dtype)[:, :, None]
        return jax.lax.dynamic_update_slice_in_dim(old, new, now, axis=2)

      rivals = chunk.likeliest
      if tell is not None:
        found = jax.lax.cond(
          tell,
          lambda: likeliest(
            logits, rivals[0].shape[-1], temperature=slots.temperature
          ),
          lambda: tuple(jnp.zeros_like(x[:, :, 0]) for x in rivals),
        )
        rivals = tuple(map(record, rivals, found))
      chunk = Chunk(
        record(chunk.tokens, tokens),
        record(chunk.logps, logps),
        chunk.counts + live,
        chunk.states,
        rivals,
      )
      steps = seating.steps + live
      stopped = (tokens[..., None] == stops).any(axis=-1)
      slots = slots._replace(
        tokens=jnp.where(live, tokens, slots.tokens),
        done=slots.done | stopped | (steps >= slots.limits),
      )
      if constraint is not None:
        states = constraint.advance(slots.states, tokens)
        states = jnp.where(live, states, slots.states)
        slots = slots._replace(states=states)
      return now + 1, slots, seating._replace(steps=steps), cache, chunk

    def go_on(carry):
      now, slots, *_ = carry
      done = jnp.sum(slots.done)
      return (now < room.chunk) & (done < jnp.minimum(enough, room.slots))

    shape = (*slots.tokens.shape, room.chunk)
    chunk = Chunk(
      jnp.zeros(shape, jnp.int32),
      jnp.zeros(shape, jnp.float32),
      jnp.zeros(shape[:2], jnp.int32),
      slots.states,
      None if tell is None else _empty_likeliest(model, shape),
    )
    carry = (jnp.int32(0), slots, seating, cache, chunk)
    _, slots, _, cache, chunk = jax.lax.while_loop(go_on, turn, carry)
    return cache, chunk._replace(states=slots.states)

  def compiled(function, **options):
    def run(*args):
      with on_mesh(mesh):
        return function(*args)

    run.__name__ = f'sampler_{function.__name__}'
    return jax.jit(run, **options)

  return Programs(
    compiled(prepare),
    compiled(allocate),
    compiled(prefill, donate_argnums=1),
    compiled(decode, donate_argnums=1),
  )


def _empty_likeliest(model, shape):
  shape = (*shape, min(LIKELIEST, model.config.vocab_size))
  return jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)

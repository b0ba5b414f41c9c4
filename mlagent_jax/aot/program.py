"""A program to compile: a jitted function and its abstract arguments."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mlagent_jax.aot import roofline
from mlagent_jax.model import sharding


@dataclasses.dataclass(frozen=True)
class Program:
  """A jitted function of a config, and what it is called with.

  Attributes:
    function: jitted.
    arguments: trees of ShapeDtypeStructs that carry their shardings.
    work: what it computes.
    beside: trees of arrays that stay on the chips while it runs.
  """

  function: Callable
  arguments: tuple
  work: roofline.Work
  beside: tuple = ()


def parameters(learner, dtype='float32'):
  """The model's parameters as shapes with their shardings."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, dtype, sharding=s),
    learner.shapes,
    sharding.state_shardings(learner.shapes, learner.mesh),
  )


def reference(learner):
  """What `decoder.frozen` returns, likewise."""
  return parameters(learner, learner.model.dtype)


def bytes_per_chip(tree) -> int:
  """Bytes of one chip's part of a tree of abstract arrays."""
  return sum(
    int(np.prod(x.sharding.shard_shape(x.shape))) * jnp.dtype(x.dtype).itemsize
    for x in jax.tree.leaves(tree)
  )

"""Which tokens may be drawn, as a finite automaton over tokens.

Each slot has a state. Tables are arrays and no part of a compiled program:
another automaton of the same size needs no other program.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Constraint(NamedTuple):
  """An automaton; a sample begins in state 0.

  Attributes:
    classes: [V] int32, the class of each token.
    table: [N, C] int32, the state after a token of a class, -1 where it may
      not be drawn. From every state that is reached some token may be.
  """

  classes: Any
  table: Any

  def allowed(self, states: jax.Array) -> jax.Array:
    """[..., V] bool: which tokens may be drawn in states [...]."""
    return jnp.take(self.table[states] >= 0, self.classes, axis=-1)

  def advance(self, states: jax.Array, tokens: jax.Array) -> jax.Array:
    """The states [...] after tokens [...]."""
    return self.table[states, self.classes[tokens]]

"""General knowledge of machine-learning engineering, as ideas with code."""

from mlagent_jax.exploration.library.classes import CLASSES
from mlagent_jax.exploration.library.images import IMAGES
from mlagent_jax.exploration.library.outputs import OUTPUTS
from mlagent_jax.exploration.library.recipe import Recipe, Slot
from mlagent_jax.exploration.library.scalers import SCALERS
from mlagent_jax.exploration.library.tables import TABLES
from mlagent_jax.exploration.library.texts import TEXTS
from mlagent_jax.exploration.library.transforms import TRANSFORMS
from mlagent_jax.exploration.library.values import VALUES

__all__ = [
  'CLASSES',
  'IMAGES',
  'OUTPUTS',
  'Recipe',
  'SCALERS',
  'Slot',
  'TABLES',
  'TEXTS',
  'TRANSFORMS',
  'VALUES',
]

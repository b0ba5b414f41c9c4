"""The sampler: continuous batching over prompts that are computed once."""

from mlagent_jax.sampling.constraint import Constraint
from mlagent_jax.sampling.drawing import choose, restrict, uniforms
from mlagent_jax.sampling.engine import Engine
from mlagent_jax.sampling.programs import (
  LIKELIEST,
  Programs,
  Room,
  make_programs,
  prefill_bucket,
)
from mlagent_jax.sampling.requests import Request, Sample, Settings

__all__ = [
  'Constraint',
  'Engine',
  'LIKELIEST',
  'Programs',
  'Request',
  'Room',
  'Sample',
  'Settings',
  'choose',
  'make_programs',
  'prefill_bucket',
  'restrict',
  'uniforms',
]

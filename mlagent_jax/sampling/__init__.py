"""The sampler: continuous batching over prompts that are computed once."""

from mlagent_jax.sampling.drawing import choose, restrict, uniforms
from mlagent_jax.sampling.engine import Engine, Request, Sample, Settings
from mlagent_jax.sampling.programs import (
  Programs,
  Room,
  make_programs,
  prefill_bucket,
)

__all__ = [
  'Engine',
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

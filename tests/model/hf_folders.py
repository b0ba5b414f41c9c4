"""Hugging Face folders of random weights, written without torch."""

import dataclasses
import json

import numpy as np

from mlagent_jax.model import hf_weights
from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.hf_config import config_to_hf
from mlagent_jax.model.safetensors_files import (
  code_of,
  shard_headers,
  write_file,
)


def write_model(folder, **changes):
  """A model's folder without torch, float32, of HF's names and shapes."""
  config = ModelConfig(3, 32, 4, 2, 8, 48, 64, qkv_bias=False)
  config = dataclasses.replace(config, **changes)
  shapes = hf_weights.parameter_shapes(config)
  generator = np.random.default_rng(0)
  arrays = {
    name: generator.normal(size=shape).astype(np.float32)
    for name, shape in shapes.items()
  }
  tensors = {
    theirs: hf_weights.to_hf_tensor(
      name, arrays[name] if layer is None else arrays[name][layer]
    )
    for theirs, (name, layer) in hf_weights.places(config).items()
  }
  hf_config = config_to_hf(config, max_positions=64, dtype='float32')
  write_tensors(folder, tensors, hf_config)
  return tensors, hf_config


def write_tensors(folder, tensors, hf_config):
  folder.mkdir(exist_ok=True)
  (folder / 'config.json').write_text(json.dumps(hf_config))
  headers, _ = shard_headers(
    [(n, code_of(t.dtype), t.shape) for n, t in tensors.items()]
  )
  ((file, header),) = headers.items()
  write_file(folder / file, header, tensors.__getitem__)

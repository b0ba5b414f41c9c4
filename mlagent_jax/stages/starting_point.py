"""What training starts from: a model's shape, and its first parameters.

With `model.init_from` the parameters are imported ones (`python -m
mlagent_jax.weights import`); the config still states the model's shape, so that
it can be compiled where the weights are not, and both must agree.
"""

import jax
from flax import nnx

from mlagent_jax.model import config as model_config
from mlagent_jax.model import decoder, lora, weights_folder
from mlagent_jax.model.safetensors_files import WeightsError
from mlagent_jax.stages.session import ConfigError

# Keys of the section `model` that are no fields of ModelConfig.
_OTHER_KEYS = frozenset({'init_from'})


def model_of(config, tokenizer) -> model_config.ModelConfig:
  """The shape of the model that a config trains.

  Raises:
    ConfigError: if it cannot be, if the vocabulary is too small for the
      tokenizer, or if the imported weights are missing or of another shape.
  """
  fields = {k: v for k, v in config.model.items() if k not in _OTHER_KEYS}
  fields['vocab_size'] = fields['vocab_size'] or tokenizer.vocab_size
  if fields['vocab_size'] < tokenizer.vocab_size:
    raise ConfigError(
      f"model.vocab_size {fields['vocab_size']} is below the tokenizer's"
      f' {tokenizer.vocab_size}'
    )
  try:
    model = model_config.ModelConfig(**fields)
  except ValueError as error:
    raise ConfigError(f'model: {error}') from error
  if config.model.init_from:
    _check_shape(config.model.init_from, model)
  return model


def _check_shape(folder, model):
  try:
    weights = weights_folder.open_folder(folder)
  except WeightsError as error:
    raise ConfigError(f'model.init_from: {error}') from error
  wanted = weights_folder.shape_of(model)
  found = weights_folder.shape_of(weights.shape)
  differ = [key for key in found if wanted[key] != found[key]]
  if differ:
    keys = ', '.join(f'model.{key}' for key in differ)
    fix = ''.join(f'\n  config.model.{key} = {found[key]!r}' for key in differ)
    raise ConfigError(
      f'{keys} differ from the weights in {folder} (model.init_from); they'
      f' need{fix}'
    )


def initial_params(
  config, model: model_config.ModelConfig, mesh: jax.sharding.Mesh | None
) -> nnx.State:
  """The parameters before training, float32 and in their places on `mesh`."""
  if config.model.init_from:
    params = weights_folder.open_folder(config.model.init_from).load(mesh)
    if not model.lora_rank:
      return params
    return lora.join(lora.make_adapters(model, config.seed, mesh), params)
  return decoder.make_model(model, config.seed, mesh)[1]

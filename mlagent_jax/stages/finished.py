"""What a run trained, read from its work directory: for export."""

import dataclasses
import pathlib

import jax
from flax import nnx
from ml_collections import config_dict

from mlagent_jax.agent import tokenizer as tokenizer_lib
from mlagent_jax.model import lora, weights_folder
from mlagent_jax.model.config import ModelConfig
from mlagent_jax.stages import learner as learner_lib
from mlagent_jax.stages import sft, workdir
from mlagent_jax.stages.session import ConfigError


@dataclasses.dataclass(frozen=True)
class Finished:
  """The model that a stage ended with.

  Attributes:
    params: float32, adapters merged into the weights.
    model: its shape.
    tokenizer: its tokenizer.
    origin: the imported weights that it started from; None for random ones.
    max_positions: the longest prompt with its action, in tokens.
  """

  params: nnx.State
  model: ModelConfig
  tokenizer: tokenizer_lib.Tokenizer
  origin: weights_folder.WeightsFolder | None
  max_positions: int


@dataclasses.dataclass(frozen=True)
class _Run:
  """What loading a checkpoint needs of a session."""

  config: config_dict.ConfigDict
  workdir: workdir.Workdir


def open_finished(folder: pathlib.Path, stage: str) -> Finished:
  """Reads the latest checkpoint of a stage ('sft' or 'rl').

  Raises:
    ConfigError: if this is no work directory, or has no such checkpoint.
    CheckpointError: if the checkpoint is damaged.
  """
  flat = workdir.read_json(folder / 'config.json')
  if flat is None:
    raise ConfigError(f'{folder} has no config.json: it is no work directory')
  if not (folder / stage / 'checkpoints').is_dir():
    raise ConfigError(f'{folder} has no checkpoints of stage {stage!r}')
  config = _nested(flat)
  # The run's mesh was another machine's; every device here holds a part.
  devices = jax.device_count()
  config.mesh.data, config.mesh.fsdp, config.mesh.model = 1, devices, 1
  start = config.model.init_from
  saved = folder / 'tokenizer'
  tokenizer = tokenizer_lib.load(
    (config.tokenizer.path or start)
    if config.tokenizer.kind == 'huggingface'
    else saved
  )
  learner = learner_lib.make_learner(config, tokenizer)
  run = _Run(config, workdir.Workdir(folder))
  params = sft.load_params(run, learner, stage)
  params, model = lora.merged(params, learner.model, learner.mesh)
  return Finished(
    params,
    model,
    tokenizer,
    weights_folder.open_folder(start) if start else None,
    config.agent.max_prompt_tokens + config.agent.max_action_tokens,
  )


def _nested(flat: dict) -> config_dict.ConfigDict:
  """The config of a work directory's config.json."""
  config = config_dict.ConfigDict()
  for key, value in flat.items():
    *sections, name = key.split('.')
    place = config
    for section in sections:
      if section not in place:
        place[section] = config_dict.ConfigDict()
      place = place[section]
    place[name] = tuple(value) if isinstance(value, list) else value
  return config

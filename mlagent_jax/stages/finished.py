"""What a run trained, as an ordinary model: for export."""

import dataclasses
import os

from flax import nnx

from mlagent_jax.agent import tokenizer as tokenizer_lib
from mlagent_jax.model import lora, weights_folder
from mlagent_jax.model.config import ModelConfig
from mlagent_jax.stages import trained


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


def open_finished(folder: str | os.PathLike[str], stage: str) -> Finished:
  """Reads the latest checkpoint of a stage ('sft' or 'rl').

  Raises:
    ConfigError: if this is no work directory, or has no such checkpoint.
    CheckpointError: if the checkpoint is damaged.
  """
  run = trained.open_trained(folder)
  learner, config = run.learner, run.config
  params, model = lora.merged(run.params(stage), learner.model, learner.mesh)
  start = config.model.init_from
  return Finished(
    params,
    model,
    learner.tokenizer,
    weights_folder.open_folder(start) if start else None,
    config.agent.max_prompt_tokens + config.agent.max_action_tokens,
  )

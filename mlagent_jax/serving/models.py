"""Opens what is served: a training run, or weights that were imported."""

import dataclasses
import pathlib
from typing import Any

import jax
from flax import nnx

from mlagent_jax.agent import tokenizer as tokenizer_lib
from mlagent_jax.environment import records
from mlagent_jax.model import decoder, sharding, weights_folder
from mlagent_jax.stages import session, trained

# Where nothing says how long prompts and replies of a model may be.
_PROMPT_TOKENS, _NEW_TOKENS = 4096, 1024


@dataclasses.dataclass(frozen=True)
class Opened:
  """A model that can be served.

  Attributes:
    name: what clients call it, unless it is given another name.
    graphdef: of the decoder.
    params: its parameters.
    mesh: where they are, or None for a single device.
    tokenizer: from `agent.tokenizer`.
    vocab_size: of the model.
    prompt_tokens: the longest prompt by default.
    new_tokens: the longest reply by default.
    actions: what its agent may do.
  """

  name: str
  graphdef: nnx.GraphDef
  params: Any
  mesh: jax.sharding.Mesh | None
  tokenizer: tokenizer_lib.Tokenizer
  vocab_size: int
  prompt_tokens: int
  new_tokens: int
  actions: frozenset[str]


def open_model(folder: pathlib.Path, *, stage: str, dtype: str) -> Opened:
  """Opens a folder of `weights import`, or the work directory of a run.

  Args:
    folder: either.
    stage: of a run, 'untrained', 'sft' or 'rl'; '' for the last there is.
    dtype: of the computation for imported weights; '' for bfloat16 on an
      accelerator and float32 elsewhere. A run has its own.

  Raises:
    ConfigError, WeightsError, CheckpointError: says what is wrong with it.
  """
  if not folder.is_dir():
    raise session.ConfigError(f'{folder} is no folder')
  if (folder / weights_folder.MANIFEST).is_file():
    return _open_weights(folder, dtype)
  return _open_run(folder, stage)


def _open_weights(folder, dtype) -> Opened:
  if not dtype:
    cpu = jax.default_backend() == 'cpu'
    dtype = 'float32' if cpu else 'bfloat16'
  weights = weights_folder.open_folder(str(folder), dtype=dtype)
  devices = jax.device_count()
  mesh = None if devices == 1 else sharding.make_mesh(1, 1, devices)
  graphdef, _ = decoder.abstract_model(weights.shape)
  return Opened(
    name=folder.resolve().name,
    graphdef=graphdef,
    params=weights.load(mesh),
    mesh=mesh,
    tokenizer=tokenizer_lib.load(folder),
    vocab_size=weights.shape.vocab_size,
    prompt_tokens=_PROMPT_TOKENS,
    new_tokens=_NEW_TOKENS,
    actions=frozenset(map(str, records.ActionName)),
  )


def _open_run(folder, stage) -> Opened:
  run = trained.open_trained(folder)
  if not stage:
    there = [
      name for name in ('rl', 'sft') if (folder / name / 'done.json').is_file()
    ]
    stage = there[0] if there else 'untrained'
  agent = run.config.agent
  return Opened(
    name=f'{folder.resolve().name}-{stage}',
    graphdef=run.learner.graphdef,
    params=run.params(stage),
    mesh=run.learner.mesh,
    tokenizer=run.learner.tokenizer,
    vocab_size=run.learner.model.vocab_size,
    prompt_tokens=agent.max_prompt_tokens,
    new_tokens=agent.max_action_tokens,
    actions=frozenset(agent.actions),
  )

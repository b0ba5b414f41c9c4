"""The models that a training run left in its work directory.

What evaluates, serves or solves with a trained agent opens it here: the config
that made it, its tokenizer, its model, and the parameters before training,
after SFT and after RL. Nothing is written to that folder.
"""

import dataclasses
import functools
import importlib.util
import os
import pathlib

import jax
from ml_collections import config_dict

from mlagent_jax import checkpoint, paths
from mlagent_jax.agent import tokenizer as tokenizer_lib
from mlagent_jax.stages import learner as learner_lib
from mlagent_jax.stages import mirror, session, sft, workdir

STAGES = ('untrained', 'sft', 'rl')


@dataclasses.dataclass(frozen=True)
class Trained:
  """A training run, opened for reading.

  Attributes:
    place: its work directory.
    config: what made it; `mesh` fits the devices that are here.
    fingerprint: of the config, as its checkpoints carry it.
    learner: its model and tokenizer.
  """

  place: workdir.Workdir
  config: config_dict.ConfigDict
  fingerprint: str
  learner: learner_lib.Learner

  def step(self, stage: str) -> int:
    """Updates that made the parameters of a stage; 0 for 'untrained'.

    Raises:
      ConfigError: if the run has no checkpoint of this stage.
    """
    if stage == 'untrained':
      return 0
    with self._checkpoints(stage) as checkpoints:
      return checkpoints.latest_step()

  def params(self, stage: str):
    """The parameters of 'untrained', 'sft' or 'rl' (its latest checkpoint).

    Raises:
      ConfigError: if the run has no checkpoint of this stage.
      CheckpointError: if it is damaged, or of another architecture.
    """
    if stage == 'untrained':
      return self.learner.untrained()
    with self._checkpoints(stage) as checkpoints:
      state, _ = checkpoints.restore(sft.state_shapes(self.learner, stage))
    return state.params

  def _checkpoints(self, stage: str) -> checkpoint.Checkpointer:
    if not self.place.has_checkpoint(stage):
      raise session.ConfigError(
        f'{self.place} has no checkpoint of stage {stage!r}: train it first'
        ' (python -m mlagent_jax.train), or leave that agent out'
      )
    return checkpoint.Checkpointer(
      self.place.checkpoints(stage),
      fingerprint=self.fingerprint,
      read_only=True,  # its training may go on
    )


def read_config(
  folder: pathlib.Path,
) -> tuple[config_dict.ConfigDict, str]:
  """The config that made a work directory, and its fingerprint.

  Keys that this version has and the run did not know keep their defaults.

  Raises:
    ConfigError: if it is no work directory, or has keys unknown here.
    WorkdirError: if config.json is damaged.
  """
  flat = workdir.read_json(folder / 'config.json')
  if flat is None:
    raise session.ConfigError(
      f'{folder} is no work directory of a training run: it has no config.json'
    )
  known = _defaults()
  for key, value in flat.items():
    place = known
    *parents, name = key.split('.')
    for parent in parents:
      place = place.get(parent, {})
    if name not in place:
      raise session.ConfigError(
        f'{folder / "config.json"} has the key {key!r}, which this version of'
        ' mlagent_jax does not know: use the version that made the run'
      )
    place[name] = tuple(value) if isinstance(value, list) else value
  return known, workdir.fingerprint_of(flat)


def open_trained(where: str | os.PathLike[str]) -> Trained:
  """Opens a training run in a folder or at gs://.

  Raises:
    ConfigError: if it is none, or has no tokenizer yet.
    MirrorError: if it cannot be read there.
  """
  place = mirror.open_for_reading(where)
  folder = place.folder
  config, fingerprint = read_config(folder)
  mesh = config.mesh
  if mesh.data * mesh.fsdp * mesh.model != jax.device_count():
    # The run's mesh was another machine's; all that is here holds the model.
    mesh.data, mesh.fsdp, mesh.model = 1, jax.device_count(), 1
  sampler = config.sampler_mesh
  if sampler.data * sampler.fsdp * sampler.model != jax.local_device_count():
    sampler.data = sampler.fsdp = sampler.model = 0  # as `mesh` says
  if config.tokenizer.kind == 'huggingface':
    path = config.tokenizer.path or config.model.init_from
    tokenizer = tokenizer_lib.load(mirror.local_folder(path))
  elif any((folder / 'tokenizer').glob('*')):
    tokenizer = tokenizer_lib.load(folder / 'tokenizer')
  else:
    raise session.ConfigError(
      f'{folder} has no tokenizer: its collect stage has not ended'
    )
  learner = learner_lib.make_learner(config, tokenizer)
  return Trained(place, config, fingerprint, learner)


@functools.cache
def _module():
  file = paths.top_folder('configs') / 'base.py'
  spec = importlib.util.spec_from_file_location('_mlagent_base_config', file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _defaults() -> config_dict.ConfigDict:
  """Every key with its default, from configs/base.py."""
  return _module().get_config()

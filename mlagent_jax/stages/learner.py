"""The device side that the stages share: model, mesh, policy, optimizer."""

import dataclasses

from flax import nnx

from mlagent_jax import optim, rollout, sampling
from mlagent_jax.agent import stop_text
from mlagent_jax.model import config as model_config
from mlagent_jax.model import decoder, sharding
from mlagent_jax.stages import starting_point


@dataclasses.dataclass(frozen=True)
class Learner:
  """A model's definition, where its arrays live, and its tokenizer.

  Attributes:
    config: the whole config.
    model: shape of the decoder.
    graphdef: the decoder's static part.
    shapes: of its parameters.
    mesh: None on a single device.
    tokenizer: what reads and writes its tokens.
  """

  config: object
  model: model_config.ModelConfig
  graphdef: nnx.GraphDef
  shapes: nnx.State
  mesh: object
  tokenizer: object

  def untrained(self) -> nnx.State:
    """The parameters that training starts from; the same for a seed."""
    return starting_point.initial_params(self.config, self.model, self.mesh)

  def policy(
    self,
    *,
    samples_per_prompt: int,
    batch_size: int,
    temperature: float,
    prompt_length: int | None = None,
  ) -> rollout.Policy:
    """A policy of this model; equal sizes share what is compiled.

    `prompt_length` is the longest prompt in tokens; the config's if None.
    """
    agent, sampler = self.config.agent, self.config.sampler
    samples = batch_size * samples_per_prompt
    shards = 1 if self.mesh is None else sharding.batch_devices(self.mesh)

    def split(count):
      return -(-count // shards) * shards

    engine = sampling.Engine(
      self.graphdef,
      sampling.Room(
        slots=split(min(samples, sampler.slots or samples)),
        rows=split(batch_size),
        seats=samples_per_prompt,
        prompt_length=prompt_length or agent.max_prompt_tokens,
        sample_length=agent.max_action_tokens,
        chunk=sampler.chunk,
        shards=shards,
      ),
      stop_ids=self.tokenizer.stop_ids,
      mesh=self.mesh,
      int8=sampler.int8,
    )
    return rollout.Policy(
      engine,
      self.tokenizer,
      settings=sampling.Settings(
        temperature=temperature, max_tokens=agent.max_action_tokens
      ),
      stop=stop_text.STOP_STRINGS[agent.protocol],
    )

  def optimizer(self, settings, updates: int):
    """An optimizer by a section of the config, such as `sft`.

    Args:
      settings: with learning_rate, schedule, warmup_steps and weight_decay.
      updates: in all, for the schedule.
    """
    return optim.make_optimizer(
      settings.learning_rate,
      schedule=settings.schedule,
      warmup_steps=settings.warmup_steps,
      total_steps=updates,
      weight_decay=settings.weight_decay,
      **self.config.optimizer,
    )


def make_learner(config, tokenizer, devices=None) -> Learner:
  """The learner of a config.

  Args:
    config: the whole config, without -1 (`session.fill_in`).
    tokenizer: its vocabulary is the model's, unless the config says more.
    devices: of the mesh; all devices by default. Given ones always make a mesh.
  """
  sizes = (config.mesh.data, config.mesh.fsdp, config.mesh.model)
  one = devices is None and sizes == (1, 1, 1)
  mesh = None if one else sharding.make_mesh(*sizes, devices)
  model = starting_point.model_of(config, tokenizer)
  graphdef, shapes = decoder.abstract_model(model)
  return Learner(config, model, graphdef, shapes, mesh, tokenizer)

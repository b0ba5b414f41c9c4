"""The device side that the stages share: model, mesh, policy, optimizer."""

import dataclasses
import functools
import math

import jax
from flax import nnx

from mlagent_jax import optim, replicas, rollout, sampling
from mlagent_jax.agent import action_names, stop_text
from mlagent_jax.model import config as model_config
from mlagent_jax.model import decoder, sharding
from mlagent_jax.stages import processes as processes_lib
from mlagent_jax.stages import session, split_policy, starting_point


@dataclasses.dataclass(frozen=True)
class Learner:
  """A model's definition, where its arrays live, and its tokenizer.

  Attributes:
    config: the whole config.
    model: shape of the decoder.
    graphdef: the decoder's static part.
    shapes: of its parameters.
    mesh: None on a single device.
    sampler_mesh: of this process's devices; None if the sampler uses `mesh`.
    tokenizer: what reads and writes its tokens.
    processes: all that train it.
  """

  config: object
  model: model_config.ModelConfig
  graphdef: nnx.GraphDef
  shapes: nnx.State
  mesh: object
  sampler_mesh: object
  tokenizer: object
  processes: processes_lib.Processes

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
  ) -> rollout.Policy | split_policy.SplitPolicy:
    """A policy of this model; equal sizes share what is compiled.

    Args:
      samples_per_prompt: G.
      batch_size: prompts that all processes together sample at once.
      temperature: of the samples.
      prompt_length: the longest prompt in tokens; the config's if None.
    """
    agent = self.config.agent
    mesh, prompts = self.mesh, batch_size
    if self.sampler_mesh is not None:
      mesh, prompts = self.sampler_mesh, -(-prompts // self.processes.count)
    engine = sampling.Engine(
      self.graphdef,
      self.room(samples_per_prompt, prompts, mesh, prompt_length),
      stop_ids=self.tokenizer.stop_ids,
      mesh=mesh,
      int8=self.config.sampler.int8,
      constraint=self._constraint(),
    )
    policy = rollout.Policy(
      engine,
      self.tokenizer,
      settings=sampling.Settings(
        temperature=temperature, max_tokens=agent.max_action_tokens
      ),
      stop=stop_text.STOP_STRINGS[agent.protocol],
    )
    if self.sampler_mesh is None:
      return policy
    return split_policy.SplitPolicy(policy, mesh, self.processes)

  def _constraint(self) -> sampling.Constraint | None:
    if not self.config.sampler.constrain_actions:
      return None
    names = frozenset(self.config.agent.actions)
    return constraint(self.tokenizer, names, self.model.vocab_size)

  def room(
    self,
    samples_per_prompt: int,
    prompts: int,
    mesh: jax.sharding.Mesh | None,
    prompt_length: int | None = None,
  ) -> sampling.Room:
    """How much the sampler holds at once for batches of prompts on a mesh."""
    agent, sampler = self.config.agent, self.config.sampler
    samples = prompts * samples_per_prompt
    shards = 1 if mesh is None else sharding.batch_devices(mesh)

    def split(count):
      return -(-count // shards) * shards

    return sampling.Room(
      slots=split(min(samples, sampler.slots or samples)),
      rows=split(prompts),
      seats=samples_per_prompt,
      prompt_length=prompt_length or agent.max_prompt_tokens,
      sample_length=agent.max_action_tokens,
      chunk=sampler.chunk,
      shards=shards,
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


@functools.cache
def constraint(
  tokenizer, names: frozenset[str], vocab_size: int
) -> sampling.Constraint:
  """What lets a policy name these actions alone, for its sampler.

  Raises:
    ConfigError: if no tokens spell one of them.
  """
  try:
    automaton = action_names.token_automaton(tokenizer, names, vocab_size)
  except ValueError as error:
    raise session.ConfigError(f'sampler.constrain_actions: {error}') from error
  return sampling.Constraint(*automaton)


def make_learner(
  config,
  tokenizer,
  devices=None,
  processes: processes_lib.Processes | None = None,
) -> Learner:
  """The learner of a config.

  Args:
    config: the whole config, without -1 (`session.fill_in`).
    tokenizer: its vocabulary is the model's, unless the config says more.
    devices: of the mesh; all devices by default. Given ones always make a mesh.
    processes: this one among all; alone by default.
  """
  processes = processes or processes_lib.Processes()
  sizes = (config.mesh.data, config.mesh.fsdp, config.mesh.model)
  one = devices is None and sizes == (1, 1, 1)
  mesh = None if one else sharding.make_mesh(*sizes, devices)
  model = starting_point.model_of(config, tokenizer)
  graphdef, shapes = decoder.abstract_model(model)
  sampler_mesh = _sampler_mesh(config, processes)
  return Learner(
    config, model, graphdef, shapes, mesh, sampler_mesh, tokenizer, processes
  )


def _sampler_mesh(config, processes):
  """The mesh of this process's devices; None if `mesh` serves as one."""
  sizes = config.sampler_mesh
  shape = (sizes.data, sizes.fsdp, sizes.model)
  if not any(shape):
    if processes.count == 1:
      return None
    local = jax.local_device_count()
    model = math.gcd(config.mesh.model, local)
    shape = (1, local // model, model)
  return replicas.local_mesh(shape)

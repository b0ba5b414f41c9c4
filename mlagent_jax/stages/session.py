"""What every stage works with: config, work directory, tasks, environment.

Also the checks at start-up: whatever can be found wrong before the first step
is found here, with numbers.
"""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence

from ml_collections import config_dict

from mlagent_jax import dispatch
from mlagent_jax.agent import prompts
from mlagent_jax.environment import (
  blobs,
  cache,
  episode,
  prepared,
  records,
  sandbox,
  task_folder,
  workers,
)
from mlagent_jax.environment.sandbox import interpreter
from mlagent_jax.environment.sandbox.docker import IMAGE
from mlagent_jax.exploration import diversity, embeddings
from mlagent_jax.stages import (
  chat_models,
  mirror,
  rl_checks,
  rollout_checks,
  run_log,
  training_checks,
  workdir,
)
from mlagent_jax.stages import processes as processes_lib

LAYOUTS = ('shared_prompt', 'packed', 'packed_groups')
TOKENIZERS = ('sentencepiece', 'huggingface')
# What a stage reads of an earlier one.
NEEDS = {'sft': 'collect', 'rl': 'sft', 'evaluate': 'collect'}
STAGES = ('collect', 'sft', 'rl', 'evaluate')


class ConfigError(ValueError):
  """A config asks for something that cannot work; says what and where."""


@dataclasses.dataclass(frozen=True)
class Session:
  """What a stage needs of the host wing, and where it writes.

  With several processes, process 0 alone has an environment and a pool (they
  are None in the others) and writes what everybody reads.
  """

  config: config_dict.ConfigDict
  workdir: workdir.Workdir
  log: run_log.RunLog
  tasks: dict[str, task_folder.Task]
  processes: processes_lib.Processes
  environment: episode.Environment | None
  pool: workers.LocalPool | None
  chat_models: chat_models.ChatModels | None

  def result(self, stage: str) -> dict | None:
    """What a stage reported when it ended; every process asks together."""
    return self.processes.leader_does(self.workdir.result, stage)

  def push(self) -> None:
    """What a checkpoint builds on is where it is, before it is written."""
    self.processes.leader_does(self.workdir.push)

  @property
  def scales(self) -> dict[str, records.Scale]:
    """Scale of each task."""
    return {name: task.scale for name, task in self.tasks.items()}

  def dispatcher(self, on_span=None) -> dispatch.Dispatcher:
    """What sends actions to the workers; `on_span` as there."""
    return dispatch.Dispatcher(
      self.pool,
      max_outage_seconds=60 * self.config.environment.max_outage_minutes,
      say=self.log.say,
      on_span=on_span,
      check=self.processes.check_stopped,
    )

  def messages(
    self,
    task: str,
    snapshot: records.Snapshot,
    steps: Sequence[records.Step],
    count_tokens,
  ) -> list[prompts.Message]:
    """The prompt of a state, as chat messages, within the token budget."""
    return prompts.build_prompt(
      self.tasks[task],
      steps,
      snapshot,
      self.environment.script(task, snapshot),
      protocol=self.config.agent.protocol,
      budget_tokens=self.config.agent.max_prompt_tokens,
      count_tokens=count_tokens,
      allowed=allowed_actions(self.config),
    )

  def prompt_ids(self, tokenizer):
    """(task, state, steps so far) -> token ids of the prompt."""

    def ids(task, snapshot, steps) -> list[int]:
      messages = self.messages(
        task, snapshot, steps, lambda m: len(tokenizer.encode_prompt(m))
      )
      return tokenizer.encode_prompt(messages)

    return ids


def allowed_actions(config) -> frozenset[records.ActionName]:
  """The config's actions.

  Raises:
    ConfigError: if one does not exist.
  """
  known = {str(name) for name in records.ActionName}
  unknown = [name for name in config.agent.actions if name not in known]
  if unknown:
    raise ConfigError(
      f'agent.actions: {unknown} do not exist; there are {sorted(known)}'
    )
  return frozenset(records.ActionName(name) for name in config.agent.actions)


def fill_in(config, num_devices: int) -> None:
  """Replaces every -1 of a config by the number that it stands for.

  Args:
    config: the whole config, changed in place.
    num_devices: devices of all processes together.

  Raises:
    ConfigError: if the devices or a batch cannot be split so.
  """
  mesh = config.mesh
  if mesh.fsdp == -1:
    others = mesh.data * mesh.model
    if others < 1 or num_devices % others:
      raise ConfigError(
        f'mesh.fsdp is -1, but {num_devices} devices are not divisible by'
        f' data={mesh.data} x model={mesh.model}'
      )
    mesh.fsdp = num_devices // others
  rows = mesh.data * mesh.fsdp
  sft, rl = config.sft, config.rl
  # What does not divide is left for check_config to tell.
  if sft.micro_batches == -1:
    sft.micro_batches = max(sft[_sft_size(config)] // rows, 1)
  if rl.micro_batches == -1:
    states = rl_checks.update_rows(config) // rl.mini_batches
    packed = rl.layout == 'packed_groups'  # which is not computed in parts
    rl.micro_batches = 1 if packed else max(states // rows, 1)


def _sft_size(config) -> str:
  """The key of section `sft` that says how many rows a batch has."""
  shared = config.sft.layout == 'shared_prompt'
  return 'prompts_per_batch' if shared else 'batch_size'


def check_config(
  config, num_devices: int, num_local: int | None = None
) -> None:
  """Finds what is wrong with a config before anything is computed.

  Args:
    config: the whole config.
    num_devices: devices of all processes together.
    num_local: devices of each process; all of them by default.

  Raises:
    ConfigError: names the key, its value and what to do.
  """
  unknown = [stage for stage in config.stages if stage not in STAGES]
  if unknown:
    raise ConfigError(f'stages: {unknown} do not exist; there are {STAGES}')
  order = [STAGES.index(stage) for stage in config.stages]
  if order != sorted(set(order)):
    raise ConfigError(f'stages: {config.stages} are not in the order {STAGES}')
  mesh = config.mesh
  places = mesh.data * mesh.fsdp * mesh.model
  if places != num_devices:
    raise ConfigError(
      f'mesh: data={mesh.data} x fsdp={mesh.fsdp} x model={mesh.model} has'
      f' {places} places, but there are {num_devices} devices'
    )
  sampler = config.sampler_mesh
  if any(sampler.values()):
    places = sampler.data * sampler.fsdp * sampler.model
    if places != (num_local or num_devices):
      raise ConfigError(
        f'sampler_mesh: data={sampler.data} x fsdp={sampler.fsdp} x'
        f' model={sampler.model} has {places} places, but a process has'
        f' {num_local or num_devices} devices'
      )
  try:
    training_checks.check(config)
  except ValueError as error:
    raise ConfigError(str(error)) from error
  rows = mesh.data * mesh.fsdp
  key, micro_batches = _sft_size(config), config.sft.micro_batches
  size = config.sft[key]
  if size % (rows * micro_batches):
    raise ConfigError(
      f'sft.{key} {size} is not divisible by {rows} devices on mesh axes data'
      f' and fsdp times {micro_batches} micro-batches'
    )
  try:
    rl_checks.check(config)
    rollout_checks.check(config)
  except ValueError as error:
    raise ConfigError(str(error)) from error
  for key, value, least in (
    ('sampler.slots', config.sampler.slots, 0),
    ('sampler.chunk', config.sampler.chunk, 1),
  ):
    if value < least:
      raise ConfigError(f'{key} is {value}; at least {least}')
  for key, value, choices in (
    ('agent.protocol', config.agent.protocol, prompts.PROTOCOLS),
    ('tokenizer.kind', config.tokenizer.kind, TOKENIZERS),
    ('sft.layout', config.sft.layout, LAYOUTS),
    ('environment.pool', config.environment.pool, workers.KINDS),
    ('environment.sandbox', config.environment.sandbox, sandbox.KINDS),
    ('agent.editor', config.agent.editor, chat_models.EDITORS),
    ('collect.expert', config.collect.expert, chat_models.EXPERTS),
    ('collect.choice', config.collect.choice, diversity.CHOICES),
    ('collect.embedding', config.collect.embedding, embeddings.KINDS),
  ):
    if value not in choices:
      raise ConfigError(f'{key}: {value!r} is none of {choices}')
  asked = (config.collect.expert, config.agent.editor)
  if 'policy' in asked and num_local not in (None, num_devices):
    raise ConfigError(
      "collect.expert or agent.editor is 'policy', which one process alone can"
      f' ask, but there are {num_devices // num_local}: serve it (python -m'
      " mlagent_jax.serve) and use 'endpoint'"
    )
  if config.agent.editor and config.environment.pool == 'ray':
    raise ConfigError(
      f'agent.editor {config.agent.editor!r} needs environment.pool'
      " 'local': what it may spend and how fast is counted in one process,"
      " and steps of 'ray' run in many"
    )
  kind, image = config.environment.sandbox, config.environment.docker_image
  if image != IMAGE and kind != 'docker':
    raise ConfigError(
      f"environment.docker_image: {image!r} needs environment.sandbox 'docker',"
      f' found {kind!r}'
    )
  unknown = interpreter.missing_modules(config.environment.preload)
  if unknown:
    raise ConfigError(
      f'environment.preload: there is no module {unknown} for {sys.executable}'
    )
  if config.environment.executions_gb <= 0:
    raise ConfigError(
      f'environment.executions_gb: {config.environment.executions_gb} must be'
      ' above 0; environment.reuse_executions = False keeps none'
    )
  if config.tokenizer.kind == 'huggingface' and not (
    config.tokenizer.path or config.model.init_from
  ):
    raise ConfigError(
      "tokenizer.path is empty: the kind 'huggingface' needs it, or"
      ' model.init_from'
    )
  if config.model.lora_rank and config.rl.advantage == 'gae':
    raise ConfigError(
      f"model.lora_rank {config.model.lora_rank} with rl.advantage 'gae': a"
      " critic is trained whole, adapters cannot start it; use 'grpo', 'rloo'"
      " or 'reinforce', or lora_rank 0"
    )
  both = set(config.tasks.train) & set(config.tasks.held_out)
  if both:
    raise ConfigError(f'tasks: {sorted(both)} are both trained and held out')


@contextlib.contextmanager
def open_session(
  config: config_dict.ConfigDict,
  folder: pathlib.Path,
  num_devices: int,
  processes: processes_lib.Processes | None = None,
  open_policy: Callable | None = None,
  url: str = '',
) -> Iterator[Session]:
  """Checks everything that can be checked, and opens what stages need.

  Args:
    config: the whole config.
    folder: the work directory, which all processes see; with a `url`, where
      its mirror is (`mirror.Mirror`).
    num_devices: devices of all processes together.
    processes: this one among all; alone by default.
    open_policy: see `chat_models.ChatModels`; needed where a chat model of the
      config is 'policy'.
    url: of the work directory, if it is at one.

  Raises:
    ConfigError, WorkdirError, MirrorError, TaskError, SandboxUnavailable: see
      there.
  """
  processes = processes or processes_lib.Processes()
  check_config(config, num_devices, num_devices // processes.count)
  tasks = {
    name: task_folder.load_task(name)
    for name in (*config.tasks.train, *config.tasks.held_out)
  }
  with contextlib.ExitStack() as stack:
    opened, place = [], workdir.Workdir(folder, url)

    def open_host_side():
      opened.append(
        stack.enter_context(_host_side(config, place, tasks, open_policy))
      )

    processes.leader_does(open_host_side)
    if opened:
      place, log, *host_side = opened[0]
    else:
      log = run_log.RunLog(None)
      host_side = None, None, None
    yield Session(config, place, log, tasks, processes, *host_side)


@contextlib.contextmanager
def _host_side(
  config, place: workdir.Workdir, tasks, open_policy
) -> Iterator[tuple]:
  """What process 0 has: work directory, log, environment, pool, models."""
  with contextlib.ExitStack() as stack:
    folder, push = place.folder, place.push
    if place.url:
      mirrored = stack.enter_context(mirror.Mirror(place.url, folder, print))
      folder, push = mirrored.folder, mirrored.push
    workdir.open_workdir(folder, config)
    place = workdir.Workdir(folder, place.url, push)
    yield stack.enter_context(_opened(config, place, tasks, open_policy))


@contextlib.contextmanager
def _opened(
  config, place: workdir.Workdir, tasks, open_policy
) -> Iterator[tuple]:
  """The same, in a work directory that is there."""
  allowed = allowed_actions(config)
  folder = place.folder
  for stage in config.stages:
    needed = NEEDS.get(stage, stage)
    if needed not in config.stages and place.result(needed) is None:
      raise ConfigError(
        f'stages: stage {stage!r} needs {needed!r}, which {place} has not'
        f' completed; add it to stages'
      )
  for task in tasks.values():
    prepared.prepare_task(task)
  with (
    chat_models.ChatModels(config, folder, open_policy) as models,
    sandbox.make_sandbox(
      config.environment.sandbox, **_sandbox_options(config.environment)
    ) as box,
  ):
    store = blobs.BlobStore(folder / 'blobs')
    try:
      if 'collect' in config.stages and config.collect.expert != 'scripted':
        models.get(config.collect.expert)
      environment = episode.Environment(
        tasks,
        box,
        store,
        cache=_executions(config.environment, folder),
        allowed=allowed,
        protocol=config.agent.protocol,
        editor=models.editor(),
      )
    except ValueError as error:
      raise ConfigError(str(error)) from error
    with (
      _pool(config.environment, environment) as pool,
      run_log.RunLog(folder) as log,
    ):
      log.say(f'sandbox: {box.identity}')
      yield place, log, environment, pool, models


def _sandbox_options(settings) -> dict:
  options = {'preload': tuple(settings.preload)}
  if settings.sandbox == 'docker':
    options['image'] = settings.docker_image
  return options


def _executions(settings, folder: pathlib.Path) -> cache.ExecutionCache | None:
  if not settings.reuse_executions:
    return None
  return cache.ExecutionCache(
    settings.executions or folder / 'executions',
    max_bytes=round(settings.executions_gb * 1e9),
  )


def _pool(settings, environment: episode.Environment) -> workers.LocalPool:
  options = {}
  if settings.pool == 'ray':
    options['address'] = settings.ray_address
    options['sandbox_options'] = _sandbox_options(settings)
  try:
    return workers.make_pool(
      environment, kind=settings.pool, workers=settings.workers, **options
    )
  except ValueError as error:
    raise ConfigError(
      f'environment.pool {settings.pool!r} with environment.workers ='
      f' {settings.workers}: {error}'
    ) from error

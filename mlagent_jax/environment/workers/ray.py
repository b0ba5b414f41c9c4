"""A pool whose steps are Ray tasks, for when one machine is not enough.

Every node has its own sandbox; each worker process of Ray makes an environment
when its first step comes, and keeps it. What all nodes must see under the same
path is the folder of the blob store and that of the cache, if there is one: a
mounted folder (URLs of object stores are not supported). Workspaces travel
through it. Ray carries task names, snapshots, replies and outcomes only.

A step takes the CPUs, memory and GPUs that its task's limits state, so Ray
runs no more of them on a node than it can hold. Steps of a node that dies are
taken again elsewhere. A step can then run twice, but its future gets one
result, and what a step does is the same whoever does it: it writes blobs by
their hash, and the cache runs what is run a second time once.

Ray ends its processes without a word to them. What their sandboxes keep, such
as warm containers, goes when its time to live is over, when the next sandbox
starts on that node, or by `python -m mlagent_jax.tasks reap`.
"""

import dataclasses
import logging
import math
import os
import pathlib
import socket
import uuid
from collections.abc import Mapping
from typing import Any

from mlagent_jax import paths
from mlagent_jax.environment import prepared, scratch
from mlagent_jax.environment.blobs import BlobStore
from mlagent_jax.environment.cache import ExecutionCache
from mlagent_jax.environment.episode import Editor, Environment
from mlagent_jax.environment.records import (
  ActionName,
  Limits,
  SandboxUnavailable,
  Snapshot,
)
from mlagent_jax.environment.sandbox import make_sandbox
from mlagent_jax.environment.task_folder import Task
from mlagent_jax.environment.workers.local import LocalPool, Result

_NODE_ID = 'ray.io/node-id'
_STORE_BYTES = 2**27
_KNOCK_SECONDS = 10.0
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Recipe:
  """What a node makes its environment from; small, and the same for all.

  Attributes:
    name: no two pools have the same.
    tasks: with `folder` relative to tasks/ if it comes with the package.
    sandbox: its kind.
    sandbox_options: of its class.
    store: folder of the blob store.
    cache: folder of the cache and its `max_bytes`, if there is one.
    cache_home: $MLAGENT_CACHE, if it is set.
    editor, allowed, protocol, scratch: of `Environment`.
  """

  name: str
  tasks: Mapping[str, Task]
  sandbox: str
  sandbox_options: Mapping[str, Any]
  store: pathlib.Path
  cache: tuple[pathlib.Path, int] | None
  cache_home: str | None
  editor: Editor | None
  allowed: frozenset[ActionName]
  protocol: str
  scratch: pathlib.Path | None


@dataclasses.dataclass(frozen=True)
class _Failed:
  """A sandbox failed on a node."""

  node: str
  message: str


class RayPool(LocalPool):
  """Takes steps on a Ray cluster; see `LocalPool` for the interface.

  Args:
    environment: takes the steps; each node makes its own like it.
    workers: steps in flight; 0 is twice the CPUs of the cluster.
    address: of the cluster, if this process is not connected to one yet;
      'local' starts one on this machine.
    sandbox_options: arguments of the sandbox's class.
    ready_seconds: how long a node may take to be ready.
    **options: of `LocalPool`.

  Raises:
    ValueError: if Ray is not installed, there is no such cluster, or no node
      has what a task needs.
    SandboxUnavailable: if a node is not ready: its sandbox, the task's data,
      or the folder of the store.
  """

  def __init__(
    self,
    environment: Environment,
    *,
    workers: int = 0,
    address: str = 'auto',
    sandbox_options: Mapping[str, Any] | None = None,
    ready_seconds: float = 300.0,
    **options,
  ):
    try:
      import ray
    except ModuleNotFoundError as error:
      raise ValueError(
        "workers of kind 'ray' need Ray: pip install 'mlagent_jax[ray]'"
      ) from error
    self._ray = ray
    self._ours = not ray.is_initialized()
    if self._ours:
      _knock(address)
      # A cluster of its own needs no more room than the results take.
      own = {'object_store_memory': _STORE_BYTES} if address == 'local' else {}
      try:
        ray.init(address=address, include_dashboard=False, **own)
      except ConnectionError as error:
        raise ValueError(f'no Ray cluster at {address!r}: {error}') from error
    try:
      recipe = _recipe(environment, sandbox_options or {})
      self._check_resources(environment.tasks)
      self._recipe = ray.put(recipe)
      self._check_nodes(ready_seconds)
    except BaseException:
      self._disconnect()
      raise
    cpus = int(ray.cluster_resources().get('CPU', 0))
    super().__init__(environment, workers=workers or 2 * cpus, **options)
    self._take_step = ray.remote(_take_step)
    # Nodes whose sandbox failed, until none is left.
    self._avoided: frozenset[str] = frozenset()

  def close(self) -> None:
    """As `LocalPool.close`; disconnects if it was the pool that connected."""
    super().close()
    self._disconnect()

  def _disconnect(self) -> None:
    if self._ours:
      self._ray.shutdown()

  def _try(self, task: str, snapshot: Snapshot, reply: str) -> Result:
    avoided = self._avoided
    selector = {_NODE_ID: f'!in({",".join(sorted(avoided))})'}
    step = self._take_step.options(
      **_resources(self.environment.tasks[task].limits),
      max_retries=self._attempts,
      scheduling_strategy='SPREAD',
      label_selector=selector if avoided else None,
    )
    try:
      found = self._ray.get(step.remote(self._recipe, task, snapshot, reply))
    except self._ray.exceptions.RayTaskError:
      raise  # an error of the step itself; it is one of its cause's class too
    except self._ray.exceptions.RayError as error:
      raise SandboxUnavailable(f'the cluster lost the step: {error}') from error
    if isinstance(found, _Failed):
      with self._counting:
        others = self._nodes().keys() - self._avoided - {found.node}
        avoid = self._avoided | {found.node} if others else frozenset()
        self._avoided = avoid
      raise SandboxUnavailable(f'node {found.node}: {found.message}')
    return found

  def _nodes(self) -> dict[str, dict[str, float]]:
    """Id -> resources of the nodes that can take steps."""
    return {
      node['NodeID']: node['Resources']
      for node in self._ray.nodes()
      if node['Alive'] and node['Resources'].get('CPU')
    }

  def _check_resources(self, tasks: Mapping[str, Task]) -> None:
    nodes = self._nodes()
    for task in tasks.values():
      needs = _resources(task.limits)
      wanted = {
        'CPU': needs['num_cpus'],
        'memory': needs['memory'],
        'GPU': needs['num_gpus'],
      }
      if not any(
        all(node.get(name, 0) >= most for name, most in wanted.items())
        for node in nodes.values()
      ):
        raise ValueError(
          f'no node of the Ray cluster has what task {task.name} needs: CPUs'
          f' {wanted["CPU"]}, memory {task.limits.memory_mb} MiB, GPUs'
          f' {wanted["GPU"]}; there are {len(nodes)} nodes with CPUs, the'
          f' largest of {max((n["CPU"] for n in nodes.values()), default=0)}'
        )

  def _check_nodes(self, seconds: float) -> None:
    """Makes every node ready, and finds out which ones cannot be."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    get_ready = self._ray.remote(_get_ready)
    asked = {
      node: get_ready.options(
        num_cpus=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node, False),
      ).remote(self._recipe)
      for node in self._nodes()
    }
    identities, problems = set(), []
    for node, answer in asked.items():
      try:
        identity, problem = self._ray.get(answer, timeout=seconds)
      except self._ray.exceptions.RayError as error:
        if node not in self._nodes():
          # Ray lists a dead node as alive until it misses its heartbeats.
          _log.warning('Node %s died before the first step: %s', node, error)
          continue
        identity, problem = '', str(error)
      identities.add(identity)
      if problem:
        problems.append(f'node {node}: {problem}')
    if problems:
      raise SandboxUnavailable('; '.join(problems))
    if not identities:
      raise SandboxUnavailable(f'all {len(asked)} nodes of the cluster died')
    if len(identities) > 1:
      _log.warning(
        'Nodes differ, so one script may score differently: %s', identities
      )


def _recipe(environment: Environment, options: Mapping[str, Any]) -> _Recipe:
  top = paths.top_folder('tasks')
  tasks = {
    name: dataclasses.replace(task, folder=task.folder.relative_to(top))
    if task.folder.is_relative_to(top)
    else task
    for name, task in environment.tasks.items()
  }
  cache = environment.cache
  return _Recipe(
    uuid.uuid4().hex,
    tasks,
    environment.sandbox.kind,
    options,
    environment.store.folder,
    None if cache is None else (cache.folder, cache.max_bytes),
    os.environ.get('MLAGENT_CACHE'),
    environment.editor,
    environment.allowed,
    environment.protocol,
    environment.scratch,
  )


def _resources(limits: Limits) -> dict[str, float]:
  # Ray takes fractions of one CPU only.
  cpus = limits.cpus if limits.cpus <= 1 else math.ceil(limits.cpus)
  memory = limits.memory_mb * 2**20
  return {'num_cpus': cpus, 'memory': memory, 'num_gpus': limits.gpus}


def _knock(address: str) -> None:
  """Ray waits for minutes for a head that is not there, and then exits."""
  host, _, port = address.rpartition(':')
  if not host or '://' in address or not port.isdigit():
    return
  try:
    socket.create_connection((host, int(port)), _KNOCK_SECONDS).close()
  except OSError as error:
    raise ValueError(f'no Ray cluster at {address!r}: {error}') from error


# What follows runs on the nodes.

_environments: dict[str, Environment] = {}


def _take_step(
  recipe: _Recipe, task: str, snapshot: Snapshot, reply: str
) -> Result | _Failed:
  try:
    return _environment(recipe).step(task, snapshot, reply)
  except SandboxUnavailable as error:
    return _Failed(_node(), str(error))


def _get_ready(recipe: _Recipe) -> tuple[str, str]:
  """(identity of the sandbox, '' or what stands in the way)."""
  try:
    scratch.reap(recipe.scratch)
    return _environment(recipe).sandbox.identity, ''
  except (RuntimeError, OSError, ValueError) as error:
    return '', str(error)


def _environment(recipe: _Recipe) -> Environment:
  """The environment of this process, made the first time."""
  if recipe.name in _environments:
    return _environments[recipe.name]
  if recipe.cache_home is not None:
    os.environ['MLAGENT_CACHE'] = recipe.cache_home
  folders = [recipe.store, *([recipe.cache[0]] if recipe.cache else [])]
  for folder in folders:
    if not (folder / 'format').is_file():
      raise SandboxUnavailable(
        f'{folder} is not there: it must be in a folder that all nodes share'
      )
  if recipe.scratch is not None:
    recipe.scratch.mkdir(parents=True, exist_ok=True)
  top = paths.top_folder('tasks')  # of this node
  tasks = {
    name: dataclasses.replace(task, folder=top / task.folder)
    for name, task in recipe.tasks.items()
  }
  for task in tasks.values():
    prepared.prepare_task(task)
  sandbox = make_sandbox(recipe.sandbox, **recipe.sandbox_options)
  environment = Environment(
    tasks,
    sandbox,
    BlobStore(recipe.store),
    cache=ExecutionCache(recipe.cache[0], max_bytes=recipe.cache[1])
    if recipe.cache
    else None,
    editor=recipe.editor,
    allowed=recipe.allowed,
    protocol=recipe.protocol,
    scratch=recipe.scratch,
  )
  _environments[recipe.name] = environment
  return environment


def _node() -> str:
  import ray

  return ray.get_runtime_context().get_node_id()

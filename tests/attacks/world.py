"""A host with secrets, and a look at it before and after each attack."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import platform
import threading
import time

import vault
from attack import ENTRY, Attack, replace_lines
from listeners import Listeners

from mlagent_jax import reward
from mlagent_jax.environment import (
  cache,
  episode,
  prepared,
  task_folder,
  workspace,
)
from mlagent_jax.environment.blobs import BlobStore
from mlagent_jax.environment.records import Completed, Outcome, Snapshot
from mlagent_jax.environment.sandbox import (
  Sandbox,
  cgroups,
  seccomp,
  warden,
)
from mlagent_jax.environment.sandbox.docker_container import IDLE_PROCESSES

_HERE = pathlib.Path(__file__).parent
_CALLS = {'x86_64': 0, 'aarch64': 1}
_CLONE = {'x86_64': 56, 'aarch64': 220}
_SETTLE_SECONDS = 5.0
# How much a submission of 32 MiB may cost the host for a moment.
MOST_MEMORY = 400 << 20
NEIGHBOUR = """
import os
import time
from trick import breach, submit
secret = open('secret').read()
places = ['/tmp/secret', '/dev/shm/secret', 'secret']
for place in places:
  open(place, 'w').write(secret)
  os.chmod(place, 0o666)
time.sleep(2)
for place in places:
  if open(place).read() != secret:
    breach(place)
submit()
"""


class Recorder:
  """A sandbox that keeps what its runs printed, whole."""

  def __init__(self, sandbox: Sandbox):
    self.kind, self.identity = sandbox.kind, sandbox.identity
    self.completed: list[Completed] = []
    self._sandbox = sandbox

  def run(self, command, folder, limits, *, data=None) -> Completed:
    done = self._sandbox.run(command, folder, limits, data=data)
    self.completed.append(done)
    return done


@dataclasses.dataclass
class Played:
  """What came of an attack: the steps, and what the host found afterwards."""

  outcomes: list[Outcome]
  rewards: list[float]
  printed: str
  memory: int
  overhead: float


class World:
  """One sandbox on a host that has something to lose.

  Attributes:
    sandbox: the real one.
    canary: a text that is in every secret of the host.
    label: the sandbox's name in the table.
    heard: see `Listeners`.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    sandbox: Sandbox,
    listeners: Listeners,
    canary: str,
    label: str,
  ):
    self.sandbox, self.canary, self.label = sandbox, canary, label
    self.heard = listeners.heard
    self._folder = folder
    self._labels = vault.write_task(folder / 'tasks' / 'vault')
    self.task = task_folder.load_task(folder / 'tasks' / 'vault')
    prepared.prepare_task(self.task)
    self.store = BlobStore(folder / 'blobs')
    self._cache = cache.ExecutionCache(folder / 'executions')
    self._scratch = folder / 'scratch'
    outside = folder / 'outside'
    for name in ('scratch', 'outside'):
      (folder / name).mkdir()
    for name in ('file', 'program', 'secret.env'):
      (outside / name).write_text(f'#!/bin/sh\n# {canary}\n')
    writable = [outside / 'file', outside / 'program']
    secret = [self.task.labels_file, self.task.folder / 'task.toml']
    secret += [outside / 'secret.env', folder / 'home' / '.env']
    secret[-1].parent.mkdir()
    secret[-1].write_text(canary)
    # At worst the permissions on the host protect nothing.
    for path in [folder, *folder.rglob('*')]:
      if not path.is_relative_to(folder / 'blobs') and not path.is_socket():
        path.chmod(0o777 if path.is_dir() else 0o666)
    machine = platform.machine()
    self._host = {
      'labels': str(self.task.labels_file),
      'secrets': [*map(str, secret), *map(str, writable)],
      'writable': list(map(str, writable)),
      'cache': str(self._cache.folder),
      'scratch': str(self._scratch),
      'process': os.getpid(),
      'port': listeners.port,
      'addresses': listeners.addresses(),
      'sockets': [listeners.path],
      'abstract': listeners.abstract,
      'clone': _CLONE[machine],
      'calls': {
        name: numbers[_CALLS[machine]]
        for name, numbers in seccomp._REFUSED.items()
        if numbers[_CALLS[machine]] is not None
      },
    }
    self._steps = 0
    self._length = vault.STARTER.count('\n')

  def play(self, attack: Attack) -> Played:
    """Takes the steps of an attack."""
    recorder = Recorder(self.sandbox)
    environment = self._environment(recorder, attack.seconds)
    start = self._start(environment, attack)
    first = replace_lines(ENTRY, 1, self._length, attack.source)
    _forget_peak()
    before = _memory('VmRSS')
    began = time.monotonic()
    with self._neighbour() if attack.neighbour else contextlib.nullcontext():
      outcome, state = environment.step('vault', start, first)
      outcomes = [outcome]
      for reply, _ in attack.then:
        if reply == 'again':
          outcome, _ = environment.step('vault', start, first)
        else:
          outcome, state = environment.step('vault', state, reply)
        outcomes.append(outcome)
    seconds = time.monotonic() - began
    return Played(
      outcomes,
      [self._reward(outcome) for outcome in outcomes],
      '\n'.join(done.output for done in recorder.completed),
      _memory('VmHWM') - before,
      seconds - sum(done.seconds for done in recorder.completed),
    )

  def play_honestly(self) -> float:
    """The reward of a step that changes nothing that matters; runs anew."""
    self._steps += 1
    environment = self._environment(self.sandbox, 20.0)
    reply = replace_lines(ENTRY, 1, 1, f'import csv  # {self._steps}')
    outcome, _ = environment.step('vault', environment.initial('vault'), reply)
    assert not outcome.cached
    return self._reward(outcome)

  def secrets_in(self, text: str) -> list[str]:
    """What of the secrets shows in a text."""
    return [word for word in (self.canary, *self._labels) if word in text]

  def look(self) -> dict:
    """What must be the same after an attack as before."""
    return {
      'files': self._files(),
      'scratch': sorted(os.listdir(self._scratch)),
      'descriptors': _descriptors(),
      'threads': threading.active_count(),
      'children': warden.descendants(os.getpid()),
      'groups': _groups(),
      'mounts': _mounts(),
      'environment': dict(os.environ),
      'place': os.getcwd(),
      'processes in containers': self._busy_containers(),
    }

  def settled(self, before: dict) -> dict:
    """A look that is the same as before, if that comes in a few seconds."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while (now := self.look()) != before and time.monotonic() < deadline:
      time.sleep(0.05)
    return now

  def damaged_blobs(self) -> list[str]:
    """Blobs of the store whose content is not what it was."""
    return [
      digest
      for digest, _ in self.store.sizes()
      if hashlib.sha256(self.store.path(digest).read_bytes()).hexdigest()
      != digest
    ]

  def _environment(self, sandbox, seconds: float) -> episode.Environment:
    limits = dataclasses.replace(self.task.limits, seconds=seconds)
    return episode.Environment(
      {'vault': dataclasses.replace(self.task, limits=limits)},
      sandbox,
      self.store,
      cache=self._cache,
      scratch=self._scratch,
    )

  def _start(self, environment, attack: Attack) -> Snapshot:
    """The state in which an attack is made: the starter, and its tools."""
    tree = environment.initial('vault').tree
    files = {
      'trick.py': (_HERE / 'trick.py').read_bytes(),
      'host.json': json.dumps(self._host).encode(),
      **attack.files,
    }
    entries = workspace.read_tree(tree, self.store)
    for path, content in files.items():
      entries = workspace.with_file(entries, path, content, self.store)
    return Snapshot(workspace.write_tree(entries, self.store))

  def _reward(self, outcome: Outcome) -> float:
    return reward.reward(outcome, self.task.scale)

  @contextlib.contextmanager
  def _neighbour(self):
    """An honest run at the same time, which must get what it deserves."""
    self._steps += 1
    attack = Attack(
      'neighbour',
      '',
      f'# {self._steps}\n{NEIGHBOUR}',
      files={'secret': self.canary.encode()},
    )
    environment = self._environment(self.sandbox, 20.0)
    reply = replace_lines(ENTRY, 1, self._length, attack.source)
    found = []

    def play():
      start = self._start(environment, attack)
      found.append(environment.step('vault', start, reply)[0])

    thread = threading.Thread(target=play)
    thread.start()
    time.sleep(0.7)
    yield
    thread.join()
    assert [self._reward(outcome) for outcome in found] == [0.5]
    assert 'BREACH' not in found[0].observation

  def _files(self) -> dict[str, tuple]:
    found = {}
    for name in ('outside', 'tasks', 'cache', 'home', 'evil'):
      for path in sorted((self._folder / name).rglob('*')):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b''
        found[str(path)] = (
          status.st_mode,
          status.st_uid,
          status.st_nlink,
          status.st_mtime_ns,
          content,
        )
    return found

  def _busy_containers(self) -> list[int]:
    """Numbers of processes of containers that are not idle."""
    if self.sandbox.kind != 'docker':
      return []
    engine = self.sandbox._engine
    counts = [
      engine.processes(container['Id'])
      for container in engine.containers(self.sandbox._pool.label)
    ]
    return [count for count in counts if count != IDLE_PROCESSES]


def _descriptors() -> int:
  links = []
  for name in os.listdir('/proc/self/fd'):
    with contextlib.suppress(FileNotFoundError):
      links.append(os.readlink(f'/proc/self/fd/{name}'))
  # The connections to an engine are its client's: they come and go.
  return sum(not link.startswith('socket:') for link in links)


def _groups() -> list[str]:
  """Control groups of this process's runs."""
  place = cgroups.find_place()
  return [
    str(path)
    for parent in (place.parents.values() if place else ())
    for path in parent.glob(f'mlagent_jax-{os.getpid()}-*')
  ]


def _mounts() -> list[str]:
  lines = pathlib.Path('/proc/self/mountinfo').read_text().splitlines()
  # Warm containers have their own, and so have tests beside this one.
  others = ('/docker/', '/pytest-of-', '-engine-')
  return [line for line in lines if not any(part in line for part in others)]


def _forget_peak() -> None:
  pathlib.Path('/proc/self/clear_refs').write_text('5')


def _memory(name: str) -> int:
  """A line of /proc/self/status, in bytes."""
  for line in pathlib.Path('/proc/self/status').read_text().splitlines():
    if line.startswith(name + ':'):
      return int(line.split()[1]) << 10
  raise KeyError(name)

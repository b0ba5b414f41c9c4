"""One warm container: idle between runs, host to one run at a time."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import time
from collections.abc import Sequence

from mlagent_jax.environment.records import Limits, SandboxUnavailable
from mlagent_jax.environment.sandbox import accounts, cgroups, folder, seccomp
from mlagent_jax.environment.sandbox.docker_engine import Engine
from mlagent_jax.environment.sandbox.docker_reaper import Owner

WORKSPACE = '/workspace'
# The engine's init and `sleep`, in every container.
IDLE_PROCESSES = 2
# To start a command the engine needs some threads inside the container.
_FEWEST_PROCESSES = 16
_PERIOD_MICROSECONDS = 100_000
_OPEN_FILES = 1024
# `sleep` belongs to a user whom no run can touch.
_KEEPER = ('65534:65534', '65533:65533')

# What a run starts as. Nothing of an earlier run is alive by then; what it
# left in memory goes, and if anything stays the run is refused. Then our
# filter of system calls joins the engine's, which may let io_uring and
# AF_VSOCK through (before version 23 of the engine); it is Perl that asks for
# it because that starts in a few milliseconds and is in every Debian. Only
# then comes the word that the host waits for, and the command.
READY = b'ready\n'
_LAUNCHER = """
leftovers() { find /tmp /dev/shm /dev/mqueue -mindepth 1 "$@"; }
[ -z "$(leftovers -print -quit)" ] || leftovers -delete || exit 1
[ -z "$(leftovers -print -quit)" ] || exit 1
for kind in shm sem msg; do
  { read -r _; read -r _; } </proc/sysvipc/$kind && exit 1
done
umask 022
exec perl -e '
  my $prctl = shift;
  my $filter = pack "H*", shift;
  if (length $filter) {
    my $program = pack "S x![P] P", length($filter) / 8, $filter;
    syscall($prctl, 22, 2, $program) == 0 or die "no filter: $!";
  }
  syswrite STDOUT, "ready\\n";
  exec {$ARGV[0]} @ARGV or print STDERR "$ARGV[0]: $!\\n";
  exit 127;
' -- "$@" 2>&1
"""


def launcher(command: Sequence[str]) -> list[str]:
  """What a container is told to run, for a command to be run safely."""
  prctl, program = str(seccomp.prctl_number()), seccomp.program().hex()
  return ['/bin/sh', '-c', _LAUNCHER, 'launcher', prctl, program, *command]


@dataclasses.dataclass(frozen=True)
class Shape:
  """What is fixed when a container is made: runs of one shape can share one.

  Attributes:
    memory_mb, processes, file_mb, cpus, gpus: see `Limits`.
    tmp_mb: size of /tmp.
    data: the data folder; '' for none.
    data_key: its device, inode: the same path may be another folder later.
  """

  memory_mb: int
  processes: int
  file_mb: int
  cpus: float
  gpus: int
  tmp_mb: int
  data: str
  data_key: tuple[int, int]

  @classmethod
  def of(cls, limits: Limits, data: pathlib.Path | None) -> 'Shape':
    """The shape that a run needs."""
    key = (0, 0)
    if data is not None:
      status = os.stat(data)
      key = (status.st_dev, status.st_ino)
    return cls(
      limits.memory_mb,
      limits.processes,
      limits.file_mb,
      limits.cpus,
      limits.gpus,
      limits.workspace_mb,
      '' if data is None else str(data),
      key,
    )


class Container:
  """A running container and the folder that is its /workspace.

  Attributes:
    identity: the engine's id of it.
    shape: what it was made for.
    user: user and group id of its runs if this process is root, a user that
      nobody else is meanwhile; None for this process's own.
    folder: the host's side of /workspace.
    runs: how many it has hosted.
    expires: when it ends by itself, on the clock `time.time`.
  """

  def __init__(
    self,
    engine: Engine,
    image: str,
    shape: Shape,
    place: pathlib.Path,
    owner: Owner,
    label: str,
    seconds: float,
  ):
    """Starts it.

    Args:
      engine: where.
      image: the image's id.
      shape: what for.
      place: a folder that does not exist yet, for /workspace.
      owner: who removes it.
      label: a further label.
      seconds: its time to live.

    Raises:
      SandboxUnavailable: if it does not start.
    """
    self.shape = shape
    self.folder = place
    self.runs = 0
    self.expires = time.time() + seconds
    self._engine = engine
    self._stack = contextlib.ExitStack()
    with contextlib.ExitStack() as stack:
      self.user = None
      if os.geteuid() == 0:
        self.user = stack.enter_context(accounts.lend()).number
      place.mkdir(mode=0o700)
      stack.callback(folder.remove, place.parent, place.name)
      if shape.data:
        # Else the engine would make the mount point, and own it.
        (place / folder.DATA).mkdir()
      folder.hand_over(place, self.user)
      self.identity = self._start(image, owner, label, seconds)
      try:
        first = engine.first_process(self.identity)
      except SandboxUnavailable:
        with contextlib.suppress(SandboxUnavailable):
          engine.remove(self.identity)
        raise
      # Asking the kernel is much faster than asking the engine.
      self._group = cgroups.group_of(first, self.identity)
      self._stack = stack.pop_all()

  @property
  def account(self) -> str:
    """'uid:gid' of its runs."""
    if self.user is None:
      return f'{os.getuid()}:{os.getgid()}'
    return f'{self.user}:{self.user}'

  def processes(self) -> int:
    """How many processes it has; 0 if it has ended."""
    if self._group is None:
      return self._engine.processes(self.identity)
    return len(cgroups.members(self._group))

  def members(self) -> list[int]:
    """The host's ids of its processes, if they can be seen from here."""
    return [] if self._group is None else cgroups.members(self._group)

  def fits(self, seconds: float) -> bool:
    """Whether it lives long enough for a run of so many seconds."""
    return time.time() + seconds + 60 < self.expires

  def kill(self) -> None:
    """Removes it from the engine: all that ran in it is dead afterwards.

    Raises:
      SandboxUnavailable: if the engine fails.
    """
    self._engine.remove(self.identity)

  def remove(self) -> None:
    """Kills what runs in it, and removes it with its folder.

    Raises:
      SandboxUnavailable: if the engine fails; call again later.
    """
    self._engine.remove(self.identity)
    self._stack.close()

  def move_in(self, workspace: pathlib.Path) -> None:
    """Moves the entries of a workspace to where its run will find them.

    Between file systems they are copied, and must be handed over again.
    """
    for name in os.listdir(workspace):
      shutil.move(workspace / name, self.folder / name)
    folder.hand_over(self.folder, self.user)

  def move_out(self, workspace: pathlib.Path) -> None:
    """Moves them back, and leaves an empty folder for the next run.

    Nothing of the run may be alive. Data is mounted at a folder that stays.
    """
    folder.take_back(self.folder, owned=self.user is not None)
    for name in os.listdir(self.folder):
      if name != folder.DATA:
        shutil.move(self.folder / name, workspace / name)
      elif not self.shape.data:
        folder.remove(self.folder, name)

  def _start(self, image: str, owner: Owner, label: str, life: float) -> str:
    shape = self.shape
    memory = shape.memory_mb << 20
    mounts = [(str(self.folder), WORKSPACE, False)]
    if shape.data:
      mounts.append((shape.data, f'{WORKSPACE}/{folder.DATA}', True))
    return self._engine.start(
      image=image,
      command=['sleep', str(round(life))],
      user=_KEEPER[self.account == _KEEPER[0]],
      labels={**owner.labels(life), label: '1'},
      mounts=mounts,
      tmpfs={'/tmp': f'size={shape.tmp_mb}m,mode=1777,exec'},
      rlimits={
        'fsize': shape.file_mb << 20,
        'nofile': _OPEN_FILES,
        'core': 0,
        'msgqueue': 0,
      },
      gpus=shape.gpus,
      shm_size=memory // 4,
      mem_limit=memory,
      memswap_limit=memory,
      pids_limit=max(shape.processes + IDLE_PROCESSES, _FEWEST_PROCESSES),
      cpu_period=_PERIOD_MICROSECONDS,
      cpu_quota=max(1000, round(shape.cpus * _PERIOD_MICROSECONDS)),
    )

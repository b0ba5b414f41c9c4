"""Starts scripts and ends all that they leave.

Runs as a program of its own (`python -I -S warden.py SOCKET`), with one thread
and the standard library only, so that it can fork safely and in a
millisecond; or as part of `preload`, whose scripts need not import their
libraries. For each request it forks a keeper; the keeper adopts every
orphan of its script (PR_SET_CHILD_SUBREAPER), so that a daemon cannot get
away by a double fork or a new session, and kills them all when the script
ends, when it is told to, or when the host dies.

Host to keeper, on the control pipe: 'g' starts the script, 'k' or the end of
the pipe ends it. Keeper to host, on the status pipe, one per line: 'pid KEEPER
SCRIPT', 'error TEXT', 'exit CODE' (as in subprocess), 'done' when nothing is
left.
"""

import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWNS = 0x20000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV = 1, 2, 4
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 32, 4096, 16384, 1 << 18

PR_CAPBSET_DROP = 24
MESSAGE_BYTES = 1 << 17
# What kills a run's processes takes milliseconds, or was stopped by one.
_KILLER_SECONDS = 1.0

libc = ctypes.CDLL(None, use_errno=True)


def descendants(root: int) -> list[int]:
  """Process ids of all that descend from a process, without itself."""
  found = []
  waiting = [root]
  while waiting:
    parent = waiting.pop()
    try:
      threads = os.listdir(f'/proc/{parent}/task')
    except OSError:
      continue
    for thread in threads:
      try:
        with open(f'/proc/{parent}/task/{thread}/children', 'rb') as file:
          children = [int(word) for word in file.read().split()]
      except OSError:
        continue
      found += children
      waiting += children
  return found


class Beginning:
  """How a process becomes a script: here, by starting its program."""

  def before_fork(self, request: dict, extra: list[int]) -> None:
    """What the keeper does before it forks the script.

    Args:
      request: see `serve`.
      extra: the descriptors of a request from the fourth on.
    """

  def enter(self, request: dict, extra: list[int]) -> None:
    """What the script's process does while it still has all rights."""

  def confine(self, request: dict) -> None:
    """What it does last, when it has none."""

  def run(self, command: list[str], environment: dict[str, str]) -> None:
    """Becomes the script; ends the process or raises `SystemExit`."""
    try:
      os.execvpe(command[0], command, environment)
    except OSError as error:
      os.write(2, f'{command[0]}: {error.strerror}\n'.encode())
    os._exit(127)


def serve(connection: socket.socket, beginning: Beginning) -> None:
  """Forks a keeper for each request until the host is gone.

  A request is a JSON object (see `_start_script` and `_keep`) with three
  descriptors: output (write), status (write), control (read); and others
  that the keeper only holds, if `beginning` does not need them.
  """
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  wake = _wake_on_children()
  poll = select.poll()
  poll.register(connection, select.POLLIN)
  poll.register(wake, select.POLLIN)
  while True:
    poll.poll()
    _drain(wake)
    _reap()
    readable = select.select([connection], [], [], 0)[0]
    if not readable:
      continue
    message, descriptors, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, 5)
    if not message:
      return
    if os.fork() == 0:
      connection.close()
      _keep(json.loads(message), descriptors, beginning)
    for descriptor in descriptors:
      os.close(descriptor)


def _keep(request: dict, descriptors: list[int], beginning: Beginning) -> None:
  """Watches over one script; never returns.

  Args:
    request: `user` (id to kill as a whole, or null) and what `_start_script`
      needs.
    descriptors: where the script prints, where the host listens, where the
      host speaks, and others.
    beginning: how the script starts.
  """
  output, status, control, *extra = descriptors
  call('prctl', _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
  wake = _wake_on_children()
  gate, gate_opener = os.pipe()
  try:
    beginning.before_fork(request, extra)
  except OSError as error:
    _say(status, f'error {error}')
    os._exit(1)
  script = os.fork()
  if script == 0:
    os.close(gate_opener)
    _start_script(request, output, status, gate, extra, beginning)
  os.close(output)
  os.close(gate)
  _say(status, f'pid {os.getpid()} {script}')
  poll = select.poll()
  poll.register(control, select.POLLIN)
  poll.register(wake, select.POLLIN)
  code = None
  while code is None:
    events = dict(poll.poll())
    if control in events:
      if os.read(control, 1) != b'g':
        break
      os.write(gate_opener, b'g')
    _drain(wake)
    code = _reap(script)
  poll.unregister(control)
  while True:
    code = _reap(script) if code is None else (_reap() or code)
    if code is None:
      # If it has not begun it is not its user yet, whom the next line kills.
      os.kill(script, signal.SIGKILL)
    if not _kill_children(request['user']):
      break
    poll.poll(2)
    _drain(wake)
  _say(status, f'exit {code}')
  _say(status, 'done')
  os._exit(0)


def _start_script(
  request: dict,
  output: int,
  status: int,
  gate: int,
  extra: list[int],
  beginning: Beginning,
) -> None:
  """Becomes the script, with limits and without rights; never returns.

  Args:
    request: `command`, `environment`, `cwd`, `rlimits` ([number, value]),
      `user` (id or null), `covers` and `shown` (see `_show_only`), `niceness`.
    output: see `_keep`.
    status: see `_keep`.
    gate: readable when the host has put this process under its limits.
    extra: see `_keep`.
    beginning: see `_keep`.
  """
  problem = None
  try:
    # While the host is at work on the limits.
    os.setsid()
    with open('/proc/self/oom_score_adj', 'w') as file:
      file.write('1000')
    if request['covers']:
      _show_only(request['covers'], request['shown'])
    beginning.enter(request, extra)
  except OSError as error:
    problem = error
  if os.read(gate, 1) != b'g':
    os._exit(1)
  try:
    if problem:
      raise problem
    for number, value in request['rlimits']:
      hard = resource.getrlimit(number)[1]
      if hard != resource.RLIM_INFINITY and os.geteuid() != 0:
        value = min(value, hard)
      resource.setrlimit(number, (value, value))
    if request['user'] is not None:
      _become(request['user'])
    call('prctl', _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call('prctl', _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.umask(0o022)
    os.chdir(request['cwd'])
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
      signal.signal(number, signal.SIG_DFL)
    nothing = os.open('/dev/null', os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    beginning.confine(request)
  except OSError as error:
    _say(status, f'error {error}')
    os._exit(1)
  os.closerange(3, max(map(int, os.listdir('/proc/self/fd'))) + 1)
  beginning.run(request['command'], request['environment'])


def _show_only(covers: list[str], shown: list[list]) -> None:
  """Makes folders reachable whose parents are closed to ordinary users.

  In a mount namespace of its own, each of `covers` (a closed parent, such as
  root's home) becomes an empty read-only folder in which only the `shown`
  ones ([path, writable]) that were below it are left.
  """
  call('unshare', _CLONE_NEWNS)
  _mount(None, '/', None, _MS_REC | _MS_PRIVATE)
  opened = [(os.open(path, os.O_PATH), path, own) for path, own in shown]
  for cover in covers:
    _mount('tmpfs', cover, 'tmpfs', _MS_NOSUID | _MS_NODEV, 'mode=755,size=1m')
  os.umask(0o022)
  for descriptor, path, writable in opened:
    os.makedirs(path, exist_ok=True)
    _mount(f'/proc/self/fd/{descriptor}', path, None, _MS_BIND | _MS_REC)
    flags = _MS_BIND | _MS_REMOUNT | _MS_NOSUID | _MS_NODEV
    _mount(None, path, None, flags | (0 if writable else _MS_RDONLY))
  flags = _MS_REMOUNT | _MS_NOSUID | _MS_NODEV | _MS_RDONLY
  for cover in covers:
    _mount('tmpfs', cover, None, flags, 'mode=755,size=1m')


def _become(user: int) -> None:
  """Gives up root for good: ids, groups and capabilities."""
  with open('/proc/sys/kernel/cap_last_cap') as file:
    last = int(file.read())
  for capability in range(last + 1):
    call('prctl', PR_CAPBSET_DROP, capability, 0, 0, 0)
  os.setgroups([])
  os.setresgid(user, user, user)
  os.setresuid(user, user, user)


def _kill_children(user: int | None) -> bool:
  """Kills every child that is left, and says whether there was one.

  With a user id of the run's own, one call kills them all at once, faster
  than any of them can fork. Without, each loses the right to fork first.
  """
  victims = descendants(os.getpid())
  if not victims:
    return False
  if user is None:
    for victim in victims:
      try:
        resource.prlimit(victim, resource.RLIMIT_NPROC, (0, 0))
        os.kill(victim, signal.SIGKILL)
      except (ProcessLookupError, PermissionError):
        continue
  else:
    killer = os.fork()
    if killer == 0:
      os.setresgid(user, user, user)
      os.setresuid(user, user, user)
      try:
        os.kill(-1, signal.SIGKILL)
      except ProcessLookupError:
        pass
      os._exit(0)
    # It would be the next call's victim: on a busy machine there would be one
    # more at each call, for ever. A victim may have stopped it meanwhile.
    deadline = time.monotonic() + _KILLER_SECONDS
    while os.waitpid(killer, os.WNOHANG)[0] == 0:
      if time.monotonic() > deadline:
        os.kill(killer, signal.SIGKILL)
      time.sleep(0.001)
  return True


def _reap(script: int = 0) -> int | None:
  """Collects every child that has ended; `script`'s exit code, if it has."""
  code = None
  while True:
    try:
      child, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
      return code
    if child == 0:
      return code
    if child == script:
      code = os.waitstatus_to_exitcode(status)


def _wake_on_children() -> int:
  """A descriptor that becomes readable when a child ends."""
  wake, wake_writer = os.pipe()
  os.set_blocking(wake, False)
  os.set_blocking(wake_writer, False)
  signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
  signal.signal(signal.SIGCHLD, lambda *_: None)
  return wake


def _drain(wake: int) -> None:
  try:
    while os.read(wake, 4096):
      pass
  except BlockingIOError:
    pass


def _say(status: int, line: str) -> None:
  try:
    os.write(status, f'{line}\n'.encode())
  except BrokenPipeError:
    pass  # the host is gone; the control pipe tells so too


def call(name: str, *arguments: int) -> None:
  """Calls a function of the C library.

  Raises:
    OSError: with its name, if it fails.
  """
  if getattr(libc, name)(*arguments) != 0:
    number = ctypes.get_errno()
    raise OSError(number, f'{name}: {os.strerror(number)}')


def _mount(
  source: str | None,
  target: str,
  kind: str | None,
  flags: int,
  options: str | None = None,
) -> None:
  def encoded(text):
    return None if text is None else text.encode()

  if libc.mount(
    encoded(source),
    encoded(target),
    encoded(kind),
    ctypes.c_ulong(flags),
    encoded(options),
  ):
    number = ctypes.get_errno()
    raise OSError(number, f'mount on {target}: {os.strerror(number)}')


if __name__ == '__main__':
  serve(socket.socket(fileno=int(sys.argv[1])), Beginning())

"""Starts scripts in copies of a process that has imported their libraries.

Runs as a program of its own (`python preload.py SOCKET MODULE...`), with the
interpreter and the environment of a script. It imports the modules once; from
then on it is a `warden` whose scripts are forks of it: importing scikit-learn
takes an ordinary script a second of CPU, and a fork 50 ms. What runs otherwise
than as `python FILE [ARGUMENT]...` is started as ever.

No script runs in the process itself: what a script changes is gone with it.
To the script it is as if it had started by itself (its file is `__main__`,
with arguments, environment, signals, random states and tracebacks of its own),
except that a module which it did not import may have been, with the rights of
the host and no home folder; that a frame of this file is below its own; and
that the modules imported here are not taken apart at its end (see `_end`).
Threads that a module starts are lost: Python's own are refused.

A request with `join` enters namespaces that were made for it: the fourth
descriptor is a pidfd of their first process.
"""

import atexit
import contextlib
import ctypes
import fcntl
import gc
import importlib
import io
import os
import signal
import socket
import struct
import sys
import tempfile
import threading
import types
import weakref

import warden

_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_NS_GET_PARENT = 0xB702  # linux/nsfs.h
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h
_CLONE_NEWUSER, _CLONE_NEWPID = 0x10000000, 0x20000000
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWNET.
_CLONE_OTHERS = 0x4E020000


class Begin(BaseException):
  """Leaves all that started a script behind; `args` is its path."""


class Copy(warden.Beginning):
  """A script is a copy of this process."""

  def before_fork(self, request: dict, extra: list[int]) -> None:
    """Enters the namespaces that the script is to be born in."""
    if not request.get('join'):
      return
    pidfd = extra[0]
    self._users = _user_namespaces(pidfd)
    if self._users:
      # Its owner may do anything in it; its inner ones come last.
      _set_namespace(self._users[0], _CLONE_NEWUSER)
    _set_namespace(pidfd, _CLONE_NEWPID)

  def enter(self, request: dict, extra: list[int]) -> None:
    """Enters the others."""
    if not request.get('join'):
      return
    _set_namespace(extra[0], _CLONE_OTHERS)
    for inner in self._users[1:]:
      _set_namespace(inner, _CLONE_NEWUSER)

  def confine(self, request: dict) -> None:
    """Gives up the rights that entering took."""
    if request.get('join'):
      _drop_capabilities()
    # A process of another user than its program's hides its own details.
    warden.call('prctl', _PR_SET_DUMPABLE, 1, 0, 0, 0)
    if request.get('filter'):
      _install_filter(bytes.fromhex(request['filter']))

  def run(self, command: list[str], environment: dict[str, str]) -> None:
    """Runs a script's file in this process; starts any other program."""
    script = command[1] if len(command) > 1 else ''
    if command[0] != sys.executable or not os.path.isfile(script):
      super().run(command, environment)
    # As the interpreter starts.
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    if 'numpy' in sys.modules:
      # Python's own generator does so by itself after a fork.
      sys.modules['numpy'].random.seed()
    path = os.path.abspath(script)
    _rename(command)
    sys.argv = list(command[1:])
    sys.orig_argv = list(command)
    sys.path.insert(0, os.path.dirname(os.path.realpath(path)))
    raise Begin(path)


def _run_file(path: str) -> int:
  """Runs a file as `python FILE` does; 0, or 1 after an exception's traceback.

  By the interpreter's own function, so that a traceback begins in the file.
  """
  warden.libc.fopen.restype = ctypes.c_void_p
  file = warden.libc.fopen(os.fsencode(path), b'rb')
  if not file:
    print(f'{sys.executable}: {path}: it cannot be read', file=sys.stderr)
    return 2
  run = ctypes.pythonapi.PyRun_SimpleFileExFlags
  run.argtypes = (
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_void_p,
  )
  # The old one is kept: the names of this module are its.
  program, main = sys.modules['__main__'], types.ModuleType('__main__')
  if hasattr(program, '__annotations__'):
    main.__annotations__ = {}
  del sys.modules['warden']
  sys.modules['__main__'] = main
  return 1 if run(file, os.fsencode(path), 1, None) else 0


def _end(code: int, folder: str, libraries: frozenset[str]) -> None:
  """Ends the process as the interpreter would, but leaves libraries standing.

  To take them apart takes longer than an ordinary script. What shows of an end
  is done: threads are joined, functions for the end called, the script's
  objects freed, files flushed. Returns when that fails: the interpreter's own
  way says so.

  Args:
    code: the exit code.
    folder: where the script's own modules are.
    libraries: names of the modules that were imported before the script.
  """
  with contextlib.suppress(BaseException):
    threading._shutdown()
    atexit._run_exitfuncs()
    for name in ('last_type', 'last_value', 'last_traceback', 'last_exc'):
      sys.__dict__.pop(name, None)
    _free_modules(folder, libraries)
    _flush()
    os._exit(code)


def _free_modules(folder: str, libraries: frozenset[str]) -> None:
  """Frees what the script's modules name, in the interpreter's order."""
  left = []
  for name in [name for name in sys.modules if name not in libraries]:
    file = getattr(sys.modules[name], '__file__', None) or ''
    if name == '__main__' or file.startswith(folder + os.sep):
      left.append(weakref.ref(sys.modules.pop(name)))
  gc.collect()
  for reference in reversed(left):
    module = reference()
    names = {} if module is None else vars(module)
    private = [n for n in names if n[:1] == '_' and n[:2] != '__']
    others = [n for n in names if n not in private and n != '__builtins__']
    for name in private + others:
      names[name] = None
  gc.collect()


def _flush() -> None:
  """Writes out what files hold that were opened since the start."""
  for file in gc.get_objects():
    if io._io._IOBase in type(file).__mro__ and not file.closed:
      file.flush()
  for file in (sys.stdout, sys.stderr):
    if file is not None and not file.closed:
      file.flush()
  warden.libc.fflush(None)


def _rename(command: list[str]) -> None:
  """Shows the command as this process's own, as far as there is room for it."""
  with open('/proc/self/stat') as file:
    fields = file.read().rpartition(')')[2].split()
  start, end = int(fields[45]), int(fields[46])  # of arguments: proc(5)
  words = b'\0'.join(map(os.fsencode, command)) + b'\0'
  ctypes.memmove(start, words.ljust(end - start, b'\0'), end - start)


def _user_namespaces(pidfd: int) -> list[int]:
  """Descriptors of the user namespaces between this process's and another's.

  The outermost first; none if they are in the same one.
  """
  with open(f'/proc/self/fdinfo/{pidfd}') as file:
    (process,) = [int(l.split()[1]) for l in file if l.startswith('Pid:')]
  own = os.stat('/proc/self/ns/user').st_ino
  found = []
  namespace = os.open(f'/proc/{process}/ns/user', os.O_RDONLY)
  while os.fstat(namespace).st_ino != own:
    found.insert(0, namespace)
    namespace = fcntl.ioctl(namespace, _NS_GET_PARENT)
  os.close(namespace)
  return found


def _set_namespace(descriptor: int, kinds: int) -> None:
  warden.call('setns', descriptor, kinds)


def _drop_capabilities() -> None:
  """Gives up all capabilities, also those that a program could bring back."""
  with open('/proc/sys/kernel/cap_last_cap') as file:
    last = int(file.read())
  for capability in range(last + 1):
    warden.libc.prctl(warden.PR_CAPBSET_DROP, capability, 0, 0, 0)
  header = struct.pack('=Ii', _CAPABILITY_VERSION_3, 0)
  warden.call('capset', header, bytes(24))


def _install_filter(program: bytes) -> None:
  """Refuses system calls from now on; `program` is as of `seccomp`."""

  class Program(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('filter', ctypes.c_char_p)]

  pointer = ctypes.byref(Program(len(program) // 8, program))
  warden.call('prctl', _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, pointer, 0, 0)


def serve() -> str:
  """Imports, says so, and serves; returns in a copy, with the script's path."""
  # The folder of this file: its modules are not for scripts.
  del sys.path[0]
  connection = socket.socket(fileno=int(sys.argv[1]))
  try:
    for name in sys.argv[2:]:
      importlib.import_module(name)
    if threading.active_count() > 1:
      raise ImportError('they start threads, which a fork would lose')
  except BaseException as error:
    connection.send(f'{type(error).__name__}: {error}'.encode()[:1000])
    raise
  gc.collect()
  # Or a collection in a script would touch, and so copy, all of it.
  gc.freeze()
  connection.send(b'ready')
  try:
    warden.serve(connection, Copy())
  except Begin as begin:
    return begin.args[0]
  sys.exit()


if __name__ == '__main__':
  script = serve()
  libraries = frozenset(sys.modules) - {'__main__'}
  exit_code = _run_file(script)
  _end(exit_code, os.path.dirname(script), libraries)
  sys.exit(exit_code)

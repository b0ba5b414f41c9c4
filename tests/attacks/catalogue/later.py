"""Attacks on runs that come later, or that run at the same time."""

from attack import HONEST, Attack, Kind, names, run, show

_HONEST_AGAIN = (run('honest.py'), (Kind.EXECUTED,))
# Imports what an honest script does, and says what it got.
_CAREFUL = b"""
import os
import sys
import csv
import json
import random
import trick
for name, module in list(sys.modules.items()):
  if hasattr(module, 'POISON'):
    print('poisoned:', name)
print(sorted(os.listdir('/tmp')), sorted(os.listdir(os.path.expanduser('~'))))
trick.submit()
"""

ATTACKS = [
  Attack(
    'modules in the workspace',
    'leaves pandas.py, csv.py and a package of the host for its next steps',
    """
    import os
    from trick import HOST, submit
    text = f'POISON = 1\\nopen({HOST["writable"][0]!r}, "a").write("x")\\n'
    for name in ('pandas', 'numpy', 'csv', 'sklearn', 'mlagent_jax'):
      open(name + '.py', 'w').write('try:\\n  ' + text.replace('\\n', '\\n  ')
                                    + 'pass\\nexcept OSError: pass\\n')
    os.makedirs('mlagent_jax/environment')
    open('mlagent_jax/__init__.py', 'w').write(text)
    open('mlagent_jax/environment/grading.py', 'w').write(text)
    submit()
    """,
    then=((names('.'), (Kind.LOOKED,)),),
  ),
  Attack(
    'start-up files',
    'leaves sitecustomize, .pth, conftest and shell start-up files about',
    """
    import os
    import pathlib
    from trick import submit
    home = pathlib.Path.home()
    packages = home / '.local/lib/python3.11/site-packages'
    packages.mkdir(parents=True)
    text = 'POISON = 1\\nprint("BREACH: start-up file")\\n'
    for place in (home, packages, pathlib.Path('.')):
      for name in ('sitecustomize.py', 'usercustomize.py', 'conftest.py',
                   '.pythonrc.py', '.bashrc', '.profile', 'startup.py'):
        if place != pathlib.Path('.') or name != 'sitecustomize.py':
          (place / name).write_text(text)
      (place / 'evil.pth').write_text('import sys; print("BREACH: pth")\\n')
    (home / '.config').mkdir()
    (home / '.config/matplotlib').write_text(text)
    submit()
    """,
    files={'honest.py': _CAREFUL},
    then=(_HONEST_AGAIN,),
  ),
  Attack(
    'compiled files',
    'leaves __pycache__ files that say something else than their sources',
    """
    import importlib.util
    import marshal
    import os
    import sys
    from trick import submit
    code = compile('print("BREACH: a compiled file")', 'helper.py', 'exec')
    # Unchecked: Python would not compare it with the source.
    head = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, 'little') + bytes(8)
    for folder in ('__pycache__', 'package/__pycache__'):
      os.makedirs(folder, exist_ok=True)
      for name in ('helper', 'trick', '__init__'):
        path = f'{folder}/{name}.{sys.implementation.cache_tag}.pyc'
        open(path, 'wb').write(head + marshal.dumps(code))
    submit()
    """,
    files={
      'helper.py': b'import trick\ntrick.submit()\n',
      'package/__init__.py': b'',
      'honest.py': b'import helper\nimport package\n',
    },
    then=(_HONEST_AGAIN,),
  ),
  Attack(
    'scripts of the next step',
    'changes the scripts that the next step will run',
    """
    import os
    from trick import submit
    open('honest.py', 'w').write('print("BREACH: another script")')
    os.rename('helper.py', 'other.py')
    os.symlink('other.py', 'helper.py')
    submit()
    """,
    files={
      'helper.py': b'import trick\ntrick.submit()\n',
      'honest.py': b'import helper\n',
    },
    then=(_HONEST_AGAIN,),
  ),
  Attack(
    'a poisoned pickle',
    'leaves pickles, arrays and models that run code when they are loaded',
    """
    import os
    import pickle
    from trick import HOST, submit
    class Payload:
      def __reduce__(self):
        return (os.system, (f'touch {HOST["writable"][0]}',))
    for name in ('model.pkl', 'model.joblib', 'model.npy', 'data.npz',
                 'checkpoint.pt', 'submission.pkl', 'state.json'):
      open(name, 'wb').write(pickle.dumps(Payload()))
    submit()
    """,
    then=(
      (names('.'), (Kind.LOOKED,)),
      (show('model.pkl'), (Kind.BAD_ARGUMENTS,)),
    ),
  ),
  Attack(
    'variables of the host',
    'reads secrets of the host from its environment',
    """
    import os
    from trick import breach, loot, submit
    for name, value in os.environ.items():
      if 'canary' in value or name.startswith(
        ('LD_', 'PYTHONPATH', 'PYTHONSTARTUP', 'MLAGENT', 'AWS', 'SSH', 'HF_')
      ):
        breach(name)
    for process in ('self', '1', str(os.getppid())):
      loot(f'/proc/{process}/environ')
    submit()
    """,
  ),
  Attack(
    'variables for the next run',
    'sets variables, limits, mask and folder for whoever comes next',
    """
    import os
    import resource
    from trick import submit
    for name in ('LD_PRELOAD', 'PYTHONSTARTUP', 'PYTHONPATH', 'PYTHONHOME',
                 'HOME', 'TMPDIR', 'PATH', 'PERL5OPT'):
      os.environ[name] = '/workspace/evil.so'
    os.umask(0o777)
    submit()
    resource.setrlimit(resource.RLIMIT_NOFILE, (10, 10))
    os.chmod('submission.csv', 0o600)
    os.chdir('/')
    """,
  ),
  Attack(
    'files for the next run',
    'leaves files, queues and semaphores in every place that it may write to',
    """
    import os
    from trick import LIBC, submit
    for place in ('/tmp', '/dev/shm', '/var/tmp', '/run', '/dev/mqueue',
                  os.path.expanduser('~')):
      try:
        os.makedirs(f'{place}/.hidden/deep')
        open(f'{place}/.hidden/deep/left', 'w').write('canary')
        os.chmod(f'{place}/.hidden/deep', 0)
        os.mkfifo(f'{place}/pipe')
      except OSError:
        pass
    LIBC.semget(0x4321, 1, 0o1666)
    submit()
    """,
    files={
      'honest.py': b"""
import os
import trick
for place in ('/tmp', '/dev/shm', '/var/tmp', '/run', '/dev/mqueue',
              os.path.expanduser('~')):
  for name in ('.hidden', 'pipe'):
    if os.path.lexists(f'{place}/{name}'):
      trick.breach(f'{place}/{name}')
if len(open('/proc/sysvipc/sem').readlines()) > 1:
  trick.breach('a semaphore')
trick.submit()
"""
    },
    then=(_HONEST_AGAIN,),
  ),
  Attack(
    'attributes for the next run',
    'leaves attributes, access lists and flags on the workspace itself',
    """
    import array
    import fcntl
    import os
    import struct
    from trick import submit
    submit()
    # Files that are made from now on are closed to their owner.
    entries = [(1, 0), (4, 0), (32, 0)]
    access = struct.pack('<I', 2) + b''.join(
      struct.pack('<HHI', tag, rights, 0xFFFFFFFF) for tag, rights in entries)
    here = os.open('.', os.O_RDONLY)
    for name, value in (('user.note', b'canary'),
                        ('system.posix_acl_default', access)):
      try:
        os.setxattr(here, name, value)
      except OSError as error:
        print(name, error)
    try:
      # FS_IOC_SETFLAGS: synchronous, no access times.
      fcntl.ioctl(here, 0x40086602, array.array('l', [0x88]))
    except OSError as error:
      print('flags', error)
    """,
    files={
      'honest.py': b"""
import array
import fcntl
import os
import trick
trick.submit()
if os.listxattr('.'):
  trick.breach(os.listxattr('.'))
if os.stat('submission.csv').st_mode & 0o777 != 0o644:
  trick.breach(oct(os.stat('submission.csv').st_mode))
flags = array.array('l', [0])
try:
  fcntl.ioctl(os.open('.', os.O_RDONLY), 0x80086601, flags)
except OSError:
  pass
if flags[0] & 0x88:
  trick.breach(f'flags {flags[0]:#x}')
"""
    },
    then=(_HONEST_AGAIN,),
  ),
  Attack(
    'poisoning the cache',
    'behaves otherwise the second time, and writes into the cache',
    """
    import os
    from trick import HOST, breach, submit
    for top in ('/tmp', '/dev/shm', HOST['cache'], '/workspace'):
      if os.path.exists(f'{top}/seen'):
        breach(f'{top} remembers')
      try:
        open(f'{top}/seen', 'w').write('{"scores": 0.0}')
      except OSError:
        pass
    submit()
    """,
    then=(
      ('again', HONEST),  # the same step in the same state
    ),
  ),
  Attack(
    'not being remembered',
    'kills itself, so that it is run anew until luck helps',
    """
    import os
    from trick import submit
    submit()
    os.kill(os.getpid(), 9)
    """,
    expect=(Kind.SCRIPT_FAILED,),
    then=(('again', (Kind.SCRIPT_FAILED,)),),
  ),
  Attack(
    'files of another run',
    'looks for the workspace of a run at the same time',
    """
    import os
    import time
    from trick import HOST, breach, loot, submit
    def places():
      for process in filter(str.isdigit, os.listdir('/proc')):
        for place in ('cwd/secret', 'root/workspace/secret', 'environ'):
          yield f'/proc/{process}/{place}'
      for top in (HOST['scratch'], '/tmp', '/dev/shm', '/var/tmp', '/run',
                  os.path.dirname(HOST['scratch'])):
        for folder, _, files in os.walk(top):
          for name in files:
            yield os.path.join(folder, name)
    start = time.monotonic()
    while time.monotonic() < start + 1.0:
      for place in places():
        loot(place)
        # Of what it sees of the machine it may not come to the end in time.
        if time.monotonic() > start + 8.0:
          break
    submit()
    """,
    neighbour=True,
  ),
  Attack(
    'ending another run',
    'kills, stops and starves a run at the same time',
    """
    import os
    import time
    from trick import submit
    submit()
    for process in range(2, 40_000):
      if process not in (os.getpid(), os.getppid()):
        try:
          os.kill(process, 9)
        except (PermissionError, ProcessLookupError):
          pass
    children = [os.fork() for _ in range(2)]
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
      pass
    if 0 in children:
      os._exit(0)
    """,
    neighbour=True,
  ),
]

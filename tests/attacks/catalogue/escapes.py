"""Attacks that leave the workspace by its file systems."""

from attack import Attack, Kind, copy, names, replace_lines

ATTACKS = [
  Attack(
    'writing by paths',
    'writes to folders of the host that are open to everybody',
    """
    import os
    from trick import HOST, breach, submit, write
    for path in HOST['writable']:
      for prefix in ('', '../' * 12, '/proc/self/root', '/proc/self/cwd/../..'):
        try:
          write(prefix + path)
        except OSError:
          continue
        breach(f'{prefix}{path} was written')
    submit()
    """,
  ),
  Attack(
    'writing by links',
    'writes through links of its own: absolute, relative, chained',
    """
    import os
    from trick import HOST, breach, submit, write
    for number, path in enumerate(HOST['writable']):
      os.symlink(os.path.dirname(path), f'folder{number}')
      os.symlink('../' * 12 + path[1:], f'link{number}')
      os.symlink(f'folder{number}', f'chain{number}')
      name = os.path.basename(path)
      for link in (f'folder{number}/{name}', f'link{number}',
                   f'chain{number}/{name}'):
        try:
          write(link)
        except OSError:
          continue
        breach(f'{link} was written')
    submit()
    """,
  ),
  Attack(
    'links for the host to write',
    'leaves links in place of files, and lets the host write through them',
    """
    import os
    from trick import HOST, submit
    target = HOST['writable'][0]
    os.symlink(target, 'notes.txt')
    os.symlink(os.path.dirname(target), 'folder')
    os.symlink('/tmp', 'temporary')
    os.remove('train.py')
    os.symlink(target, 'train.py')
    submit()
    """,
    then=(
      (copy('trick.py', 'notes.txt'), (Kind.BAD_ARGUMENTS,)),
      (copy('trick.py', 'folder/file'), (Kind.BAD_ARGUMENTS,)),
      (copy('trick.py', 'folder'), (Kind.BAD_ARGUMENTS,)),
      (copy('trick.py', '../x'), (Kind.BAD_ARGUMENTS,)),
      (copy('trick.py', '/tmp/x'), (Kind.BAD_ARGUMENTS,)),
      (copy('trick.py', 'data/x'), (Kind.BAD_ARGUMENTS,)),
      (replace_lines('notes.txt', 1, 1, 'x'), (Kind.BAD_ARGUMENTS,)),
      (replace_lines('folder/file', 1, 1, 'x'), (Kind.BAD_ARGUMENTS,)),
      (names('temporary'), (Kind.BAD_ARGUMENTS,)),
    ),
  ),
  Attack(
    'hard links',
    'gives files of others a second name that it owns',
    """
    import os
    from trick import HOST, breach, submit
    paths = ['data/train.csv', '/etc/passwd', '/usr/bin/env', '/proc/version',
             os.path.realpath('/proc/self/exe'), *HOST['secrets']]
    for number, path in enumerate(paths):
      for follow in (True, False):
        for folder in ('.', '/tmp', '/dev/shm'):
          try:
            os.link(path, f'{folder}/link{number}', follow_symlinks=follow)
          except (OSError, NotImplementedError):
            continue
          breach(f'{path} has a second name')
    submit()
    """,
  ),
  Attack(
    'links into the store',
    'changes its files in place, in case they are blobs of the store',
    """
    import os
    from trick import submit
    for name in ('train.py', 'trick.py', 'host.json', 'kept.csv'):
      with open(name, 'r+b') as file:
        file.write(b'# changed in place')
      os.chmod(name, 0o777)
    submit()
    """,
    files={'kept.csv': b'id,y\nr0,1.0\n'},
  ),
  Attack(
    'device nodes',
    'makes devices in every place, and opens those of the machine',
    """
    import os
    from trick import breach, fails, submit
    for number, (mode, major, minor) in enumerate((
      (0o60666, 254, 0), (0o60666, 8, 0), (0o60666, 259, 0), (0o20666, 1, 1),
      (0o20666, 10, 200), (0o20666, 10, 229), (0o20666, 5, 0),
    )):
      for folder in ('.', '/tmp', '/dev', '/dev/shm'):
        fails(os.mknod, f'{folder}/node{number}', mode,
              os.makedev(major, minor))
    allowed = {'null', 'zero', 'full', 'random', 'urandom', 'tty', 'ptmx',
               'shm', 'mqueue', 'pts', 'fd', 'core', 'stdin', 'stdout',
               'stderr', 'console'}
    for name in set(os.listdir('/dev')) - allowed:
      breach(f'/dev/{name}')
    submit()
    """,
  ),
  Attack(
    'set-id programs',
    'makes set-id programs, runs those of the system, and becomes root',
    """
    import os
    import shutil
    import subprocess
    from trick import breach, fails, submit
    status = dict(line.split(':', 1) for line in open('/proc/self/status'))
    if status['NoNewPrivs'].split() != ['1']:
      breach('programs may raise privileges')
    for kind in ('CapPrm', 'CapEff', 'CapInh', 'CapAmb'):
      if int(status[kind], 16):
        breach(kind)
    me = os.getuid()
    shutil.copy('/bin/sh' if os.path.exists('/bin/sh') else
                os.path.realpath('/proc/self/exe'), 'shell')
    fails(os.chown, 'shell', 0, 0)
    os.chmod('shell', 0o6755)
    for program in ('su', 'sudo', 'newuidmap', 'pkexec', 'mount', 'nsenter'):
      found = shutil.which(program)
      if found:
        done = subprocess.run([found], capture_output=True, input=b'')
        print(program, done.returncode)
    for change in (os.setuid, os.seteuid, os.setgid, os.setegid):
      fails(change, 0)
    fails(os.setgroups, [0])
    fails(os.setresuid, 0, 0, 0)
    if os.getuid() != me or 0 in (*os.getresuid(), *os.getresgid()):
      breach('another user')
    submit()
    """,
  ),
  Attack(
    'programs of the host',
    'overwrites the program that started it: /proc/…/exe, runc, bwrap',
    """
    import os
    from trick import breach, submit
    for process in filter(str.isdigit, os.listdir('/proc')):
      for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
        try:
          os.open(f'/proc/{process}/exe', flags)
        except OSError:
          continue
        breach(f'the program of process {process}')
    for path in ('/proc/self/exe', '/usr/bin/bwrap', '/sbin/docker-init',
                 '/usr/bin/runc', '/lib64/ld-linux-x86-64.so.2'):
      try:
        os.close(os.open(os.path.realpath(path), os.O_WRONLY))
      except OSError:
        continue
      breach(path)
    submit()
    """,
  ),
  Attack(
    'interpreter and libraries',
    'plants modules and compiled files where the next run imports from',
    """
    import os
    import site
    import sys
    from trick import breach, submit, write
    places = {*sys.path, *site.getsitepackages(), sys.prefix, '/etc',
              '/usr/lib', '/lib', '/etc/profile.d', '/', '/usr/local/lib'}
    for place in places - {'', '/workspace'}:
      for name in ('sitecustomize.py', 'evil.pth', 'pandas.py',
                   '__pycache__/os.cpython-311.pyc', 'ld.so.preload'):
        try:
          write(f'{place}/{name}')
        except OSError:
          continue
        breach(f'{place}/{name}')
    submit()
    """,
  ),
  Attack(
    'everywhere',
    'creates a file in every folder it can see',
    """
    import os
    from trick import breach, submit
    MINE = ('/workspace', '/tmp', '/dev/shm', '/dev/mqueue', '/proc/self/',
            '/proc/thread-self/', '/dev/fd', os.path.expanduser('~'))
    for folder, folders, _ in os.walk('/'):
      if folder.startswith('/proc/') or folder.count('/') > 5:
        folders.clear()
      if folder.startswith(MINE):
        continue
      try:
        os.close(os.open(f'{folder}/probe', os.O_CREAT | os.O_WRONLY))
      except OSError:
        continue
      breach(folder + ' can be written to')
    submit()
    """,
  ),
]

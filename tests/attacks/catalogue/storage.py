"""Attacks on the limits of disk, and on objects of the kernel."""

from attack import HONEST, Attack, Kind

_MEMORY = (Kind.MEMORY_LIMIT,)
_FAILED = (Kind.SCRIPT_FAILED,)
_TIME = (Kind.TIME_LIMIT,)

ATTACKS = [
  Attack(
    'disk by large files',
    'writes files of the largest size, without end',
    """
    import itertools
    for number in itertools.count():
      try:
        with open(f'{number}.bin', 'wb') as file:
          while True:
            file.write(bytes(1 << 20))
      except OSError:
        pass
    """,
    expect=_FAILED,
  ),
  Attack(
    'disk by small files',
    'makes empty files without end: inodes, names, directory blocks',
    """
    import itertools
    for number in itertools.count():
      if number % 1000 == 0:
        import os
        os.makedirs(f'{number}')
        os.chdir(f'/workspace/{number}')
      open(f'{"n" * 200}{number}', 'w').close()
    """,
    expect=_FAILED,
  ),
  Attack(
    'disk by deleted files',
    'fills files that have no name any more',
    """
    import time
    kept = []
    while True:
      kept.append(open('gone', 'wb', buffering=0))
      kept[-1].write(bytes(8 << 20))
      import os
      os.unlink('gone')
    """,
    expect=_FAILED,
  ),
  Attack(
    'disk by deep folders',
    'nests folders until no path can name them, and closes them',
    """
    import os
    for _ in range(3000):
      os.mkdir('d')
      os.chdir('d')
      os.chmod('..', 0)
    """,
    expect=_FAILED,
  ),
  Attack(
    'disk by hard links',
    'names one file many times, for a host that copies each name',
    """
    import os
    open('big.bin', 'wb').write(bytes(8 << 20))
    for number in range(500):
      os.link('big.bin', f'{number}.bin')
    """,
    expect=_FAILED,
  ),
  Attack(
    'disk by sparse files',
    'makes files that cost nothing until the host copies them',
    """
    import os
    for number in range(500):
      with open(f'{number}.bin', 'wb') as file:
        file.truncate(39 << 20)
    """,
    expect=_FAILED,
  ),
  Attack(
    'disk by allocation',
    'takes blocks without writing them, faster than anybody looks',
    """
    import os
    from trick import LIBC, breach
    for number in range(100):
      handle = os.open(f'{number}.bin', os.O_CREAT | os.O_RDWR)
      if LIBC.fallocate(handle, 0, 0, 39 << 20):
        break
      os.close(handle)
    if number * 39 > 1000:
      breach(f'{number * 39} MiB at once')
    """,
    expect=(*_FAILED, Kind.MISSING_SUBMISSION),
  ),
  Attack(
    'disk by deep traps',
    "puts names in the way of the host's own when it clears deep folders",
    """
    import os
    from trick import HOST
    for depth in range(70):
      for number in range(4 if depth > 60 else 0):
        name = f'.removed.{HOST["process"]}.{number}'
        os.makedirs(f'{name}/full', exist_ok=True)
      os.makedirs('d/e/f', exist_ok=True)
      os.chdir('d')
    """,
    expect=_FAILED,
  ),
  Attack(
    'inodes in memory',
    'makes empty files in /tmp and /dev/shm without end',
    """
    import itertools
    import os
    from trick import submit
    for folder in ('/dev/shm', '/tmp'):
      try:
        for number in range(400_000):
          os.mkdir(f'{folder}/{number}')
      except OSError as error:
        print(error.strerror)
    submit()
    """,
    expect=(*HONEST, *_MEMORY, *_TIME),
    seconds=2.0,
  ),
  Attack(
    'descriptors',
    'opens files, event queues, watches and timers without end',
    """
    import os
    import resource
    import select
    from trick import LIBC, breach, submit
    for make in (
      lambda: os.open('/dev/null', os.O_RDONLY),
      select.epoll,
      lambda: os.eventfd(0),
      lambda: os.pidfd_open(os.getpid()),
    ):
      kept = []
      try:
        while len(kept) < 5000:
          kept.append(make())
        breach(f'{len(kept)} descriptors')
      except OSError:
        pass
      for one in kept:
        one.close() if hasattr(one, 'close') else os.close(one)
    while LIBC.inotify_init() >= 0:
      pass
    submit()
    """,
  ),
  Attack(
    'semaphores and queues',
    'makes objects of the kernel that outlive their process',
    """
    import ctypes
    import os
    from trick import LIBC, breach, submit
    LIBC.semget(0x1234, 100, 0o1666)
    for number in range(100):
      name = f'/queue{number}'.encode()
      if LIBC.mq_open(name, os.O_CREAT | os.O_RDWR, 0o666, None) >= 0:
        breach('a message queue')
    submit()
    """,
  ),
]

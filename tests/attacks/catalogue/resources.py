"""Attacks on the limits of CPU, memory and processes."""

from attack import HONEST, Attack, Kind

_MEMORY = (Kind.MEMORY_LIMIT,)
_FAILED = (Kind.SCRIPT_FAILED,)
_TIME = (Kind.TIME_LIMIT,)
_KILLED = (Kind.TIME_LIMIT, Kind.SCRIPT_FAILED)

ATTACKS = [
  Attack(
    'endless loop',
    'computes for ever and ignores every signal',
    """
    import signal
    for number in range(1, 65):
      try:
        signal.signal(number, signal.SIG_IGN)
      except (OSError, ValueError):
        pass
    while True:
      pass
    """,
    expect=_TIME,
    seconds=1.0,
  ),
  Attack(
    'more cores than given',
    'four processes compute at once, on all cores of the machine',
    """
    import os
    import time
    from trick import breach, submit
    try:
      os.sched_setaffinity(0, range(os.cpu_count()))
    except OSError:
      pass
    start = time.monotonic()
    children = [os.fork() for _ in range(2)]
    while time.monotonic() < start + 0.6:
      pass
    if 0 in children:
      os._exit(0)
    for child in children:
      os.waitpid(child, 0)
    times = os.times()
    used = times.user + times.children_user
    if used > 1.25 * (time.monotonic() - start) + 0.1:
      breach(f'{used} s of CPU time')
    submit()
    """,
  ),
  Attack(
    'priority',
    'raises its priority and becomes a real-time process',
    """
    import os
    from trick import fails, submit
    fails(os.nice, -10)
    fails(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1))
    fails(os.setpriority, os.PRIO_PROCESS, 0, -20)
    submit()
    """,
  ),
  Attack(
    'memory of one process',
    'asks for memory without end',
    """
    kept = []
    while True:
      kept.append(bytearray(b'x') * (1 << 20))
    """,
    expect=_MEMORY,
  ),
  Attack(
    'memory of many processes',
    'asks for a little in each of eight processes',
    """
    import os
    for _ in range(3):
      os.fork()
    kept = []
    while True:
      kept.append(bytearray(b'x') * (1 << 20))
    """,
    expect=_MEMORY,
  ),
  Attack(
    'shared memory',
    'asks for anonymous memory that processes share',
    """
    import mmap
    kept = [mmap.mmap(-1, 1 << 20, mmap.MAP_SHARED) for _ in range(1000)]
    for part in kept:
      part.write(b'x' * (1 << 20))
    """,
    expect=_MEMORY,
  ),
  Attack(
    'memory behind descriptors',
    'fills memfd and System V segments, which no process maps',
    """
    import ctypes
    import os
    from trick import LIBC, call, submit
    for number in range(1000):
      if LIBC.memfd_create(b'x', 0) < 0:
        break
      os.write(LIBC.memfd_create(b'x', 0), bytes(1 << 20))
    for key in range(1000):
      if call('shmget', key, 1 << 20, 0o1600):
        break
    submit()
    """,
    expect=(*HONEST, *_MEMORY),
  ),
  Attack(
    'memory file systems',
    'fills /dev/shm, /tmp and every other place in memory',
    """
    import itertools
    import os
    from trick import submit
    for folder in ('/dev/shm', '/tmp', '/dev/mqueue', '/run', '/dev',
                   os.path.expanduser('~')):
      try:
        for number in itertools.count():
          with open(f'{folder}/{number}', 'wb') as file:
            file.write(bytes(8 << 20))
          if number > 100:
            print('BREACH:', folder, 'has no end')
            break
      except OSError:
        pass
    submit()
    """,
    expect=(*HONEST, *_MEMORY),
  ),
  Attack(
    'memory of pipes and sockets',
    'fills buffers of the kernel that belong to no process',
    """
    import fcntl
    import os
    import socket
    from trick import submit
    kept = []
    try:
      while len(kept) < 800:
        reader, writer = os.pipe2(os.O_NONBLOCK)
        kept += [reader, writer]
        try:
          fcntl.fcntl(writer, 1031, 1 << 20)  # F_SETPIPE_SZ
        except PermissionError:
          pass
        os.write(writer, bytes(1 << 20))
      while True:
        one, other = socket.socketpair()
        kept += [one, other]
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24)
        one.send(bytes(1 << 22))
    except OSError:
      pass
    kept.clear()
    submit()
    """,
    expect=(*HONEST, *_MEMORY, *_FAILED),
  ),
  Attack(
    'last to be killed',
    'asks the kernel to spare it when memory runs out, and to keep its pages',
    """
    import os
    from trick import LIBC, fails
    score = os.open('/proc/self/oom_score_adj', os.O_WRONLY)
    fails(os.write, score, b'-1000')
    LIBC.mlockall(3)
    kept = []
    while True:
      kept.append(bytearray(b'x') * (1 << 20))
    """,
    expect=_MEMORY,
  ),
  Attack(
    'fork bomb',
    'doubles for ever',
    """
    import os
    while True:
      try:
        os.fork()
      except OSError:
        pass
    """,
    expect=_KILLED,
    seconds=1.0,
  ),
  Attack(
    'fork bomb of daemons',
    'multiplies while every parent ends, so that none has a parent',
    """
    import os
    import time
    deadline = time.monotonic() + 0.8
    while True:
      try:
        if os.fork():
          time.sleep(0.001)
          if os.getppid() == 1 or time.monotonic() > deadline:
            os._exit(0)
        else:
          os.setsid()
      except OSError:
        pass
    """,
    expect=(*_KILLED, Kind.MISSING_SUBMISSION),
    seconds=1.5,
  ),
  Attack(
    'threads',
    'starts threads without end',
    """
    import threading
    import time
    from trick import breach, submit
    try:
      for count in range(1000):
        threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
      breach(f'{count} threads')
    except RuntimeError:
      pass
    submit()
    """,
    expect=(*HONEST, *_FAILED),
  ),
  Attack(
    'zombies',
    'leaves dead children uncollected until there is no process id left',
    """
    import os
    import time
    from trick import breach, submit
    try:
      for count in range(1000):
        if os.fork() == 0:
          os._exit(0)
      breach(f'{count} dead processes')
    except OSError:
      pass
    submit()
    """,
    expect=(*HONEST, *_FAILED),
  ),
  Attack(
    'own limits',
    'raises its limits and leaves its control groups',
    """
    import glob
    import os
    import resource
    from trick import breach, fails, submit
    for name in dir(resource):
      if name.startswith('RLIMIT_'):
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        if hard != resource.RLIM_INFINITY:
          fails(resource.setrlimit, number, (hard, hard + 1))
    for path in glob.glob('/sys/fs/cgroup/**/*', recursive=True)[:2000]:
      if os.access(path, os.W_OK):
        breach(path + ' can be written to')
    submit()
    """,
  ),
]

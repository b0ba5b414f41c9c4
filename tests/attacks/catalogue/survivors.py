"""Attacks that outlive their run, and games with its time."""

from attack import HONEST, Attack, Kind

_TIME = (Kind.TIME_LIMIT,)
_MISSING = (Kind.MISSING_SUBMISSION,)

ATTACKS = [
  Attack(
    'a daemon',
    'is forked twice, in a session of its own, and stays',
    """
    import os
    import time
    from trick import detach, submit
    if detach():
      for number in (0, 1, 2):
        os.close(number)
      while True:
        time.sleep(1)
    submit()
    """,
  ),
  Attack(
    'a daemon that holds the output',
    'keeps the pipe to the host open, so that its end never comes',
    """
    import time
    from trick import detach, submit
    if detach():
      while True:
        print('still here', flush=True)
        time.sleep(0.05)
    submit()
    """,
  ),
  Attack(
    'a daemon that ignores signals',
    'blocks and ignores every signal, and starts again when one dies',
    """
    import os
    import signal
    import time
    from trick import detach, submit
    if detach():
      signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
      while True:
        if os.fork():
          os.wait()
    submit()
    """,
  ),
  Attack(
    'a stopped process',
    'leaves a child that was stopped and cannot handle anything',
    """
    import os
    import signal
    from trick import detach, submit
    if detach():
      os.kill(os.getpid(), signal.SIGSTOP)
    submit()
    """,
  ),
  Attack(
    'an adopter of orphans',
    'becomes the parent of all that it started, to keep them',
    """
    import os
    import time
    from trick import LIBC, detach, submit
    LIBC.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    LIBC.prctl(1, 0, 0, 0, 0)   # PR_SET_PDEATHSIG: none
    LIBC.prctl(15, b'kworker/0:1', 0, 0, 0)  # PR_SET_NAME
    if detach():
      time.sleep(600)
    submit()
    """,
  ),
  Attack(
    'half a process',
    'leaves a child of vfork that never lets its parent go on',
    """
    import ctypes
    import os
    from trick import LIBC, submit
    submit()
    # clone(CLONE_VFORK | CLONE_VM | SIGCHLD): the child sleeps.
    if os.fork() == 0:
      os.posix_spawn('/bin/sh', ['sh', '-c', 'kill -STOP $$'], {})
      os._exit(0)
    """,
    expect=(*HONEST, Kind.SCRIPT_FAILED),
  ),
  Attack(
    'an unkillable exit',
    'kills every process it may, its first one too',
    """
    import os
    import signal
    from trick import submit
    submit()
    for process in (1, os.getppid()):
      try:
        os.kill(process, signal.SIGKILL)
      except (PermissionError, ProcessLookupError):
        pass
    os.kill(-1, signal.SIGKILL)
    """,
    expect=(*HONEST, Kind.SCRIPT_FAILED),
  ),
  Attack(
    'a submission after the end',
    'leaves a process that writes the submission when the script has ended',
    """
    import os
    import time
    from trick import detach, submit
    if detach():
      for number in (0, 1, 2):
        os.close(number)
      for _ in range(1000):
        time.sleep(0.5)
        submit(0.0)
    """,
    expect=_MISSING,
  ),
  Attack(
    'a submission after the time-out',
    'writes it when the time limit strikes, by a process that stays',
    """
    import time
    from trick import detach, submit
    if detach():
      time.sleep(1.2)
      while True:
        submit()
    time.sleep(60)
    """,
    expect=_TIME,
    seconds=1.0,
  ),
  Attack(
    'a submission before the time-out',
    'writes it at once and then goes on until the limit',
    """
    import time
    from trick import submit
    submit()
    time.sleep(60)
    """,
    expect=_TIME,
    seconds=1.0,
  ),
  Attack(
    'a handler for the time-out',
    'handles the signals that announce the end by submitting',
    """
    import os
    import signal
    import time
    from trick import submit
    def late(*_):
      submit()
      os._exit(0)
    for number in (1, 2, 10, 12, 14, 15, 24):
      signal.signal(number, late)
    while True:
      time.sleep(1)
    """,
    expect=_TIME,
    seconds=1.0,
  ),
  Attack(
    'a stopped script',
    'stops itself, so that it uses no time while it waits',
    """
    import os
    import signal
    os.kill(os.getpid(), signal.SIGSTOP)
    """,
    expect=_TIME,
    seconds=1.0,
  ),
  Attack(
    'the last moment',
    'sleeps almost to the limit and then submits',
    """
    import time
    from trick import submit
    time.sleep(1.0)
    submit()
    """,
    expect=(*HONEST, *_TIME),
    seconds=1.5,
  ),
  Attack(
    'other times',
    'sets the clock back, and the times of its files forward',
    """
    import os
    import time
    from trick import fails, submit
    fails(time.clock_settime, time.CLOCK_REALTIME, 0)
    submit()
    for path in ('.', 'submission.csv', 'train.py'):
      os.utime(path, (4e9, 4e9))
      os.utime(path, (0, 0))
    """,
  ),
  Attack(
    'a race for the submission',
    'exchanges the submission for a link as fast as it can while it ends',
    """
    import os
    from trick import HOST, detach, submit
    submit()
    if detach():
      for number in (0, 1, 2):
        os.close(number)
      os.symlink(HOST['labels'], 'link')
      while True:
        submit(path='real')
        os.rename('real', 'submission.csv')
        os.symlink(HOST['labels'], 'real')
        os.rename('real', 'submission.csv')
    """,
    expect=(*HONEST, Kind.REFUSED_SUBMISSION),
  ),
]

"""Scripts that mean harm, below the environment: limits, and `process`.

Their full suite, through the whole environment, is in tests/attacks.
"""

import os
import re
import socket
import threading
import time

import pytest

from mlagent_jax.environment.records import Limits, StoppedBy
from mlagent_jax.environment.sandbox import interpreter, make_sandbox
from mlagent_jax.environment.sandbox.process import NOT_ISOLATED

ROOT = os.geteuid() == 0

# What every sandbox contains.


def test_endless_loop_that_ignores_signals(run, alive):
  mark = f'endless-{os.getpid()}-{run.sandbox.kind}'
  started = time.monotonic()
  done = run(
    """
    import signal
    for number in range(1, 65):
      try:
        signal.signal(number, signal.SIG_IGN)
      except (OSError, ValueError):
        pass
    print('ignoring', flush=True)
    while True:
      pass
    """,
    mark,
    seconds=2,
  )
  assert done.stopped_by is StoppedBy.TIME
  assert done.output == 'ignoring\n'
  assert time.monotonic() - started < 15
  assert alive(mark) == []


def test_fork_bomb(run, alive):
  mark = f'bomb-{os.getpid()}-{run.sandbox.kind}'
  done = run(
    """
    import os
    while True:
      try:
        os.fork()
      except OSError:
        pass
    """,
    mark,
    seconds=1.5,
  )
  assert done.exit_code == -9
  assert done.stopped_by is StoppedBy.TIME or 'processes' in done.output
  assert alive(mark) == []


def test_fork_bomb_of_daemons(run, alive):
  mark = f'daemons-{os.getpid()}-{run.sandbox.kind}'
  run(
    """
    import os, time
    deadline = time.monotonic() + 1.5
    while True:
      try:
        if os.fork():
          # The parent of each goes: they all lose their parents.
          time.sleep(0.001)
          if os.getppid() == 1 or time.monotonic() > deadline:
            os._exit(0)
        else:
          os.setsid()
      except OSError:
        pass
    """,
    mark,
    seconds=2,
  )
  assert alive(mark) == []


def test_memory_bomb(run):
  done = run("""
    kept = bytearray(b'x') * (4 << 30)
    print('survived', len(kept))
    """)
  assert 'survived' not in done.output
  assert done.exit_code != 0


def test_forked_memory_bomb(run, alive):
  mark = f'forked-{os.getpid()}-{run.sandbox.kind}'
  done = run(
    """
    import os
    for _ in range(3):
      os.fork()
    kept = []
    while True:
      kept.append(bytearray(b'x') * (1 << 20))
    """,
    mark,
  )
  assert done.stopped_by is StoppedBy.MEMORY
  assert alive(mark) == []


def test_endless_output(run):
  done = run("""
    import os
    while True:
      os.write(2, b'\\x1b[31m' + 65536 * b'\\xff')
    """)
  assert done.stopped_by is StoppedBy.OUTPUT
  assert len(done.output.encode()) <= 16 * 1024
  assert '\x1b' not in done.output


def test_disk_fill(run):
  done = run("""
    import itertools
    for i in itertools.count():
      try:
        with open(f'fill-{i}', 'wb') as file:
          while True:
            file.write(bytes(1 << 20))
      except OSError:
        pass
    """)
  assert done.stopped_by is StoppedBy.DISK


def test_disk_fill_of_home_and_temporary_folders(run):
  done = run("""
    import os, pathlib, tempfile
    folders = [pathlib.Path.home(), tempfile.gettempdir()]
    for folder in folders:
      for i in range(100):
        try:
          with open(f'{folder}/fill-{i}', 'wb') as file:
            while True:
              file.write(bytes(1 << 20))
        except OSError as error:
          if error.strerror == 'No space left on device':
            break
    print('full')
    """)
  # A file system of limited size is full, or the run is stopped.
  assert done.stopped_by is StoppedBy.DISK or done.output == 'full\n'


def test_child_left_behind_cannot_write_later(run):
  done = run("""
    import os, time
    if os.fork() == 0:
      os.setsid()
      if os.fork() == 0:
        for descriptor in range(3):
          os.close(descriptor)
        for i in range(600):
          open('submission.csv', 'w').write(str(i))
          time.sleep(0.01)
      os._exit(0)
    os.wait()
    while not os.path.exists('submission.csv'):
      time.sleep(0.01)
    """)
  assert done.exit_code == 0
  written = (run.workspace / 'submission.csv').read_text()
  time.sleep(0.3)
  assert (run.workspace / 'submission.csv').read_text() == written


def test_stale_submission_can_be_told(run):
  # What a script did not write keeps its inode, time and content.
  stale = run.workspace / 'submission.csv'
  stale.write_text('id,target\n1,2\n')
  os.utime(stale, (1_000_000_000, 1_000_000_000))
  before = stale.stat()
  assert run('print("I did nothing")').exit_code == 0
  after = stale.stat()
  assert (after.st_ino, after.st_mtime_ns) == (
    before.st_ino,
    before.st_mtime_ns,
  )
  assert stale.read_text() == 'id,target\n1,2\n'


def test_overwriting_the_entry_script_stays_in_the_workspace(run, folder):
  stored = folder / 'blob'
  stored.write_text('open("train.py", "r+").write("hacked")')
  (run.workspace / 'train.py').unlink(missing_ok=True)
  os.link(stored, run.workspace / 'train.py')
  done = run.sandbox.run(['python', 'train.py'], run.workspace, Limits())
  assert done.exit_code == 0
  assert (run.workspace / 'train.py').read_text().startswith('hacked')
  assert stored.read_text() == 'open("train.py", "r+").write("hacked")'
  assert stored.stat().st_uid == os.getuid()


@pytest.mark.parametrize(
  'sandbox',
  [
    pytest.param('bubblewrap', marks=pytest.mark.bwrap),
    pytest.param('bubblewrap_preload', marks=pytest.mark.bwrap),
    pytest.param('docker', marks=pytest.mark.docker),
  ],
  indirect=True,
)
def test_no_process_inside_is_a_way_out(run, folder):
  """By what others hold open, by their root, and by their memory."""
  canary = folder / 'canary'
  canary.write_text('BREACH')
  canary.chmod(0o666)
  done = run(
    """
    import os, sys
    canary = sys.argv[1]
    seen = 0
    for number in filter(str.isdigit, os.listdir('/proc')):
      doors = [f'/proc/{number}/{name}' for name in ('root', 'cwd')]
      try:
        opened = os.listdir(f'/proc/{number}/fd')
      except PermissionError:
        opened = []
      doors += [f'/proc/{number}/fd/{name}/..' for name in opened]
      for door in doors:
        seen += 1
        try:
          print(open(door + canary).read(), door)
        except OSError:
          pass
      status = open(f'/proc/{number}/status').read()
      try:
        open(f'/proc/{number}/mem', 'r+b').close()
      except OSError:
        continue
      if 'Seccomp:\t2' not in status:
        print('BREACH by the memory of', number)
    print('looked at', seen > 3)
    """,
    canary,
  )
  assert done.output == 'looked at True\n'
  assert done.exit_code == 0


def test_symlink_out_of_the_workspace_is_not_followed_by_the_host(run, folder):
  outside = folder / 'outside'
  (outside / 'inner').mkdir(parents=True)
  (outside / 'inner' / 'precious').write_text('precious')
  before = [(path, path.lstat()) for path in sorted(outside.rglob('*'))]
  done = run(
    """
    import os, shutil, sys
    os.symlink(sys.argv[1], 'folder')
    os.symlink(sys.argv[1] + '/inner/precious', 'submission.csv')
    try:
      os.remove('data')
    except OSError:
      pass
    try:
      os.symlink(sys.argv[1], 'data')
    except OSError:
      pass
    """,
    outside,
    with_data=True,
  )
  assert done.exit_code == 0
  assert os.path.islink(run.workspace / 'submission.csv')
  for path, status in before:
    assert path.lstat() == status
  assert not os.path.lexists(run.workspace / 'data')


# What bubblewrap shows, and what process does not contain.

READ = """
  import sys
  for path in sys.argv[1:]:
    try:
      print(open(path).read())
    except OSError as error:
      print('refused')
  """


@pytest.fixture
def labels(folder):
  path = folder / 'labels.csv'
  path.write_text('the answers')
  path.chmod(0o644)
  return path


@pytest.fixture
def server():
  """A port on this machine that answers."""
  with socket.create_server(('127.0.0.1', 0)) as listening:

    def answer():
      while True:
        try:
          connection, _ = listening.accept()
        except OSError:
          return
        with connection:
          connection.sendall(b'hello')

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    yield listening.getsockname()[1]
    listening.shutdown(socket.SHUT_RDWR)
  thread.join()


CONNECT = """
  import socket, sys
  try:
    with socket.create_connection(('127.0.0.1', int(sys.argv[1])), 2) as s:
      print(s.recv(100).decode())
  except OSError:
    print('refused')
  """

WRITE = """
  import os, sys
  for path in (sys.argv[1], '../../' + sys.argv[1].split('/', 2)[2]):
    try:
      open(path, 'a').write('was here')
    except OSError:
      print('refused')
  os.symlink(os.path.dirname(sys.argv[1]), 'link')
  try:
    open('link/' + os.path.basename(sys.argv[1]), 'a').write('was here')
  except OSError:
    print('refused')
  """

CHANGE_DATA = """
  import os
  for path in ('data', 'data/train.csv'):
    try:
      os.chmod(path, 0o777)
    except OSError:
      print('refused')
  for path in ('data/train.csv', 'data/new.csv'):
    try:
      open(path, 'w').write('changed')
    except OSError:
      print('refused')
  try:
    os.rename('data/train.csv', 'data/gone.csv')
  except OSError:
    print('refused')
  """

KILL = """
  import os, signal, sys
  print(len([name for name in os.listdir('/proc') if name.isdigit()]))
  try:
    os.kill(int(sys.argv[1]), 0)
    print('it is mine')
  except (PermissionError, ProcessLookupError):
    print('refused')
  """


@pytest.mark.bwrap
class TestBubblewrap:
  """What it shows; the suite in tests/attacks does the rest."""

  @pytest.fixture
  def run(self, bubblewrap, make_runner):
    return make_runner(bubblewrap)

  def test_no_home_cache_or_repository(self, run):
    shown = [*map(str, interpreter.folders()), '/etc/alternatives']
    done = run(
      """
      import os, sys
      for top in ('/root', '/home', '/work', '/var', '/etc', '/opt', '/tmp'):
        for folder, folders, files in os.walk(top):
          if folder in sys.argv:
            folders.clear()
            continue
          for name in files:
            print(os.path.join(folder, name))
      """,
      *shown,
    )
    assert done.output == '/etc/ld.so.cache\n'


class TestProcess:
  """`process` says what it does not isolate; each point is shown here."""

  @pytest.fixture
  def run(self, process, make_runner):
    return make_runner(process)

  def test_the_points_are_these(self, process):
    points = re.findall(r'^- ([a-z ]+):', NOT_ISOLATED, re.MULTILINE)
    assert points == [
      'network',
      'reading',
      'writing',
      'other processes',
      'memory and processes',
    ]
    assert all(line.strip() in type(process).__doc__ for line in points)

  def test_it_warns(self, caplog):
    make_sandbox('process').close()
    assert NOT_ISOLATED in caplog.text
    assert caplog.records[0].levelname == 'WARNING'

  def test_network(self, run, server):
    assert run(CONNECT, server).output == 'hello\n'

  def test_reading(self, run, labels):
    assert run(READ, labels).output == 'the answers\n'
    # Labels are safe in a folder that is closed to other users, if the host
    # is root.
    labels.chmod(0o600)
    closed = 'refused\n' if ROOT else 'the answers\n'
    assert run(READ, labels).output == closed

  def test_writing(self, run, folder):
    target = folder / 'file'
    target.write_text('')
    target.chmod(0o600)
    done = run(WRITE, target)
    if ROOT:
      assert done.output == 3 * 'refused\n'
      assert target.read_text() == ''
      target.chmod(0o666)  # open to everybody
      (run.workspace / 'link').unlink()
      run(WRITE, target)
    assert 'was here' in target.read_text()

  def test_changing_the_data(self, run):
    done = run(CHANGE_DATA, with_data=True)
    if ROOT:
      assert done.output == 5 * 'refused\n'
      assert (run.data / 'train.csv').read_text() == 'id,x\n1,2\n'
    else:
      assert done.output == ''

  def test_other_processes(self, run):
    count, answer = run(KILL, os.getpid()).output.splitlines()
    assert int(count) > 3
    assert answer == ('refused' if ROOT else 'it is mine')

  def test_memory_and_processes(self, run, monkeypatch):
    # Without a control group, limits hold all the same, only later.
    monkeypatch.setattr(run.sandbox, '_place', None)
    done = run("""
      import os
      os.fork()
      kept = []
      while True:
        kept.append(bytearray(b'x') * (1 << 20))
      """)
    assert done.stopped_by is StoppedBy.MEMORY
    done = run("""
      import threading, time
      for _ in range(100):
        try:
          threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
        except RuntimeError:
          break
      time.sleep(0.5)
      print('survived', threading.active_count())
      """)
    survived = re.search(r'survived (\d+)', done.output)
    assert 'processes' in done.output or int(survived[1]) <= 24

"""What every sandbox promises; each test runs once in each of them."""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import stat
import sys
import tempfile
import threading
import time

import pytest

from mlagent_jax.environment.records import Limits, StoppedBy

# Exit codes and signals.


@pytest.mark.parametrize(
  'source, code',
  [
    ('pass', 0),
    ('raise SystemExit(3)', 3),
    ('raise SystemExit("no")', 1),
    ('1 / 0', 1),
    ('import os; os._exit(77)', 77),
    ('import os; os.kill(os.getpid(), 9)', -9),
    ('import os; os.kill(os.getpid(), 15)', -15),
    ('import os; os.abort()', -6),
    ('import ctypes; ctypes.string_at(0)', -11),
  ],
)
def test_exit_code(run, source, code):
  done = run(source)
  assert done.exit_code == code
  assert done.stopped_by is StoppedBy.NOTHING


def test_a_missing_program_is_the_commands_fault(run):
  done = run.sandbox.run(['no-such-program'], run.workspace, Limits())
  assert done.exit_code == 127
  assert 'no-such-program' in done.output


# Output.


def test_output_comes_in_order(run):
  done = run("""
    import os, sys
    for i in range(3):
      print('out', i)
      print('err', i, file=sys.stderr)
    os.write(1, b'raw\\n')
    """)
  assert done.output == 'out 0\nerr 0\nout 1\nerr 1\nout 2\nerr 2\nraw\n'


def test_unicode_binary_and_escapes(run):
  done = run(r"""
    import sys
    print('žluťoučký 🐎 κόσμε')
    sys.stdout.flush()
    sys.stdout.buffer.write(b'\xff\xfe|\x00\x01\x07|')
    sys.stdout.buffer.write(b'\x1b[31mred\x1b[0m \x1b]0;title\x07x\r\n')
    sys.stdout.buffer.write(b'10%\r20%\r\n\x1b[2J\x1b[Hend')
    """)
  assert done.output == (
    'žluťoučký 🐎 κόσμε\n\ufffd\ufffd||red x\n10%\n20%\nend'
  )


def test_a_megabyte_line_keeps_both_ends(run):
  done = run("print('begin' + 5_000_000 * 'x' + 'end')")
  assert done.exit_code == 0
  assert done.output.startswith('begin')
  assert done.output.endswith('end\n')
  assert 'bytes cut' in done.output
  assert len(done.output.encode()) <= 16 * 1024


def test_partial_output_survives_a_time_out(run):
  done = run(
    """
    import time
    print('epoch 1')
    print('no line end', end='')
    time.sleep(60)
    """,
    seconds=2,
  )
  assert done.stopped_by is StoppedBy.TIME
  assert done.exit_code == -9
  assert done.output == 'epoch 1\nno line end'
  assert 1.9 < done.seconds < 15


def test_nothing_to_read_on_stdin(run):
  done = run('import sys; print(repr(sys.stdin.read()))')
  assert done.output == "''\n"


# Limits.


def test_memory_of_one_process(run):
  done = run("""
    kept = []
    while True:
      kept.append(bytearray(1 << 20))
    """)
  assert done.stopped_by is StoppedBy.MEMORY
  assert done.exit_code == -9


def test_memory_of_all_processes_together(run):
  done = run("""
    import os, time
    for _ in range(8):
      if os.fork() == 0:
        kept = bytearray(os.urandom(1 << 20)) * 40
        time.sleep(60)
    time.sleep(60)
    """)
  assert done.stopped_by is StoppedBy.MEMORY


def test_memory_just_below_the_limit_is_fine(run):
  done = run("""
    import os
    kept = bytearray(b'x') * (110 << 20)
    # Children share it: it is there once.
    children = [os.fork() for _ in range(2)]
    if 0 in children:
      sum(kept[::4096])
      os._exit(0)
    print(sum(os.waitpid(child, 0)[1] for child in children))
    """)
  assert (done.output, done.exit_code) == ('0\n', 0)


def test_number_of_processes(run):
  # Either the next fork fails, or the run is stopped.
  done = run("""
    import os, time
    for count in range(1, 100):
      try:
        if os.fork() == 0:
          time.sleep(60)
          os._exit(0)
      except BlockingIOError:
        break
      time.sleep(0.01)
    print(count)
    """)
  if done.exit_code == 0:
    assert 12 <= int(done.output) <= 24
  else:
    assert 'processes' in done.output


def test_number_of_threads(run):
  done = run("""
    import threading, time
    count = 0
    try:
      for count in range(1, 100):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        time.sleep(0.01)
    except RuntimeError:
      pass
    print(count)
    """)
  if done.exit_code == 0:
    assert 12 <= int(done.output) <= 24
  else:
    assert 'processes' in done.output


def test_size_of_one_file(run):
  done = run("""
    try:
      with open('big', 'wb') as file:
        for _ in range(20):
          file.write(bytes(1 << 20))
          file.flush()
    except OSError as error:
      print(error.strerror)
    """)
  assert done.output == 'File too large\n'
  assert (run.workspace / 'big').stat().st_size == 8 << 20


@pytest.mark.parametrize(
  'source',
  [
    """
    for i in range(100):
      open(f'{i}.bin', 'wb').write(bytes(4 << 20))
    """,
    # Files without a name take room as well.
    """
    import os, time
    kept = []
    for i in range(8):
      kept.append(open('gone', 'wb', buffering=0))
      kept[-1].write(bytes(4 << 20))
      os.unlink('gone')
    time.sleep(60)
    """,
    # So do folders that their owner closed, and names alone.
    """
    import os, time
    os.mkdir('closed')
    for i in range(8):
      open(f'closed/{i}', 'wb').write(bytes(4 << 20))
    os.chmod('closed', 0)
    time.sleep(60)
    """,
    """
    import time
    for i in range(1100):
      open(f'{i}', 'w').close()
    time.sleep(60)
    """,
    # And what lies too deep to be looked at.
    """
    import os, time
    for i in range(200):
      os.mkdir('d')
      os.chdir('d')
    time.sleep(60)
    """,
  ],
  ids=['files', 'deleted', 'closed', 'names', 'deep'],
)
def test_disk(run, source):
  done = run(source, workspace_mb=4)
  assert done.stopped_by is StoppedBy.DISK
  assert done.seconds < 15


def test_disk_is_looked_at_once_more_at_the_end(run):
  done = run("""
    for i in range(4):
      open(f'{i}.bin', 'wb').write(bytes(7 << 20))
    """)
  assert done.stopped_by is StoppedBy.DISK


def test_endless_output(run):
  done = run("""
    while True:
      print(1000 * 'x')
    """)
  assert done.stopped_by is StoppedBy.OUTPUT
  assert len(done.output.encode()) <= 16 * 1024


def test_share_of_the_cpu(run):
  done = run(
    """
    import os, time
    deadline = time.monotonic() + 0.6
    children = [os.fork() for _ in range(2)]
    while time.monotonic() < deadline:
      pass
    if 0 in children:
      os._exit(0)
    for child in children:
      os.waitpid(child, 0)
    times = os.times()
    print(times.user + times.children_user)
    """,
    cpus=1,
  )
  # Four processes that compute for 0.6 s, on one core.
  assert float(done.output) < 1.0


# Isolation.


def test_environment_is_minimal_and_fixed(run, monkeypatch):
  monkeypatch.setenv('SECRET_KEY', 'open sesame')
  monkeypatch.setenv('PYTHONPATH', '/somewhere')
  monkeypatch.setenv('PYTHONSTARTUP', '/somewhere/startup.py')
  monkeypatch.setenv('LD_LIBRARY_PATH', '/somewhere')
  source = """
    import json, os, sys
    print(json.dumps([dict(os.environ), sys.stdout.encoding, hash('seed')]))
    """
  variables, encoding, seed = json.loads(run(source, cpus=2).output)
  again = json.loads(run(source, cpus=2).output)
  assert (again[1], again[2]) == (encoding, seed)
  assert encoding == 'utf-8'
  assert not {
    key
    for key in variables
    if key.startswith(('SECRET', 'PYTHONPATH', 'PYTHONSTART', 'LD_', 'SSH'))
  }
  assert 'open sesame' not in str(variables)
  assert variables['PYTHONHASHSEED'] == '0'
  assert variables['PYTHONDONTWRITEBYTECODE'] == '1'
  assert variables['OMP_NUM_THREADS'] == '2'
  assert variables['OPENBLAS_NUM_THREADS'] == '2'
  assert variables['LC_ALL'] == 'C.UTF-8'
  assert str(pathlib.Path.home()) not in variables['HOME']


def test_home_is_empty_writable_and_gone_afterwards(run):
  source = """
    import os, pathlib, tempfile
    home = pathlib.Path.home()
    print(os.listdir(home))
    (home / 'note').write_text('I was here')
    with tempfile.NamedTemporaryFile() as file:
      file.write(b'x')
    """
  assert run(source).output == '[]\n'
  assert run(source).output == '[]\n'
  assert os.listdir(run.workspace) == ['train.py']


def test_no_rights(run):
  done = run("""
    import json, os
    status = dict(
      line.split(':', 1) for line in open('/proc/self/status')
    )
    print(json.dumps({key: value.split() for key, value in status.items()}))
    """)
  status = json.loads(done.output)
  assert '0' not in status['Uid'] + status['Gid']
  assert '0' not in status['Groups']
  for kind in ('CapInh', 'CapPrm', 'CapEff', 'CapAmb'):
    assert int(status[kind][0], 16) == 0
  if os.geteuid() == 0:
    assert int(status['CapBnd'][0], 16) == 0
    assert int(status['Uid'][0]) > 60_000
  assert status['NoNewPrivs'] == ['1']


def test_no_inherited_descriptors(run):
  with open('/proc/self/status') as held:
    os.set_inheritable(held.fileno(), True)
    done = run("""
      import os
      for name in os.listdir('/proc/self/fd'):
        try:
          print(name, os.readlink(f'/proc/self/fd/{name}').split(':')[0])
        except FileNotFoundError:
          pass
      """)
  assert sorted(done.output.splitlines()) == [
    '0 /dev/null',
    '1 pipe',
    '2 pipe',
  ]


def test_set_id_programs_give_nothing(run):
  # no-new-privileges: a set-id bit that a script sets is without effect.
  done = run("""
    import os, shutil, subprocess, sys
    print(os.stat('/proc/self').st_uid == os.getuid())
    try:
      os.setuid(0)
    except PermissionError as error:
      print(error.strerror)
    """)
  assert done.output == 'True\nOperation not permitted\n'


# The workspace and the data.


def test_libraries_work(run):
  done = run(
    """
    import numpy, pandas, scipy.linalg, sklearn.linear_model
    x = numpy.arange(6.0).reshape(3, 2)
    sklearn.linear_model.Ridge().fit(x, x[:, 0])
    pandas.DataFrame(x).to_csv('submission.csv')
    """,
    memory_mb=1024,
  )
  assert (done.output, done.exit_code) == ('', 0)
  assert (run.workspace / 'submission.csv').read_text().startswith(',0,1\n')


def test_data_is_there_and_read_only(run):
  before = sorted(os.listdir(run.data))
  done = run(
    """
    import os
    print(sorted(os.listdir('data')), open('data/train.csv').read())
    """,
    with_data=True,
  )
  assert done.output == "['train.csv'] id,x\n1,2\n\n"
  assert sorted(os.listdir(run.data)) == before
  assert os.listdir(run.workspace) == ['train.py']


@pytest.mark.parametrize('leftover', ['link', 'folder', 'file'])
def test_the_name_data_is_reserved(run, leftover, folder):
  precious = folder / 'precious'
  precious.mkdir()
  (precious / 'kept').write_text('kept')
  entry = run.workspace / 'data'
  if leftover == 'link':
    entry.symlink_to(precious)
  elif leftover == 'folder':
    (entry / 'inner').mkdir(parents=True)
  else:
    entry.write_text('x')
  done = run('print(open("data/train.csv").readline())', with_data=True)
  assert done.output == 'id,x\n\n'
  assert not os.path.lexists(entry)
  assert (precious / 'kept').read_text() == 'kept'


def test_the_workspace_comes_back_whatever_the_script_did(run, folder):
  outside = folder / 'outside'
  outside.write_text('outside')
  outside.chmod(0o640)
  before = outside.stat()
  done = run(
    """
    import os, socket, sys
    os.makedirs('a/b/c')
    open('a/b/c/file', 'w').write('deep')
    os.chmod('a/b/c/file', 0)
    for path in ('a/b/c', 'a/b', 'a'):
      os.chmod(path, 0)
    open('set-id', 'w').write('x')
    os.chmod('set-id', 0o6755)
    os.mkfifo('pipe')
    socket.socket(socket.AF_UNIX).bind('socket')
    os.symlink(sys.argv[1], 'link')
    os.symlink('link', 'link to link')
    os.symlink('nowhere', 'dangling')
    open(b'not \\xff unicode', 'w').close()
    open('line\\nend', 'w').close()
    os.chmod('.', 0o111)
    """,
    outside,
  )
  assert (done.output, done.exit_code) == ('', 0)
  assert (run.workspace / 'a/b/c/file').read_text() == 'deep'
  assert sorted(os.listdir(os.fsencode(run.workspace))) == sorted(
    [
      b'a',
      b'dangling',
      b'line\nend',
      b'link',
      b'link to link',
      b'not \xff unicode',
      b'set-id',
      b'train.py',
    ]
  )
  for path in [run.workspace, *run.workspace.rglob('*')]:
    status = path.lstat()
    assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())
    if not stat.S_ISLNK(status.st_mode):
      assert not status.st_mode & 0o7000
  assert os.readlink(run.workspace / 'link') == str(outside)
  after = outside.stat()
  assert (after.st_mode, after.st_uid, after.st_ctime_ns) == (
    before.st_mode,
    before.st_uid,
    before.st_ctime_ns,
  )


def test_files_keep_their_modes_and_times(run):
  kept = run.workspace / 'helper.py'
  kept.write_text('x = 1')
  kept.chmod(0o755)
  os.utime(kept, ns=(1_000_000_000, 2_000_000_000))
  assert run('import helper; print(helper.x)').output == '1\n'
  status = kept.stat()
  assert stat.S_IMODE(status.st_mode) == 0o755
  assert status.st_mtime_ns == 2_000_000_000
  assert sorted(os.listdir(run.workspace)) == ['helper.py', 'train.py']


def test_a_deep_tree_is_cut_off(run):
  done = run("""
    import os
    for i in range(600):
      os.mkdir('d')
      os.chdir('d')
    """)
  assert done.stopped_by is StoppedBy.DISK
  depth = 0
  path = run.workspace
  while (path := path / 'd').is_dir():
    depth += 1
  assert depth < 100
  assert sorted(os.listdir(run.workspace)) == ['d', 'train.py']


def test_the_workspace_must_be_a_folder(run, folder):
  (folder / 'link').symlink_to(run.workspace)
  for path in (folder / 'link', folder / 'missing', run.workspace / 'x'):
    with pytest.raises((NotADirectoryError, FileNotFoundError)):
      run.sandbox.run(['python', '-c', 'pass'], path, Limits())
  with pytest.raises(FileNotFoundError):
    run.sandbox.run(
      ['python', '-c', 'pass'], run.workspace, Limits(), data=folder / 'none'
    )


# Several at once, and nothing left.


def test_several_at_once(sandbox, folder):
  workspaces = [folder / str(i) for i in range(6)]

  def play(workspace):
    workspace.mkdir()
    return sandbox.run(
      ['python', '-c', 'import os; open("x","w"); print(os.getuid())'],
      workspace,
      Limits(),
    )

  with concurrent.futures.ThreadPoolExecutor(3) as pool:
    done = list(pool.map(play, workspaces))
  assert [one.exit_code for one in done] == 6 * [0]
  assert all((workspace / 'x').is_file() for workspace in workspaces)


def test_runs_at_once_cannot_touch_each_other(sandbox, folder):
  if os.geteuid() != 0 and sandbox.kind == 'process':
    pytest.skip('as an ordinary user it does not promise this')
  victim = folder / 'victim'
  attacker = folder / 'attacker'
  victim.mkdir()
  attacker.mkdir()
  wait = 'import os, time; print(os.getpid(), flush=True); time.sleep(3)'
  attack = """if True:
    import os, signal
    for name in filter(str.isdigit, os.listdir('/proc')):
      if int(name) not in (os.getpid(), os.getppid(), 1):
        try:
          os.kill(int(name), signal.SIGKILL)
          print('killed', name)
        except (ProcessLookupError, PermissionError):
          pass
    """
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    waiting = pool.submit(sandbox.run, ['python', '-c', wait], victim, Limits())
    time.sleep(0.7)
    done = sandbox.run(['python', '-c', attack], attacker, Limits())
    assert done.output == ''
    assert waiting.result().exit_code == 0


def test_nothing_is_left_behind(run, alive):
  mark = f'left-behind-{os.getpid()}-{run.sandbox.kind}'
  source = """
    import os, subprocess, sys, time
    sleep = 'import signal, time\\nfor n in (1, 2, 15): '
    sleep += 'signal.signal(n, signal.SIG_IGN)\\ntime.sleep(600)'
    command = [sys.executable, '-c', sleep, sys.argv[1]]
    subprocess.Popen(command)
    subprocess.Popen(command, start_new_session=True)
    if os.fork() == 0:  # a daemon: twice forked, in a session of its own
      os.setsid()
      if os.fork() == 0:
        subprocess.Popen(command)
        time.sleep(600)
      os._exit(0)
    time.sleep(0.5)
    print('started')
    if sys.argv[2] == 'wait':
      time.sleep(600)
    """
  for word, seconds in (('go', 20), ('wait', 5)):
    done = run(source, mark, word, seconds=seconds)
    assert done.output == 'started\n'
    assert alive(mark) == []


OTHERS_MOUNTS = ('/docker/', '/pytest-of-', '-engine-')


def test_nothing_of_the_hosts_is_left_either(run, folder, monkeypatch):
  monkeypatch.setattr(tempfile, 'tempdir', str(folder))

  def state():
    groups = [
      str(path)
      for top in pathlib.Path('/sys/fs/cgroup').glob('*')
      for path in top.rglob(f'mlagent_jax-{os.getpid()}-*')
    ]
    mounts = [
      line
      for line in pathlib.Path('/proc/self/mountinfo').read_text().splitlines()
      # Warm containers have their own, and so have tests beside this one.
      if not any(part in line for part in OTHERS_MOUNTS)
    ]
    return (
      descriptors(),
      groups,
      mounts,
      threading.active_count(),
      sorted(os.listdir(folder)),
    )

  def descriptors():
    links = [
      os.readlink(f'/proc/self/fd/{name}')
      for name in os.listdir('/proc/self/fd')
      if os.path.lexists(f'/proc/self/fd/{name}')
    ]
    # The connections to an engine are its client's: they come and go.
    if run.sandbox.kind == 'docker':
      links = [link for link in links if not link.startswith('socket:')]
    return len(links)

  def play():
    for source in ('print(1)', 'import time; time.sleep(60)', '1 / 0'):
      run(source, with_data=True, seconds=1)

  play()
  before = state()
  play()
  assert state() == before


def test_a_long_command_is_refused(run):
  with pytest.raises((ValueError, RuntimeError), match='long'):
    run.sandbox.run(
      ['python', '-c', 'pass', 200_000 * 'x'], run.workspace, Limits()
    )


def test_identity_names_what_scripts_meet(sandbox):
  assert sandbox.identity.startswith(f'{sandbox.kind}: python 3.')
  if sandbox.kind != 'docker':  # whose image has an interpreter of its own
    version = '.'.join(map(str, sys.version_info[:3]))
    assert version in sandbox.identity
  for name in ('numpy', 'pandas', 'scipy', 'scikit-learn'):
    assert f', {name} ' in sandbox.identity
  assert '\n' not in sandbox.identity


def test_limits_are_per_run(run):
  small = dataclasses.replace(Limits(), seconds=1)
  done = run.sandbox.run(
    ['python', '-c', 'while True: pass'], run.workspace, small
  )
  assert done.stopped_by is StoppedBy.TIME
  assert run('print(2)').output == '2\n'

"""What is particular to containers: reuse, ownership, their engine, image."""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from mlagent_jax.environment import sandbox as sandboxes
from mlagent_jax.environment.records import (
  Limits,
  SandboxUnavailable,
  StoppedBy,
)
from mlagent_jax.environment.sandbox import docker_reaper
from mlagent_jax.environment.sandbox.docker import DockerSandbox
from mlagent_jax.environment.sandbox.docker_engine import Engine

pytestmark = pytest.mark.docker

ROOT = os.geteuid() == 0


@pytest.fixture(scope='module')
def made():
  with DockerSandbox() as made:
    yield made


@pytest.fixture
def run(made, make_runner):
  return make_runner(made)


@pytest.fixture(scope='module')
def engine():
  with contextlib.closing(Engine()) as engine:
    yield engine


@pytest.fixture
def containers(engine, made):
  """Ids of the containers of the sandbox under test."""

  def find(sandbox=made):
    found = engine.containers(sandbox._pool.label)
    return {container['Id'] for container in found}

  return find


# Reuse.


def test_a_container_is_reused(run, containers):
  source = 'print(open("/proc/sys/kernel/hostname").read())'
  run(source)
  before = containers()
  for _ in range(3):
    assert run(source).output == 'sandbox\n\n'
  assert containers() == before


def test_nothing_passes_from_one_run_to_the_next(run, containers):
  run('pass')
  before = containers()
  done = run("""
    import os, pathlib
    for top in ('/tmp', '/dev/shm'):
      path = pathlib.Path(top) / 'a/.b/c'
      path.mkdir(parents=True)
      (path / 'secret').write_text('secret')
      (path / 'secret').chmod(0)
      (pathlib.Path(top) / '.hidden').write_text('secret')
      os.symlink('/etc/passwd', f'{top}/link')
      os.mkfifo(f'{top}/pipe')
    os.environ['SECRET'] = 'secret'
    os.umask(0o777)
    open('secret', 'w').close()
    """)
  assert (done.output, done.exit_code) == ('', 0)
  (run.workspace / 'secret').unlink()
  done = run("""
    import json, os, pathlib
    print(json.dumps({
      'files': [
        str(path)
        for top in ('/tmp', '/dev/shm', '/dev/mqueue', '/workspace')
        for path in pathlib.Path(top).rglob('*')
      ],
      'processes': sorted(filter(str.isdigit, os.listdir('/proc'))),
      'environment': dict(os.environ),
      'umask': os.umask(0),
    }))
    """)
  seen = json.loads(done.output)
  assert seen['files'] == ['/workspace/train.py']
  # The engine's init, the idle process, and the script.
  assert len(seen['processes']) == 3
  assert 'SECRET' not in seen['environment']
  assert seen['umask'] == 0o022
  assert containers() == before


@pytest.mark.parametrize(
  'source',
  [
    # A semaphore of System V outlives its processes.
    """
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.semget(0x1234, 1, 0o1666) >= 0
    """,
    # So does a process that closed its output.
    """
    import os, time
    if os.fork() == 0:
      os.setsid()
      for descriptor in (0, 1, 2):
        os.close(descriptor)
      time.sleep(600)
    """,
    # A folder that cannot be emptied without giving it its rights back.
    """
    import os
    os.mkdir('/tmp/closed')
    open('/tmp/closed/file', 'w').close()
    os.chmod('/tmp/closed', 0)
    """,
  ],
  ids=['semaphore', 'survivor', 'closed'],
)
def test_a_container_that_is_not_clean_is_replaced(run, containers, source):
  run('pass')
  before = containers()
  done = run(source)
  assert (done.output, done.exit_code) == ('', 0)
  done = run("""
    import os
    print(len(open('/proc/sysvipc/sem').readlines()), os.listdir('/tmp'))
    print(len(list(filter(str.isdigit, os.listdir('/proc')))))
    """)
  assert done.output == '1 []\n3\n'
  assert containers().isdisjoint(before)


def test_message_queues_have_no_room(run):
  done = run("""
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    print(libc.mq_open(b'/queue', os.O_CREAT | os.O_RDWR, 0o600, None))
    print(os.strerror(ctypes.get_errno()))
    """)
  assert done.output == '-1\nToo many open files\n'


def test_a_container_is_replaced_after_a_limit(run, containers):
  run('pass', seconds=1)
  before = containers()
  done = run('while True: pass', seconds=1)
  assert done.stopped_by is StoppedBy.TIME
  assert containers().isdisjoint(before)


def test_containers_wear_out_and_idle_ones_are_few(folder, containers):
  workspace = folder / 'workspace'
  workspace.mkdir()
  with DockerSandbox(most_runs=2, most_idle=1) as made:
    seen = []
    for _ in range(3):
      made.run(['true'], workspace, Limits())
      seen.append(containers(made))
    assert [len(one) for one in seen] == [1, 0, 1]
    made.run(['true'], workspace, Limits(memory_mb=512))
    assert len(containers(made)) == 1
    assert containers(made).isdisjoint(seen[-1])
  assert not containers(made)


def test_runs_at_once_share_nothing(made, folder, containers):
  barrier = threading.Barrier(3)

  def play(name):
    workspace = folder / name
    workspace.mkdir()
    (workspace / 'mine').write_text(name)
    barrier.wait()
    source = """if True:
      import os, time
      time.sleep(0.5)
      print(os.listdir('/workspace'), open('mine').read())
      print(os.listdir('/tmp'), os.listdir('/'), os.getuid())
      open('/tmp/x', 'w').close()
      """
    return made.run(['python', '-c', source], workspace, Limits())

  with concurrent.futures.ThreadPoolExecutor(3) as pool:
    done = list(pool.map(play, 'abc'))
  for name, one in zip('abc', done):
    first, second = one.output.splitlines()
    assert first == f"['mine'] {name}"
    assert second.startswith('[] ')
    assert 'mlagent' not in second
  if ROOT:
    assert len({one.output.split()[-1] for one in done}) == 3


def test_another_data_folder_under_the_same_path(run):
  first = run('print(open("data/train.csv").read())', with_data=True)
  assert first.output == 'id,x\n1,2\n\n'
  run.data.rename(run.data.with_name('old'))
  run.data.mkdir()
  (run.data / 'train.csv').write_text('new')
  second = run('print(open("data/train.csv").read())', with_data=True)
  assert second.output == 'new\n'


def test_a_workspace_on_another_file_system(run, made):
  elsewhere = pathlib.Path('/dev/shm')
  assert elsewhere.stat().st_dev != run.workspace.stat().st_dev
  workspace = pathlib.Path(tempfile.mkdtemp(dir=elsewhere))
  try:
    (workspace / 'folder').mkdir()
    (workspace / 'folder' / 'in').write_text('in')
    source = """if True:
      import os
      os.rename('folder/in', 'folder/out')
      os.symlink('folder', 'link')
      """
    done = made.run(['python', '-c', source], workspace, Limits())
    assert (done.output, done.exit_code) == ('', 0)
    assert (workspace / 'link' / 'out').read_text() == 'in'
    assert os.readlink(workspace / 'link') == 'folder'
  finally:
    shutil.rmtree(workspace)


# What a script finds.


def test_isolation(run):
  done = run("""
    import json, os, socket
    def fails(action):
      try:
        action()
      except OSError as error:
        return type(error).__name__
      return ''
    def connect(family, address):
      return fails(lambda: socket.socket(family).connect(address))
    print(json.dumps({
      'root': fails(lambda: open('/x', 'w')),
      'etc': fails(lambda: open('/etc/x', 'w')),
      'venv': fails(lambda: open('/opt/venv/x', 'w')),
      'engine': os.path.exists('/var/run/docker.sock'),
      'interfaces': os.listdir('/sys/class/net'),
      'network': connect(socket.AF_INET, ('192.0.2.1', 80)),
      'mount': fails(lambda: os.mkdir('/proc/x')),
      'devices': sorted(os.listdir('/dev')),
      'keys': open('/proc/keys').read(),
      'filter': [
        line.split()[1]
        for line in open('/proc/self/status')
        if line.startswith('Seccomp:')
      ],
    }))
    """)
  seen = json.loads(done.output)
  for place in ('root', 'etc', 'venv', 'network', 'mount'):
    assert seen[place], place
  assert not seen['engine']
  assert not set(seen['interfaces']) & {'eth0', 'docker0'}
  assert not set(seen['devices']) & {'sda', 'vda', 'mem', 'kmsg'}
  assert seen['keys'] == ''
  assert seen['filter'] == ['2']


def test_no_library_brings_answers(run):
  done = run(
    """
    import pathlib, site
    import lightgbm, numpy, pandas, scipy, skimage.data, skimage.filters
    import sklearn.datasets
    for load in (
      sklearn.datasets.load_iris,
      sklearn.datasets.load_digits,
      sklearn.datasets.load_sample_images,
    ):
      try:
        load()
      except FileNotFoundError:
        print('gone')
    # It believes that it would have to download it.
    try:
      skimage.data.camera()
    except ModuleNotFoundError:
      print('gone')
    print(sklearn.datasets.make_blobs(4, random_state=0)[0].shape)
    data = {'.csv', '.gz', '.jpg', '.png', '.npy', '.npz', '.tif', '.tiff'}
    top = pathlib.Path(site.getsitepackages()[0])
    print([
      path.name for path in top.rglob('*')
      if path.suffix in data and path.stat().st_size > 10_000
    ])
    """,
    memory_mb=1024,
  )
  assert done.output == 4 * 'gone\n' + (
    "(4, 2)\n['_sobol_direction_numbers.npz']\n"
  )


def test_the_identity_names_the_image(made, engine):
  identity = engine.image('mlagent_jax/task:cpu')['Id']
  assert identity.startswith('sha256:')
  assert made.identity.endswith(f', image {identity}')


@pytest.mark.slow
def test_the_image_with_torch(folder):
  workspace = folder / 'workspace'
  workspace.mkdir()
  source = (
    'import torch, sklearn; print((torch.ones(2, 3) @ torch.ones(3)).sum())'
  )
  with DockerSandbox(image='mlagent_jax/task:torch') as made:
    done = made.run(['python', '-c', source], workspace, Limits(seconds=60))
  assert done.output == 'tensor(6.)\n'


# Owners.

HOST = """
import pathlib, sys
from mlagent_jax.environment.records import Limits
from mlagent_jax.environment.sandbox.docker import DockerSandbox
workspace = pathlib.Path(sys.argv[1]) / 'killed'
workspace.mkdir()
with DockerSandbox() as made:
  print(made._pool.label, made._pool._folder, flush=True)
  made.run(['sleep', '60'], workspace, Limits(seconds=60))
"""


def test_the_reaper_removes_what_a_killed_process_left(
  made, run, folder, engine, containers
):
  run('pass')
  mine = containers()
  host = subprocess.Popen(
    [sys.executable, '-c', HOST, folder], stdout=subprocess.PIPE, text=True
  )
  label, place = host.stdout.readline().split()
  deadline = time.monotonic() + 60
  while not engine.containers(label):
    assert time.monotonic() < deadline
    time.sleep(0.05)
  # While it lives it is left alone.
  docker_reaper.reap(engine)
  assert len(engine.containers(label)) == 1
  host.kill()
  host.wait()
  host.stdout.close()
  removed = docker_reaper.reap()
  assert pathlib.Path(place).name in removed
  assert not engine.containers(label)
  assert not os.path.exists(place)
  assert containers() == mine


def test_what_cannot_be_asked_goes_when_its_time_is_over(engine, made):
  elsewhere = docker_reaper.Owner('0123456789abcdef', 1, 1, 1)
  assert elsewhere.alive() is None

  def start(seconds):
    return engine.start(
      image='mlagent_jax/task:cpu',
      command=['sleep', '60'],
      user='65534:65534',
      labels={**elsewhere.labels(seconds), 'mlagent_jax.test': 'elsewhere'},
    )

  old, new = start(-1), start(600)
  try:
    docker_reaper.reap(engine)
    left = [one['Id'] for one in engine.containers('mlagent_jax.test')]
    assert left == [new]
  finally:
    engine.remove(new)
    engine.remove(old)


def test_a_container_ends_by_itself(folder, engine, containers):
  workspace = folder / 'workspace'
  workspace.mkdir()
  with DockerSandbox(seconds=70) as made:
    made.run(['true'], workspace, Limits(seconds=1))
    (container,) = engine.containers(made._pool.label)
    life = float(container['Command'].split()[-1])
    expires = float(container['Labels']['mlagent_jax.expires'])
    assert 0 < expires - time.time() <= life <= 200
    # One that ends before the run could is not taken.
    made._pool._idle[0].expires = time.time() + 60
    made.run(['true'], workspace, Limits(seconds=1))
    assert container['Id'] not in containers(made)


# Failures that are ours.


def test_a_container_that_somebody_ends(run, containers, engine):
  run('pass')
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    before = containers()
    failing = pool.submit(run, 'import time; time.sleep(60)')
    time.sleep(2)
    for one in containers() | before:
      engine.kill(one)
    with pytest.raises(SandboxUnavailable, match='ended by somebody else'):
      failing.result()
  # All warm ones are dead; the next run starts a new one.
  (run.workspace / 'train.py').unlink(missing_ok=True)
  assert run('print(1)').output == '1\n'


def test_no_engine(monkeypatch, tmp_path):
  monkeypatch.setenv('DOCKER_HOST', f'unix://{tmp_path}/none.sock')
  assert 'docker_engine.sh' in sandboxes.readiness('docker')
  with pytest.raises(SandboxUnavailable, match='no Docker engine'):
    sandboxes.make_sandbox('docker')


def test_an_engine_that_has_ended(monkeypatch, tmp_path):
  with socket.socket(socket.AF_UNIX) as dead:
    dead.bind(str(tmp_path / 'dead.sock'))
  monkeypatch.setenv('DOCKER_HOST', f'unix://{tmp_path}/dead.sock')
  assert 'no Docker engine' in sandboxes.readiness('docker')


@pytest.mark.skipif(not ROOT, reason='only root can be refused on purpose')
def test_no_permission(folder):
  with socket.socket(socket.AF_UNIX) as closed:
    closed.bind(str(folder / 'closed.sock'))
    (folder / 'closed.sock').chmod(0o600)
    child = os.fork()
    if child == 0:
      os.environ['DOCKER_HOST'] = f'unix://{folder}/closed.sock'
      os.setresuid(65534, 65534, 65534)
      said = sandboxes.readiness('docker')
      os._exit('group docker' not in said)
    assert os.waitpid(child, 0)[1] == 0


def test_no_image():
  assert 'build.sh' in DockerSandbox.readiness(image='mlagent_jax/task:none')
  with pytest.raises(SandboxUnavailable, match="no image 'mlagent_jax/task:no"):
    DockerSandbox(image='mlagent_jax/task:none')


def test_gpus_that_the_engine_does_not_have(run, made):
  if shutil.which('nvidia-smi'):
    pytest.skip('this machine may have some')
  with pytest.raises(SandboxUnavailable, match='gpu'):
    run('pass', gpus=1)
  assert run('print(1)').output == '1\n'

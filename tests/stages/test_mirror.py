"""Work directories at gs://: a real server of objects, processes killed."""

import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

from mlagent_jax import trajectories
from mlagent_jax.environment import blobs, cache, records
from mlagent_jax.stages import mirror
from tests import object_store

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def environment():
  with object_store.serving() as found:
    yield found


@pytest.fixture
def url(environment, monkeypatch, request):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  monkeypatch.setattr(mirror, 'PUSH_SECONDS', 3600.0)
  return f'gs://{object_store.BUCKET}/{request.node.name}'


def files_of(folder):
  """{name: content} of all that a run's files hold."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file() and not path.name.startswith('lock')
  }


def trajectory(store, number):
  idea = store.put(b'blob %d' % number)
  return records.Trajectory(
    f'number-{number}', 'task', 'agent', 0, (idea,), (), 'steps', 1.0
  )


def test_another_host_gets_the_same_files(url, tmp_path, monkeypatch):
  monkeypatch.setattr(mirror, 'CHUNK_BYTES', 1000)
  with mirror.Mirror(url, tmp_path / 'one') as one:
    store = blobs.BlobStore(one.folder / 'blobs')
    digests = [store.put(b'blob %d' % number) for number in range(30)]
    executions = cache.ExecutionCache(one.folder / 'executions')
    executions.put('a' * 64, {'score': 1}, blobs=digests[:2], store=store)
    (one.folder / 'config.json').write_text('{}')
    log = one.folder / 'metrics.jsonl'
    log.write_text('{"step": 0}\n' * 150)
    one.push()
    with log.open('a') as stream:
      stream.write('{"step": 1}\n' * 20)
    events = one.folder / 'tensorboard' / 'events.1'
    events.parent.mkdir()
    events.write_bytes(bytes(range(256)) * 9)
    (one.folder / 'rl' / 'checkpoints').mkdir(parents=True)
    (one.folder / 'rl' / 'checkpoints' / 'not-mine').write_text('x')
    (one.folder / 'rl' / 'half.json.partial').write_text('{')
    with executions.locked('b' * 64):
      one.push()
  with mirror.Mirror(url, tmp_path / 'two') as two:
    ours, theirs = files_of(one.folder), files_of(two.folder)
    for name in ('rl/checkpoints/not-mine', 'rl/half.json.partial'):
      del ours[name]
    stays = {name for name in ours if name.startswith('executions/blobs/')}
    stays.add('executions/usage')
    assert theirs == {name: ours[name] for name in ours.keys() - stays}
    # The cache is whole again where the run's blobs are.
    again = cache.ExecutionCache(two.folder / 'executions')
    store = blobs.BlobStore(two.folder / 'blobs')
    assert again.get('a' * 64, store) == {'score': 1}
    assert again.used_bytes() > 0
  copied = mirror.open_for_reading(url)
  assert str(copied) == url
  assert files_of(copied.folder) == theirs
  shutil.rmtree(copied.folder)


def test_a_line_that_is_half_written_is_not_copied(url, tmp_path):
  with mirror.Mirror(url, tmp_path / 'one') as one:
    log = one.folder / 'metrics.jsonl'
    log.write_text('{"a": 1}\n{"a":')
  with mirror.Mirror(url, tmp_path / 'two') as two:
    assert (two.folder / 'metrics.jsonl').read_text() == '{"a": 1}\n'


def test_whoever_is_overtaken_ends(url, tmp_path):
  with pytest.raises(mirror.MirrorError, match='taken over by another start'):
    with mirror.Mirror(url, tmp_path / 'one') as one:
      with mirror.Mirror(url, tmp_path / 'two'):
        pass
      (one.folder / 'late.json').write_text('1')
      one.push()
  assert 'late.json' not in mirror.Remote(url).names()


def test_the_newer_of_mirror_and_url_counts(url, tmp_path):
  with mirror.Mirror(url, tmp_path / 'one') as one:
    (one.folder / 'config.json').write_text('{"a": 1}')
  # Written when nobody could copy it: this host was the last, it is newer.
  (one.folder / 'late.json').write_text('1')
  with mirror.Mirror(url, tmp_path / 'one') as one:
    assert (one.folder / 'late.json').read_text() == '1'
  assert 'late.json' in mirror.Remote(url).names()
  with mirror.Mirror(url, tmp_path / 'two') as two:
    (two.folder / 'config.json').write_text('{"a": 2}')
  (one.folder / 'lost.json').write_text('1')
  with mirror.Mirror(url, tmp_path / 'one') as one:
    assert (one.folder / 'config.json').read_text() == '{"a": 2}'
    assert not (one.folder / 'lost.json').exists()


WRITER = """
import itertools, pathlib, sys
from mlagent_jax import trajectories
from mlagent_jax.environment import blobs
from mlagent_jax.stages import mirror
sys.path.insert(0, {root!r})
from tests.stages.test_mirror import trajectory
mirror.PUSH_SECONDS = 0.01
with mirror.Mirror({url!r}, pathlib.Path({folder!r})) as here:
  store = blobs.BlobStore(here.folder / 'blobs')
  written = trajectories.TrajectoryStore(here.folder / 'collect')
  for number in itertools.count():
    written.append(trajectory(store, number))
"""


def test_killed_while_it_copies_the_url_is_whole(url, tmp_path, environment):
  code = WRITER.format(root=str(ROOT), url=url, folder=str(tmp_path / 'one'))
  with subprocess.Popen(
    [sys.executable, '-c', code], env=os.environ | environment
  ) as writer:
    remote = mirror.Remote(url)
    deadline = time.monotonic() + 120
    while len(remote.names('blobs')) < 20:
      assert writer.poll() is None
      assert time.monotonic() < deadline
    writer.kill()
  with mirror.Mirror(url, tmp_path / 'two') as two:
    store = blobs.BlobStore(two.folder / 'blobs')
    found = list(trajectories.TrajectoryStore(two.folder / 'collect'))
    for number, each in enumerate(found):
      assert each == trajectory(store, number)
      assert store.get(each.ideas[0]) == b'blob %d' % number
  assert found


@pytest.mark.parametrize(
  'place, words',
  [
    ('ftp://host/run', ['gs://BUCKET/NAME', 'ftp://']),
    ('gs://nowhere/run', ['gs://nowhere/run', 'bucket must exist']),
  ],
)
def test_what_cannot_be_a_work_directory(url, tmp_path, place, words):
  with pytest.raises(mirror.MirrorError) as caught:
    mirror.Mirror(place, tmp_path)
  for word in words:
    assert word in str(caught.value)


def test_what_belongs_to_somebody_else_is_refused(url, tmp_path):
  mirror.Remote(url).write({'thesis.tex': b'hello'})
  with pytest.raises(mirror.MirrorError, match=r"holds 'thesis\.tex'"):
    mirror.Mirror(url, tmp_path / 'one')
  (tmp_path / 'two').mkdir()
  (tmp_path / 'two' / 'thesis.tex').write_text('hello')
  with pytest.raises(mirror.MirrorError, match='not empty and no mirror'):
    mirror.Mirror(f'{url}-2', tmp_path / 'two')
  with mirror.Mirror(f'{url}-3', tmp_path / 'three'):
    pass
  with pytest.raises(mirror.MirrorError, match='is the mirror of'):
    mirror.Mirror(f'{url}-2', tmp_path / 'three')


def test_a_missing_package_is_named():
  code = (
    'import sys; sys.modules["gcsfs"] = None\n'
    'from mlagent_jax.stages import mirror\n'
    'try: mirror.Remote("gs://bucket/run")\n'
    'except mirror.MirrorError as error: print(error)\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, timeout=120
  )
  assert "pip install 'mlagent_jax[gcs]'" in done.stdout, done.stderr

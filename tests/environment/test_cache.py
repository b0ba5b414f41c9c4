import errno
import os
import signal
import subprocess
import sys
import time

import pytest
from small_disk import small_disk

from mlagent_jax.environment import blobs
from mlagent_jax.environment.cache import CacheError, ExecutionCache

KEYS = [f'{number:064x}' for number in range(40)]


@pytest.fixture
def executions(tmp_path):
  return ExecutionCache(tmp_path / 'executions')


def remember(executions, store, number, size):
  """A record with a blob of its own; the blob's name."""
  digest = store.put(bytes([number]) * size)
  executions.put(KEYS[number], {'n': number}, blobs=[digest], store=store)
  return digest


def known(executions, store=None):
  return [n for n, key in enumerate(KEYS) if executions.get(key, store)]


def bytes_on_disk(executions):
  places = [executions.folder / name for name in ('records', 'blobs')]
  return sum(
    path.stat().st_size for place in places for path in place.glob('??/*')
  )


def test_blobs_come_with_a_record(executions, store, tmp_path):
  digest = remember(executions, store, 7, 1000)
  other = blobs.BlobStore(tmp_path / 'other')
  assert executions.get(KEYS[7]) == {'n': 7}
  assert digest not in other
  assert executions.get(KEYS[7], other) == {'n': 7}
  assert other.get(digest) == store.get(digest)
  # On one disk they are one file.
  assert other.path(digest).stat().st_ino == store.path(digest).stat().st_ino
  with pytest.raises(blobs.BlobError, match='is missing'):
    executions.put(KEYS[8], {}, blobs=['f' * 64], store=store)
  assert executions.get(KEYS[8]) is None


def test_blobs_are_copied_between_disks(store, tmp_path, monkeypatch):
  def no_link(*_, **__):
    raise OSError(errno.EXDEV, 'another disk')

  digest = store.put(b'hello')
  other = blobs.BlobStore(tmp_path / 'other')
  monkeypatch.setattr(os, 'link', no_link)
  other.adopt(digest, store)
  assert other.get(digest) == b'hello'
  assert other.path(digest).stat().st_ino != store.path(digest).stat().st_ino
  damage(store.path(digest))
  third = blobs.BlobStore(tmp_path / 'third')
  with pytest.raises(blobs.BlobError, match='is damaged'):
    third.adopt(digest, store)
  assert not list(third.sizes())


def damage(path):
  content = path.read_bytes()
  path.unlink()
  path.write_bytes(content[:-1] + b'?')


def test_what_is_damaged_is_unknown_and_made_again(executions, store, tmp_path):
  digest = remember(executions, store, 1, 100)
  kept = executions.folder / 'blobs' / digest[:2] / digest[2:]
  damage(kept)
  assert executions.get(KEYS[1], store) == {'n': 1}  # the store has it whole
  other = blobs.BlobStore(tmp_path / 'other')
  assert executions.get(KEYS[1], other) is None
  remember(executions, store, 1, 100)
  assert executions.get(KEYS[1], other) == {'n': 1}
  (record,) = executions.folder.glob('records/??/*')
  damage(record)
  assert executions.get(KEYS[1], other) is None


def test_the_least_recently_used_leave_first(tmp_path, store):
  executions = ExecutionCache(tmp_path / 'small', max_bytes=10_000)
  shared = store.put(b's' * 500)
  for number in range(7):
    own = store.put(bytes([number]) * 1000)
    executions.put(
      KEYS[number], {'n': number}, blobs=[own, shared], store=store
    )
    assert bytes_on_disk(executions) <= executions.used_bytes() <= 10_000
    time.sleep(0.002)
  assert known(executions) == list(range(7))
  assert executions.get(KEYS[0])  # used: 1 is the oldest now
  for number in range(7, 20):
    assert executions.get(KEYS[0])
    remember(executions, store, number, 1000)
    assert bytes_on_disk(executions) <= executions.used_bytes() <= 10_000
  found = known(executions)
  assert found[0] == 0
  assert found[-1] == 19
  assert 5 <= len(found) <= 10
  assert set(range(1, 7)).isdisjoint(found)
  # The store of the run still has everything; record 0 has all of its own.
  other = blobs.BlobStore(tmp_path / 'other')
  assert executions.get(KEYS[0], other)
  assert shared in other
  assert len(list(store.sizes())) == 21


def test_what_cannot_fit_is_not_kept(tmp_path, store):
  executions = ExecutionCache(tmp_path / 'small', max_bytes=10_000)
  remember(executions, store, 1, 1000)
  remember(executions, store, 2, 20_000)
  assert known(executions) == [1]
  with pytest.raises(ValueError, match='must be above 0'):
    ExecutionCache(tmp_path / 'none', max_bytes=0)


def test_making_room_removes_what_killed_writers_left(tmp_path, store):
  executions = ExecutionCache(tmp_path / 'small', max_bytes=10_000)
  orphan = blobs.BlobStore(executions.folder / 'blobs').put(b'orphan')
  for left in ('tmp/0a', 'blobs/tmp/0b', f'locks/{KEYS[30]}'):
    (executions.folder / left).write_text('x')
  (executions.folder / 'usage').write_text('0' * 19 + '9')
  with executions.locked(KEYS[31]):
    remember(executions, store, 1, 9_000)
    remember(executions, store, 2, 9_000)
    assert known(executions) == [2]
    kept = blobs.BlobStore(executions.folder / 'blobs')
    assert orphan not in kept
    assert not kept.unfinished()
    assert os.listdir(executions.folder / 'locks') == [KEYS[31]]
  assert bytes_on_disk(executions) <= executions.used_bytes() <= 10_000


def test_what_killed_processes_left_is_swept(executions, store):
  remember(executions, store, 1, 100)
  for left in ('tmp/0a', 'blobs/tmp/0b', f'locks/{KEYS[30]}'):
    (executions.folder / left).write_text('x')
  with executions.locked(KEYS[31]):
    executions.sweep()
    assert os.listdir(executions.folder / 'locks') == [KEYS[31]]
  assert not os.listdir(executions.folder / 'tmp')
  assert not os.listdir(executions.folder / 'blobs' / 'tmp')
  assert known(executions) == [1]


def test_another_folder_is_refused(executions, tmp_path):
  file = executions.folder / 'format'
  file.chmod(0o644)
  file.write_text('1\n')
  with pytest.raises(CacheError, match="format '1', this version reads '2'"):
    ExecutionCache(executions.folder)
  (tmp_path / 'thesis').mkdir()
  (tmp_path / 'thesis' / 'draft.tex').write_text('…')
  with pytest.raises(CacheError, match='is no cache.*draft.tex'):
    ExecutionCache(tmp_path / 'thesis')
  assert os.listdir(tmp_path / 'thesis') == ['draft.tex']


def test_uses_are_counted(executions):
  assert executions.hit_rate == 0
  for hit in (True, True, True, False):
    executions.note(hit=hit)
  assert executions.hit_rate == 0.75


WRITER = """
import sys
from mlagent_jax.environment import blobs, cache
name, folder, most = sys.argv[1:]
store = blobs.BlobStore(f'{folder}/store-{name}')
found = cache.ExecutionCache(f'{folder}/executions', max_bytes=int(most))
print('ready', flush=True)
for number in range(10**6):
  key = f'{number % 37:064x}'
  with found.locked(key):
    record = found.get(key, store)
    if record is None:
      digest = store.put(b'%d' % (number % 37) * 1000)
      found.put(key, {'blob': digest}, blobs=[digest], store=store)
    else:
      store.get(record['blob'])
  print(number, flush=True)
"""


def start_writer(name, folder, most):
  command = [sys.executable, '-c', WRITER, name, str(folder), str(most)]
  return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_killed_and_concurrent_processes_leave_whole_records(tmp_path):
  """Small enough that someone makes room all the time."""
  most = 30_000
  for round_number in range(3):
    writers = [start_writer(f'{i}', tmp_path, most) for i in range(3)]
    for writer in writers:
      for _ in range(60):
        assert writer.stdout.readline().strip()
    time.sleep(0.003 * round_number)
    for writer in writers:
      os.kill(writer.pid, signal.SIGKILL)
      writer.communicate()
    executions = ExecutionCache(tmp_path / 'executions', max_bytes=most)
    other = blobs.BlobStore(tmp_path / f'other-{round_number}')
    found = [executions.get(key, other) for key in KEYS]
    found = [record for record in found if record]
    assert len(found) >= 5
    for record in found:
      other.get(record['blob'])
    assert bytes_on_disk(executions) <= executions.used_bytes()
    assert bytes_on_disk(executions) <= most
    # Nobody holds a lock any more.
    for key in KEYS[:37]:
      with executions.locked(key):
        pass


ONCE = """
import sys, time
from mlagent_jax.environment import cache
found = cache.ExecutionCache(sys.argv[1])
for number in range(20):
  key = f'{number:064x}'
  with found.locked(key):
    if found.get(key) is None:
      with open(sys.argv[2], 'a') as file:
        file.write(f'{number}\\n')
      time.sleep(0.002)
      found.put(key, {'n': number})
"""


def test_processes_find_out_what_belongs_to_a_key_once(executions, tmp_path):
  log = tmp_path / 'log'
  command = [sys.executable, '-c', ONCE, str(executions.folder), str(log)]
  for process in [subprocess.Popen(command) for _ in range(3)]:
    assert process.wait(60) == 0
  lines = log.read_text().split()
  assert sorted(lines, key=int) == [str(number) for number in range(20)]


def test_a_full_disk_is_told_and_loses_nothing(tmp_path, store):
  small = store.put(b'small')
  with small_disk(tmp_path / 'disk'):
    other = blobs.BlobStore(tmp_path / 'disk' / 'store')
    executions = ExecutionCache(tmp_path / 'disk' / 'executions')
    executions.put(KEYS[0], {'n': 0}, blobs=[small], store=store)
    with pytest.raises(blobs.DiskFullError, match='Free some space'):
      for number in (1, 2):
        executions.put(KEYS[number], {'text': f'{number}' * 600_000})
    with pytest.raises(blobs.DiskFullError, match='cannot be written to'):
      other.put(bytes(600_000))
    assert not other.unfinished()
    other.put(b'little')
    assert executions.get(KEYS[0], other) == {'n': 0}
    assert executions.get(KEYS[2], other) is None
    executions.put(KEYS[3], {'n': 3})
    assert executions.get(KEYS[3]) == {'n': 3}

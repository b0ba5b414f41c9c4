import hashlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from mlagent_jax.environment import blobs, workspace

WRITER = """
import sys
from mlagent_jax.environment import blobs
store = blobs.BlobStore(sys.argv[1])
for number in range(int(sys.argv[2])):
  digest = store.put(b'%d' % number * 5000)
  print(digest, flush=True)
"""


def start_writer(folder, count):
  command = [sys.executable, '-c', WRITER, str(folder), str(count)]
  return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def blob_files(folder):
  return [
    path
    for path in pathlib.Path(folder).glob('??/*')
    if path.parent.name != 'tmp'
  ]


def test_put_and_get(store, tmp_path):
  digest = store.put(b'hello')
  assert digest == hashlib.sha256(b'hello').hexdigest()
  assert store.get(digest) == b'hello'
  assert digest in store
  assert 'f' * 64 not in store
  file = tmp_path / 'file'
  file.write_bytes(b'hello')
  assert store.put(file) == digest


def test_missing_and_damaged_blobs_are_errors(store):
  digest = store.put(b'hello')
  with pytest.raises(blobs.BlobError, match='is missing'):
    store.get('f' * 64)
  path = store.path(digest)
  path.chmod(0o644)
  path.write_bytes(b'jello')
  with pytest.raises(blobs.BlobError, match=r'damaged.*Remove it'):
    store.get(digest)
  path.write_bytes(b'hell')
  assert store.put(b'hello') == digest  # writes a damaged one anew
  assert store.get(digest) == b'hello'
  with pytest.raises(blobs.BlobError, match='not a SHA-256'):
    store.path('../../etc/passwd')


def test_a_stream_that_is_too_long_leaves_nothing(store, tmp_path):
  file = tmp_path / 'file'
  file.write_bytes(bytes(3 * 2**20))
  with file.open('rb') as stream, pytest.raises(blobs.BlobError):
    store.put_stream(stream, 2**21)
  assert not blob_files(store.folder)
  assert not list((store.folder / 'tmp').iterdir())
  digest = store.put(file)
  assert store.get(digest) == bytes(3 * 2**20)


def test_a_store_of_another_format_is_refused(store):
  file = store.folder / 'format'
  file.chmod(0o644)
  file.write_text('99\n')
  with pytest.raises(blobs.BlobError, match="format '99', this version"):
    blobs.BlobStore(store.folder)


def test_concurrent_writers_of_the_same_blobs(store):
  writers = [start_writer(store.folder, 60) for _ in range(3)]
  written = [writer.communicate()[0].split() for writer in writers]
  assert written[0] == written[1] == written[2]
  for digest in written[0]:
    store.get(digest)
  assert len(blob_files(store.folder)) == 60


def test_a_killed_writer_leaves_whole_blobs_only(store):
  for round_number in range(3):
    writer = start_writer(store.folder, 100_000)
    acknowledged = [
      writer.stdout.readline().strip() for _ in range(20 + round_number)
    ]
    time.sleep(0.003 * round_number)
    os.kill(writer.pid, signal.SIGKILL)
    acknowledged += writer.stdout.read().split('\n')[:-1]
    writer.wait()
    for digest in acknowledged:
      store.get(digest)
    for path in blob_files(store.folder):
      store.get(path.parent.name + path.name)


def test_what_killed_writers_left_is_swept(store):
  # A writer is killed with its file open; another is at work.
  code = WRITER.replace(
    'store.put(b', 'store.put_stream(__import__("sys").stdin.buffer) or (b'
  )
  with subprocess.Popen(
    [sys.executable, '-c', code, str(store.folder), '1'], stdin=subprocess.PIPE
  ) as writer:
    writer.stdin.write(bytes(2**21))
    writer.stdin.flush()
    while not any(path.stat().st_size for path in store.unfinished()):
      time.sleep(0.01)
    writer.kill()
  (left,) = store.unfinished()
  assert store.sweep(seconds=60) == []
  assert store.sweep(seconds=0) == [left]
  assert store.unfinished() == []


def test_trees_that_lead_outside_are_refused(store):
  for path in ('../x', '/x', 'a/../../x', 'a//b', './x'):
    tree = store.put(f'[["{path}","file",420,"{"0" * 64}"]]'.encode())
    with pytest.raises(blobs.BlobError, match='holds the path'):
      workspace.read_tree(tree, store)
  with pytest.raises(blobs.BlobError, match='is not a tree'):
    workspace.read_tree(store.put(b'[1]'), store)

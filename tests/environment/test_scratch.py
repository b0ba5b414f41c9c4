import os
import signal
import subprocess
import sys
import tempfile

import pytest

from mlagent_jax.environment import scratch

OWNER = """
import pathlib, sys
from mlagent_jax.environment import scratch
with scratch.make_folder('run', pathlib.Path(sys.argv[1])) as folder:
  (folder / 'deep' / 'er').mkdir(parents=True)
  (folder / 'deep' / 'closed').mkdir(mode=0)
  (folder / 'link').symlink_to('/')
  print(folder, flush=True)
  sys.stdin.read()
"""


@pytest.fixture
def left(tmp_path):
  """A folder whose process was killed."""
  owner = subprocess.Popen(
    [sys.executable, '-c', OWNER, tmp_path],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  folder = owner.stdout.readline().strip()
  assert scratch.reap(tmp_path) == []
  os.kill(owner.pid, signal.SIGKILL)
  owner.communicate()
  return folder


def test_a_folder_is_gone_afterwards(tmp_path):
  (tmp_path / 'kept').write_text('x')
  with scratch.make_folder('store') as folder:
    assert folder.parent.samefile(tempfile.gettempdir())
    (folder / 'a' / 'b').mkdir(parents=True)
    (folder / 'a' / 'out').symlink_to(tmp_path)
    (folder / 'a' / 'b').chmod(0)
    (folder / 'a').chmod(0)
  assert not folder.exists()
  assert (tmp_path / 'kept').read_text() == 'x'


def test_what_killed_processes_left_is_removed(left, tmp_path, monkeypatch):
  others = tmp_path / 'mlagent_jax-runs'
  others.mkdir()
  assert scratch.reap(tmp_path) == []  # it may be somebody's in a moment
  monkeypatch.setattr(scratch, '_FRESH_SECONDS', -1)
  with scratch.make_folder('run', tmp_path) as used:
    assert scratch.reap(tmp_path) == [left]
    assert used.is_dir()
  assert os.listdir(tmp_path) == ['mlagent_jax-runs']
  assert scratch.reap(tmp_path) == []


def test_links_are_left_alone(tmp_path, monkeypatch):
  monkeypatch.setattr(scratch, '_FRESH_SECONDS', -1)
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mlagent_jax-run-link').symlink_to(tmp_path / 'mine')
  assert scratch.reap(tmp_path) == []
  assert (tmp_path / 'mine').is_dir()

"""Parts of the sandboxes that can be looked at alone."""

import os
import pathlib
import struct
import subprocess
import sys
import time

import pytest

from mlagent_jax.environment.records import Limits, StoppedBy
from mlagent_jax.environment.sandbox import (
  cgroups,
  cores,
  folder,
  interpreter,
  seccomp,
  warden,
  watches,
)
from mlagent_jax.environment.sandbox.output import Output, plain_text


def _output(limit, *chunks):
  output = Output(limit)
  for chunk in chunks:
    output.add(chunk)
  return output


def test_output_below_its_limit_is_whole():
  raw = bytes(range(97, 123)) * 10
  for size in (1, 7, 100, 1000):
    chunks = [raw[i : i + size] for i in range(0, len(raw), size)]
    assert _output(260, *chunks).text() == raw.decode()


@pytest.mark.parametrize('size', [1, 13, 999, 100_000])
def test_output_keeps_its_ends(size):
  raw = b'A' * 3000 + b'-' * 100_000 + b'Z' * 3000
  chunks = [raw[i : i + size] for i in range(0, len(raw), size)]
  output = _output(2048, *chunks)
  text = output.text()
  assert output.total == len(raw)
  assert len(text.encode()) <= 2048
  assert text.startswith(900 * 'A')
  assert text.endswith(900 * 'Z')
  assert '-' not in text
  cut = int(text.split('[… ')[1].split(' bytes')[0])
  kept = text.count('A') + text.count('Z')
  assert cut + kept == len(raw)


def test_output_counts_what_it_becomes():
  # Each byte becomes a replacement character of three.
  text = _output(3000, b'\xff' * 3000).text()
  assert len(text.encode()) <= 3000
  assert '\ufffd' in text


def test_output_memory_is_bounded():
  output = Output(1 << 16)
  for _ in range(200):
    output.add(b'x' * (1 << 16))
  held = len(output._head) + len(output._tail)
  assert held <= 3 << 16


@pytest.mark.parametrize(
  'raw, text',
  [
    (b'\x1b[1;31mred\x1b[0m', 'red'),
    (b'\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\', 'link'),
    (b'\x1b]0;title\x07after', 'after'),
    (b'\x1bPdevice\x1b\\after', 'after'),
    ('\x9b31mred'.encode(), 'red'),
    (b'a\x1b(Bb\x1b=c\x1b', 'abc'),
    (b'\x1b]unfinished\nnext line', '\nnext line'),
    (b'10%\r20%\r\n', '10%\n20%\n'),
    (b'a\x00\x08\x7fb\tc', 'ab\tc'),
  ],
)
def test_plain_text(raw, text):
  assert plain_text(raw) == text


def test_plain_text_is_linear():
  started = time.monotonic()
  for piece in (b'\x1b[', b'\x1b]', b'\x1b[0', b'\x1b'):
    plain_text(piece * (1 << 18))
  assert time.monotonic() - started < 5


def test_interpreter_folders_hold_the_interpreter():
  folders = interpreter.folders()
  for needed in (sys.prefix, sys.base_prefix, os.path.realpath(sys.executable)):
    assert any(pathlib.Path(needed).is_relative_to(f) for f in folders)
  assert not any(
    a != b and a.is_relative_to(b) for a in folders for b in folders
  )
  assert interpreter.missing() == ''


def test_interpreter_in_a_home_folder_is_refused(monkeypatch):
  home = pathlib.Path(sys.prefix) / 'people' / 'me'
  monkeypatch.setattr(pathlib.Path, 'home', lambda: home)
  interpreter.missing.cache_clear()
  try:
    assert 'virtual environment of its own' in interpreter.missing()
  finally:
    interpreter.missing.cache_clear()


def test_command_line():
  assert interpreter.command_line(('python', 'x.py')) == (
    sys.executable,
    'x.py',
  )
  with pytest.raises(ValueError, match='empty'):
    interpreter.command_line(())


def test_thread_counts_follow_the_cpus():
  variables = interpreter.environment(Limits(cpus=1.5), home='/h', scratch='/t')
  assert variables['OMP_NUM_THREADS'] == '2'
  assert (variables['HOME'], variables['TMPDIR']) == ('/h', '/t')


def test_seccomp_programs_are_well_formed():
  for machine in ('x86_64', 'aarch64'):
    program = seccomp.program(machine)
    lines = list(struct.iter_unpack('<HBBI', program))
    assert 50 < len(lines) < 4096
    for index, (code, true, false, value) in enumerate(lines):
      if code & 0x07 == 0x05:  # a jump ends inside of the program
        assert index + 1 + max(true, false) < len(lines)
      elif code == 0x06:
        assert value & 0xFFFF0000 in (0x7FFF0000, 0x80000000, 0x00050000)
    assert lines[-1] == (0x06, 0, 0, 0x7FFF0000)
  assert seccomp.program('vax') == b''


def test_usage_counts_and_stops(tmp_path):
  (tmp_path / 'a').write_bytes(bytes(100_000))
  os.link(tmp_path / 'a', tmp_path / 'b')
  (tmp_path / 'sparse').touch()
  os.truncate(tmp_path / 'sparse', 1 << 30)
  total = folder.usage(tmp_path, 2 << 30)
  assert (1 << 30) + 200_000 <= total < (1 << 30) + 300_000
  assert folder.usage(tmp_path, 1000) > 1000


def test_usage_of_a_folder_that_changes(tmp_path):
  script = """
import os, sys
os.chdir(sys.argv[1])
while True:
  for i in range(20):
    os.makedirs(f'{i}/x/y', exist_ok=True)
    open(f'{i}/x/y/file', 'w').write('x')
  for i in range(20):
    os.unlink(f'{i}/x/y/file')
    os.removedirs(f'{i}/x/y')
    os.symlink('/', str(i))
    os.unlink(str(i))
"""
  writer = subprocess.Popen([sys.executable, '-c', script, tmp_path])
  try:
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
      assert folder.usage(tmp_path, 1 << 30) < 1 << 20
  finally:
    writer.kill()
    writer.wait()


def test_remove_any_depth(tmp_path):
  here = os.open(tmp_path, os.O_RDONLY)
  os.mkdir('deep', dir_fd=here)
  inner = os.open('deep', os.O_RDONLY, dir_fd=here)
  for _ in range(600):
    os.mkdir('d', dir_fd=inner)
    os.close(os.open('file', os.O_CREAT | os.O_WRONLY, dir_fd=inner))
    below = os.open('d', os.O_RDONLY, dir_fd=inner)
    os.close(inner)
    inner = below
  os.close(inner)
  os.close(here)
  folder.remove(tmp_path, 'deep')
  folder.remove(tmp_path, 'deep')
  assert os.listdir(tmp_path) == []


def test_hand_over_breaks_hard_links(tmp_path):
  stored = tmp_path / 'stored'
  stored.write_text('kept')
  stored.chmod(0o555)
  workspace = tmp_path / 'workspace'
  workspace.mkdir()
  os.link(stored, workspace / 'copy')
  folder.hand_over(workspace, None)
  assert stored.stat().st_nlink == 1
  copy = (workspace / 'copy').stat()
  assert copy.st_mode & 0o777 == 0o555
  assert copy.st_mtime_ns == stored.stat().st_mtime_ns
  assert (workspace / 'copy').read_text() == 'kept'
  assert os.listdir(workspace) == ['copy']


def test_descendants_and_their_counts():
  source = """
import subprocess, sys, threading, time
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
kept = bytearray(b'x') * (30 << 20)
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
print('ready', flush=True)
child.wait()
"""
  parent = subprocess.Popen(
    [sys.executable, '-c', source], stdout=subprocess.PIPE
  )
  try:
    parent.stdout.readline()
    below = warden.descendants(parent.pid)
    assert len(below) == 1
    assert parent.pid in warden.descendants(os.getpid())

    def members():
      return [parent.pid, *below]

    def verdict(**limits):
      stop = watches.memory_watch(members, Limits(**limits))()
      return stop and stop.by

    assert verdict(memory_mb=500, processes=64) is None
    assert verdict(memory_mb=20, processes=64) is StoppedBy.MEMORY
    stop = watches.memory_watch(members, Limits(processes=2))()
    assert 'more than 2 processes' in stop.note
    assert watches.start_time(parent.pid) > 0
  finally:
    for process in [*warden.descendants(parent.pid), parent.pid]:
      os.kill(process, 9)
    parent.wait()
    parent.stdout.close()
  assert warden.descendants(parent.pid) == []
  assert watches.start_time(parent.pid) == 0


def test_watches_cost_little():
  watch = watches.Watch(lambda: time.sleep(0.01), 0.02)
  watch()
  assert watch.due - time.monotonic() > 0.15


def test_cores_are_shared_out():
  mine = os.sched_getaffinity(0)
  with cores.borrow(1) as one:
    assert len(one) == 1
    with cores.borrow(1) as another:
      assert len(mine) == 1 or one != another
  with cores.borrow(1000) as every:
    assert every == mine


def test_version_2_trees_are_understood(tmp_path, monkeypatch):
  # What a user session of systemd looks like: the nearest ancestor that
  # hands memory and pids to its children.
  top = tmp_path / 'cgroup'
  own = top / 'user.slice' / 'user@1000.service' / 'app.slice' / 'shell.scope'
  own.mkdir(parents=True)
  for path in (own, *own.parents[:4]):
    (path / 'cgroup.controllers').write_text('cpu memory pids')
    handed_down = '' if path == own else 'memory pids'
    (path / 'cgroup.subtree_control').write_text(handed_down)
  monkeypatch.setattr(cgroups, '_mounts', lambda: {'': (top, '/')})
  text = f'0::/{own.relative_to(top)}\n'
  real = pathlib.Path.read_text

  def read_text(path, *args):
    return text if str(path) == '/proc/self/cgroup' else real(path, *args)

  monkeypatch.setattr(pathlib.Path, 'read_text', read_text)
  monkeypatch.setattr(os, 'access', lambda path, mode: False)
  places = cgroups._candidates()
  assert [place.parents['memory'] for place in places] == [
    own.parents[0],
    own.parents[1],
    own.parents[2],
    own.parents[3],
  ]
  assert all(place.version == 2 for place in places)

"""The soak in miniature, as `make soak` runs it: stopped, and gone on with."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
pytestmark = [
  pytest.mark.docker,
  pytest.mark.slow,
  pytest.mark.timeout(1200),
]


def soak(folder, *options):
  return subprocess.run(
    [
      *(sys.executable, ROOT / 'benchmarks' / 'soak' / 'soak.py'),
      *('--out', folder, '--tasks', 'ames', 'cells', '--workers', '2'),
      *('--fault_seconds', '8', *options),
    ],
    capture_output=True,
    text=True,
    timeout=1000,
  )


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can start an engine')
def test_a_soak_goes_on_where_it_stopped_and_finds_nothing(tmp_path):
  first = soak(tmp_path / 'soak', '--steps', '40', '--minutes', '0.2')
  assert first.returncode == 3, first.stderr[-2000:]
  begun = json.loads(first.stdout.splitlines()[-1])
  assert 0 < begun['steps'] < 40
  page = tmp_path / 'page.md'
  page.write_text('a\n<!-- soak: begin -->\n<!-- soak: end -->\nz\n')
  second = soak(tmp_path / 'soak', '--steps', '40', '--docs', page)
  assert second.returncode == 0, second.stdout + second.stderr[-2000:]
  found = json.loads(second.stdout.splitlines()[-1])
  assert found['steps'] == 40
  assert found['checked_again'] > 5
  assert found['different'] == found['unexpected'] == []
  assert sum(found['left_behind'].values()) == 0
  assert '| steps | 40 of 40, on 2 tasks' in page.read_text()

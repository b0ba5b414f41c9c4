"""Sandboxes under test, one after the other. A new kind joins in `KINDS`."""

import dataclasses
import os
import pathlib
import shutil
import tempfile
import textwrap

import pytest

from mlagent_jax.environment import sandbox as sandboxes
from mlagent_jax.environment.records import Limits

KINDS = [
  pytest.param('process', id='process'),
  pytest.param('process_preload', id='process_preload'),
  pytest.param('bubblewrap', id='bubblewrap', marks=pytest.mark.bwrap),
  pytest.param(
    'bubblewrap_preload', id='bubblewrap_preload', marks=pytest.mark.bwrap
  ),
  pytest.param('docker', id='docker', marks=pytest.mark.docker),
]
# Small enough to be reached soon, large enough for an interpreter.
LIMITS = Limits(
  seconds=20,
  memory_mb=192,
  processes=24,
  file_mb=8,
  workspace_mb=24,
  output_kb=16,
)


@dataclasses.dataclass
class Runner:
  """Runs sources in one sandbox and one workspace."""

  sandbox: sandboxes.Sandbox
  workspace: pathlib.Path
  data: pathlib.Path

  def __call__(self, source, *arguments, with_data=False, **limits):
    (self.workspace / 'train.py').write_text(textwrap.dedent(source))
    return self.sandbox.run(
      ['python', 'train.py', *map(str, arguments)],
      self.workspace,
      dataclasses.replace(LIMITS, **limits),
      data=self.data if with_data else None,
    )


@pytest.fixture(scope='module', params=KINDS)
def sandbox(request):
  kind, _, preload = request.param.partition('_')
  modules = ['numpy', 'sqlite3'] if preload else []
  with sandboxes.make_sandbox(kind, preload=modules) as made:
    yield made


@pytest.fixture(scope='module')
def bubblewrap():
  with sandboxes.make_sandbox('bubblewrap') as made:
    yield made


@pytest.fixture(scope='module')
def process():
  with sandboxes.make_sandbox('process') as made:
    yield made


@pytest.fixture
def folder():
  """A folder that other users can reach (pytest's own is closed to them)."""
  path = pathlib.Path(tempfile.mkdtemp(prefix='mlagent_jax-test-'))
  path.chmod(0o755)
  yield path
  shutil.rmtree(path)


@pytest.fixture
def make_runner(folder):
  def make(made):
    workspace = folder / 'workspace'
    workspace.mkdir()
    data = folder / 'data'
    data.mkdir()
    (data / 'train.csv').write_text('id,x\n1,2\n')
    return Runner(made, workspace, data)

  return make


@pytest.fixture
def run(sandbox, make_runner):
  return make_runner(sandbox)


@pytest.fixture
def alive():
  """Ids of the processes on this machine with a mark in their command."""

  def find(mark):
    found = []
    for name in filter(str.isdigit, os.listdir('/proc')):
      try:
        words = pathlib.Path(f'/proc/{name}/cmdline').read_bytes()
      except (FileNotFoundError, ProcessLookupError):
        continue
      if mark.encode() in words and int(name) != os.getpid():
        found.append(int(name))
    return found

  return find

"""Two tasks small enough to play whole episodes of in a test."""

import pathlib
import sys

import pytest

# The straight line is the environment tests' task, the server exploration's.
for room in ('environment', 'exploration'):
  sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / room))

from line_task import write_task  # noqa: E402

from mlagent_jax.environment import sandbox  # noqa: E402


@pytest.fixture(scope='session')
def suite(tmp_path_factory):
  """A folder with the tasks 'line' and 'slope'."""
  folder = tmp_path_factory.mktemp('suite')
  for name in ('line', 'slope'):
    write_task(folder, name=name)
  return folder


@pytest.fixture
def cache_home(tmp_path_factory, monkeypatch):
  folder = tmp_path_factory.getbasetemp() / 'evaluation_cache'
  monkeypatch.setenv('MLAGENT_CACHE', str(folder))
  return folder


@pytest.fixture(scope='session')
def process_sandbox():
  with sandbox.make_sandbox('process') as box:
    yield box

"""A task small enough to run in a tenth of a second, and a real sandbox."""

import pytest
from line_task import write_task

from mlagent_jax.environment import prepared, sandbox, task_folder
from mlagent_jax.environment.blobs import BlobStore


@pytest.fixture
def cache_home(tmp_path, monkeypatch):
  """A cache folder of the test's own."""
  monkeypatch.setenv('MLAGENT_CACHE', str(tmp_path / 'cache'))
  return tmp_path / 'cache'


@pytest.fixture
def line_folder(tmp_path, cache_home):
  return write_task(tmp_path / 'tasks')


@pytest.fixture
def line_task(line_folder):
  """The task `line`, prepared: the starter's MAE is the mean of x."""
  task = task_folder.load_task(line_folder)
  prepared.prepare_task(task)
  return task


@pytest.fixture
def store(tmp_path):
  return BlobStore(tmp_path / 'blobs')


@pytest.fixture(scope='session')
def process_sandbox():
  with sandbox.make_sandbox('process') as box:
    yield box

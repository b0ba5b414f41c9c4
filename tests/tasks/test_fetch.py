"""Archives: pinned, atomic, from the ordinary clients, errors that say why."""

import hashlib
import subprocess
import sys

import pytest

from mlagent_jax.environment import fetch


@pytest.fixture
def index(tmp_path, monkeypatch):
  """A folder of packages that pip takes for its only index."""
  monkeypatch.setenv('MLAGENT_CACHE', str(tmp_path / 'cache'))
  folder = tmp_path / 'index'
  folder.mkdir()
  monkeypatch.setenv('PIP_NO_INDEX', '1')
  monkeypatch.setenv('PIP_FIND_LINKS', str(folder))
  monkeypatch.setenv('PIP_CONFIG_FILE', '/dev/null')
  return folder


def make_wheel(folder):
  """A wheel of nothing but its metadata; returns its SHA-256."""
  import zipfile

  info = 'nothing-1.0.dist-info'
  path = folder / 'nothing-1.0-py3-none-any.whl'
  with zipfile.ZipFile(path, 'w') as wheel:
    wheel.writestr(
      f'{info}/METADATA', 'Metadata-Version: 2.1\nName: nothing\nVersion: 1.0\n'
    )
    wheel.writestr(
      f'{info}/WHEEL',
      'Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\n'
      'Tag: py3-none-any\n',
    )
    wheel.writestr(f'{info}/RECORD', '')
  return hashlib.sha256(path.read_bytes()).hexdigest()


def test_wheel_is_downloaded_once(index):
  digest = make_wheel(index)
  path = fetch.pypi('nothing', '1.0', sha256=digest)
  assert fetch.sha256_of(path) == digest
  (index / 'nothing-1.0-py3-none-any.whl').unlink()
  assert fetch.pypi('nothing', '1.0', sha256=digest) == path
  # Never installed where a script could import it.
  probe = subprocess.run(
    [sys.executable, '-c', 'import nothing'], check=False, capture_output=True
  )
  assert probe.returncode == 1


def test_another_archive_than_the_pinned_one_is_refused(index, tmp_path):
  make_wheel(index)
  with pytest.raises(fetch.FetchError, match='pinned is 00'):
    fetch.pypi('nothing', '1.0', sha256='00' * 32)
  assert not list((tmp_path / 'cache').rglob('*.whl'))


def test_damaged_archive_is_downloaded_again(index):
  digest = make_wheel(index)
  path = fetch.pypi('nothing', '1.0', sha256=digest)
  path.write_bytes(b'half of it')
  assert fetch.sha256_of(fetch.pypi('nothing', '1.0', sha256=digest)) == digest


def test_what_the_client_said_is_in_the_error(index):
  with pytest.raises(fetch.FetchError, match='(?s)registry reachable.*nothing'):
    fetch.pypi('nothing', '2.0', sha256='00' * 32)


def test_missing_client_is_named(index, monkeypatch):
  monkeypatch.setenv('PATH', '/nowhere')
  with pytest.raises(fetch.FetchError, match='npm is needed'):
    fetch.npm('nothing', '1.0', sha256='00' * 32)

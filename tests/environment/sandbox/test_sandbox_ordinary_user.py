"""The same suites for a host that is not root: what most users are."""

import os
import pathlib
import subprocess
import sys
import tempfile

import pytest

from mlagent_jax.environment.sandbox import interpreter

HERE = pathlib.Path(__file__).parent
REPOSITORY = HERE.parents[2]
NOBODY = 65534


def _as_nobody(home, groups):
  """A command prefix: nobody, in a view where it reaches the interpreter.

  Folders closed to everybody but root are replaced by ones that hold nothing
  but the repository and the interpreter.
  """
  command = ['bwrap', '--dev-bind', '/', '/']
  paths = [REPOSITORY, *interpreter.folders()]
  covers = {}
  for path in paths:
    for parent in reversed(path.parents):
      if not parent.stat().st_mode & 0o001:
        covers.setdefault(parent, []).append(path)
        break
  for cover, inner in covers.items():
    command += ['--tmpfs', str(cover), '--chmod', '0755', str(cover)]
    for path in inner:
      for parent in reversed(path.parents):
        if parent != cover and parent.is_relative_to(cover):
          command += ['--perms', '0755', '--dir', str(parent)]
      command += ['--ro-bind', str(path), str(path)]
  ids = [f'--reuid={NOBODY}', f'--regid={NOBODY}', groups]
  command += ['setpriv', *ids, '--inh-caps=-all']
  environment = {
    'HOME': home,
    'TMPDIR': home,
    'PATH': '/usr/bin:/bin',
    'PYTHONDONTWRITEBYTECODE': '1',
  }
  return command, environment


@pytest.mark.bwrap
@pytest.mark.parametrize(
  'file, choice',
  [
    ('test_sandbox_hostile.py', ''),
    (
      'test_sandbox_conformance.py',
      'memory or number or disk or rights or whatever',
    ),
  ],
)
def test_suite_of_an_ordinary_user(file, choice):
  _play(file, choice, '--clear-groups')


@pytest.mark.bwrap
@pytest.mark.docker
@pytest.mark.parametrize(
  'file, choice',
  [
    (
      'test_sandbox_conformance.py',
      'docker and (exit_code or disk or rights or whatever or data)',
    ),
    ('test_docker.py', 'passes or not_clean or isolation or reaper'),
  ],
)
def test_containers_of_an_ordinary_user(file, choice):
  socket = os.stat('/var/run/docker.sock')
  _play(file, choice, f'--groups={socket.st_gid}', MLAGENT_REQUIRE='docker')


def _play(file, choice, groups, **variables):
  if os.geteuid() != 0:
    pytest.skip('the whole suite runs as an ordinary user already')
  with tempfile.TemporaryDirectory(prefix='mlagent_jax-nobody-') as home:
    os.chown(home, NOBODY, NOBODY)
    command, environment = _as_nobody(home, groups)
    done = subprocess.run(
      [
        *(*command, sys.executable, '-m', 'pytest', '-q', '-p', 'no:xdist'),
        *('-p', 'no:cacheprovider', '--basetemp', f'{home}/pytest'),
        *('-k', choice, str(HERE / file)),
      ],
      cwd=REPOSITORY,
      env=environment | variables,
      capture_output=True,
      text=True,
      timeout=280,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert ' passed' in done.stdout

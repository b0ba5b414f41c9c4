"""A host with secrets for each sandbox, and the table of docs/security.md.

  python -m pytest tests/attacks --attack-table docs/security.md

writes what every attack came to, in every sandbox, between two marks of that
file.
"""

import pathlib
import secrets
import shutil
import tempfile

import pytest
from listeners import Listeners
from world import World

from mlagent_jax.environment import sandbox as sandboxes

pytest.register_assert_rewrite('playing')

_BEGIN, _END = '<!-- attacks: begin -->', '<!-- attacks: end -->'
SANDBOXES = ('docker', 'bubblewrap', 'bubblewrap, preload')


def pytest_addoption(parser):
  parser.addoption(
    '--attack-table', help='a Markdown file to write the table of attacks into'
  )


@pytest.fixture(scope='module')
def world(request):
  """The module's sandbox, and a host with much to lose."""
  canary = f'canary-{secrets.token_hex(16)}'
  # Not below pytest's own folder, which is closed to others.
  folder = pathlib.Path(tempfile.mkdtemp(prefix='mlagent_jax-test-'))
  evil = folder / 'evil'
  evil.mkdir()
  for name in ('sitecustomize.py', 'startup.py'):
    (evil / name).write_text('print("BREACH: a file of the host was run")\n')
  with (
    pytest.MonkeyPatch.context() as patch,
    Listeners(folder / 'engine.sock', f'mlagent_jax-{canary[7:]}') as listeners,
  ):
    patch.setenv('MLAGENT_CACHE', str(folder / 'cache'))
    patch.setenv('MLAGENT_TEST_SECRET', canary)
    patch.setenv('AWS_SECRET_ACCESS_KEY', canary)
    patch.setenv('PYTHONPATH', str(evil))
    patch.setenv('PYTHONSTARTUP', str(evil / 'startup.py'))
    preload = getattr(request.module, 'PRELOAD', ())
    with sandboxes.make_sandbox(
      request.module.SANDBOX, preload=preload
    ) as sandbox:
      label = sandbox.kind + (', preload' if preload else '')
      world = World(folder, sandbox, listeners, canary, label)
      assert world.play_honestly() == 0.5  # and connections are open now
      yield world
  shutil.rmtree(folder)


class _Table:
  """Collects what the tests recorded, also those of other processes."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._rows = {}

  def pytest_runtest_logreport(self, report):
    said = dict(report.user_properties)
    if report.when != 'call' or 'attack' not in said:
      return
    row = self._rows.setdefault(tuple(said['attack']), {})
    verdict = said.get('outcome', 'no outcome')
    row[said['sandbox']] = (
      verdict if report.passed else f'**failed**: {verdict}'
    )

  def pytest_sessionfinish(self):
    text = self._path.read_text()
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    if not after:
      raise pytest.UsageError(f'{self._path} has no marks {_BEGIN}, {_END}')
    table = '\n'.join(self._lines())
    self._path.write_text(f'{before}{_BEGIN}\n{table}\n{_END}{after}')

  def _lines(self):
    kinds = [
      k for k in SANDBOXES if any(k in row for row in self._rows.values())
    ]
    good = sum(
      not verdict.startswith('**failed**')
      for row in self._rows.values()
      for verdict in row.values()
    )
    total = sum(map(len, self._rows.values()))
    yield f'{len(self._rows)} attacks, {total} runs, {good} contained.'
    category = ''
    for (name, group, tries, expected), row in self._rows.items():
      if group != category:
        category = group
        yield f'\n### {category[0].upper()}{category[1:]}\n'
        yield f'| attack | what it tries | expected | {" | ".join(kinds)} |'
        yield '|---' * (3 + len(kinds)) + '|'
      cells = [row.get(kind, '') for kind in kinds]
      yield '| ' + ' | '.join([name, tries, expected, *cells]) + ' |'


def pytest_configure(config):
  path = config.getoption('--attack-table')
  if path and not hasattr(config, 'workerinput'):
    config.pluginmanager.register(_Table(pathlib.Path(path)))

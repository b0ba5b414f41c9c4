"""The floors and the two wings of the design, read from the imports."""

import ast
import pathlib
import subprocess
import sys

import mlagent_jax

PACKAGE = pathlib.Path(mlagent_jax.__file__).parent

# The longest matching prefix counts.
FLOORS = {
  '': 5,
  'stages': 4,
  'serving': 4,
  'aot': 4,
  'rollout': 3,
  'batching': 3,
  'packed_groups': 3,
  'sampling': 2,
  'train_state': 2,
  'checkpoint': 2,
  'replicas': 2,
  'exploration': 2,
  'trajectories': 2,
  'state_pool': 2,
  'dispatch': 2,
  'environment.episode': 2,
  'environment.workers': 2,
  'model': 1,
  'losses': 1,
  'advantages': 1,
  'optim': 1,
  'environment': 1,
  'agent': 1,
  'reward': 1,
  'environment.records': 0,
  'environment.sandbox.config': 0,
  'model.config': 0,
  'paths': 0,
}
DEVICE = [
  'model',
  'losses',
  'advantages',
  'optim',
  'train_state',
  'checkpoint',
  'replicas',
  'sampling',
]
HOST = [
  'environment',
  'agent',
  'exploration',
  'reward',
  'trajectories',
  'dispatch',
  'paths',
]
DEVICE_LIBRARIES = {'jax', 'flax', 'optax', 'orbax', 'jaxlib'}


def rooms():
  """Module name below mlagent_jax ('' for the package) -> its file."""
  found = {}
  for file in sorted(PACKAGE.rglob('*.py')):
    parts = file.relative_to(PACKAGE).with_suffix('').parts
    if '_top' in parts:
      continue
    if parts[-1] == '__init__':
      parts = parts[:-1]
    found['.'.join(parts)] = file
  return found


def imports(name, file, modules):
  """(our modules, other packages, those of them that are not lazy)."""
  ours, others, eager = set(), set(), set()
  tree = ast.parse(file.read_text())
  top_level = {id(node) for node in tree.body}
  package = name if file.name == '__init__.py' else name.rpartition('.')[0]
  for node in ast.walk(tree):
    targets = []
    if isinstance(node, ast.Import):
      targets = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ''
      if node.level:
        up = package.split('.')[: len(package.split('.')) - node.level + 1]
        base = '.'.join(['mlagent_jax', *filter(None, up), base]).strip('.')
      # `from a import b` may import the module a.b or a name of a.
      for alias in node.names:
        full = f'{base}.{alias.name}'
        known = full.removeprefix('mlagent_jax.') in modules
        targets.append(full if known else base)
    for target in targets:
      if target.split('.')[0] == 'mlagent_jax':
        ours.add(target.removeprefix('mlagent_jax').lstrip('.'))
      else:
        others.add(target.split('.')[0])
        if id(node) in top_level:
          eager.add(target.split('.')[0])
  ours.discard('')
  return ours, others, eager


def longest(name, table):
  while name and name not in table:
    name = name.rpartition('.')[0]
  return name


def floor(name):
  return FLOORS[longest(name, FLOORS)]


MODULES = rooms()
GRAPH = {name: imports(name, file, MODULES) for name, file in MODULES.items()}


def test_the_walk_sees_the_house():
  assert len(MODULES) > 30
  assert 'environment.records' in GRAPH['reward'][0]
  assert 'jax' in GRAPH['losses'][1]


def test_no_module_imports_from_a_floor_above():
  climbs = [
    f'{name} (floor {floor(name)}) imports {other} (floor {floor(other)})'
    for name, (ours, _, _) in GRAPH.items()
    for other in ours
    if floor(other) > floor(name)
  ]
  assert not climbs


def test_no_circles():
  done, path = set(), []

  def visit(name):
    assert name not in path, ' -> '.join([*path, name])
    if name in done:
      return
    path.append(name)
    for other in sorted(GRAPH[name][0]):
      if other in GRAPH:
        visit(other)
    path.pop()
    done.add(name)

  for name in GRAPH:
    visit(name)


def test_the_wings_do_not_meet():
  crossings = []
  for name, (ours, others, _) in GRAPH.items():
    room = name.split('.')[0]
    if room in HOST:
      crossings += [f'{name} imports {o}' for o in others & DEVICE_LIBRARIES]
      crossings += [
        f'{name} imports {o}' for o in ours if o.split('.')[0] in DEVICE
      ]
    if room in DEVICE:
      crossings += [
        f'{name} imports {o}' for o in ours if o.split('.')[0] in HOST
      ]
  assert not crossings


def test_transformers_is_imported_lazily():
  eager = [name for name, (_, _, top) in GRAPH.items() if 'transformers' in top]
  assert not eager


def test_config_dicts_stop_at_the_stages():
  users = [
    name
    for name, (_, others, _) in GRAPH.items()
    if 'ml_collections' in others and floor(name) < 4
  ]
  assert not users


def test_workers_hold_no_accelerator():
  code = (
    'import sys, mlagent_jax.environment.workers.local\n'
    'import mlagent_jax.environment.episode, mlagent_jax.state_pool\n'
    'bad = {"jax", "jaxlib", "transformers", "torch"} & set(sys.modules)\n'
    'assert not bad, bad\n'
  )
  subprocess.run([sys.executable, '-c', code], check=True, timeout=60)

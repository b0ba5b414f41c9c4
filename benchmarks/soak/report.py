"""What a soak found: counts, what was left behind, the table of the docs."""

import collections
import datetime
import json
import os
import pathlib
import platform

from benchmarks.soak import verify, walks
from benchmarks.soak.own_engine import OwnEngine
from mlagent_jax.environment.blobs import BlobStore
from mlagent_jax.environment.cache import ExecutionCache
from mlagent_jax.environment.sandbox import warden

_BEGIN, _END = '<!-- soak: begin -->', '<!-- soak: end -->'


def look(temporary: pathlib.Path) -> dict[str, list[str]]:
  """What must be the same before and after."""
  return {
    'processes': [str(p) for p in warden.descendants(os.getpid())],
    'descriptors': _descriptors(),
    'mounts': sorted(
      line.split()[4]
      for line in pathlib.Path('/proc/self/mountinfo').read_text().splitlines()
    ),
    'temporary folders': sorted(os.listdir(temporary)),
  }


def compare(before: dict, after: dict) -> dict[str, list[str]]:
  """What is there now and was not before, by kind."""
  return {
    name: list(collections.Counter(found) - collections.Counter(before[name]))
    for name, found in after.items()
  }


def note_disk(folder: pathlib.Path, engine: OwnEngine) -> None:
  """Remembers what the engine's folder takes before the first container."""
  (folder / 'engine_bytes').write_text(str(_size(engine.data)))


def left_behind(folder: pathlib.Path, engine: OwnEngine) -> dict:
  """Containers, and bytes that nothing refers to."""
  store = BlobStore(folder / 'blobs')
  executions = ExecutionCache(folder / 'executions')
  before = int((folder / 'engine_bytes').read_text())
  return {
    'containers': engine.containers(),
    'unfinished blobs': [str(p) for p in store.unfinished()],
    'locks': os.listdir(executions.folder / 'locks'),
    'engine_bytes': _size(engine.data) - before,
  }


def add_session(folder: pathlib.Path, left: dict) -> None:
  """Remembers what one start of the soak left behind."""
  _append(folder / 'sessions.jsonl', left)


def add_seconds(folder: pathlib.Path, seconds: float) -> None:
  """Remembers how long one start took its steps for."""
  _append(folder / 'seconds.jsonl', {'seconds': seconds})


def figures(folder: pathlib.Path, steps: int) -> dict:
  """Everything, as JSON values."""
  journal = walks.Journal(folder / 'steps.jsonl')
  journal.close()
  done = list(journal.steps.values())
  ran = [one for one in done if one.outcome.exit_code is not None]
  sessions = _rows(folder / 'sessions.jsonl')
  errors = collections.Counter(
    _kind_of_error(error) for one in done for error in one.errors
  )
  left = {
    name: sum(len(row[name]) for row in sessions)
    for name in sessions[-1]
    if name not in ('engine_bytes', 'orphans')
  }
  different = verify.differences(folder)
  wrong = [
    f'{one.tag} -> {one.outcome.kind} ({one.task}, walk {one.walk})'
    for one in done
    if not one.right
  ]
  checked = verify.read(folder)
  found = {
    'name': 'soak',
    'steps': len(done),
    'of': steps,
    'tasks': len({one.task for one in done}),
    'runs': len(ran),
    'reused': sum(one.outcome.cached for one in ran),
    'kinds': collections.Counter(str(one.outcome.kind) for one in done),
    'faults': collections.Counter(
      row['kind'] for row in _rows(folder / 'faults.jsonl')
    ),
    'steps_with_errors': sum(bool(one.errors or one.retries) for one in done),
    'errors': errors,
    'retries_in_workers': sum(one.retries for one in done),
    'checked_again': len(checked),
    'different': different,
    'unexpected': wrong,
    'left_behind': left,
    'engine_bytes': max((row['engine_bytes'] for row in sessions), default=0),
    'orphans': sum(len(row.get('orphans', ())) for row in sessions),
    'hours': sum(r['seconds'] for r in _rows(folder / 'seconds.jsonl')) / 3600,
    'machine': f'{os.cpu_count()} cores, {platform.machine()}',
  }
  found['right'] = not (different or wrong or any(left.values()))
  return found


def write(page: pathlib.Path, found: dict) -> None:
  """Writes the figures between the two marks of a page."""
  before, begin, rest = page.read_text().partition(_BEGIN)
  _, end, after = rest.partition(_END)
  if not end:
    raise ValueError(f'{page} has no marks {_BEGIN}, {_END}')
  lines = '\n'.join(_lines(found))
  page.write_text(f'{before}{begin}\n{lines}\n{end}{after}')


def _lines(found: dict):
  def counts(name):
    pairs = collections.Counter(found[name]).most_common()
    texts = [f'{count} {kind}' for kind, count in pairs if count]
    return ', '.join(texts) or 'nothing'

  rows = {
    'steps': (f'{found["steps"]} of {found["of"]}, on {found["tasks"]} tasks'),
    'runs of scripts': (
      f'{found["runs"]}, of which {found["reused"]} came from the cache'
    ),
    'outcomes': counts('kinds'),
    'killed': counts('faults'),
    'steps with a reported infrastructure error': (
      f'{found["steps_with_errors"]}, all tried again until there was an'
      ' outcome'
    ),
    'the errors': (
      f'{counts("errors")}; {found["retries_in_workers"]} more were tried'
      ' again inside a worker'
    ),
    'outcomes of a kind that is not right': len(found['unexpected']),
    'distinct steps taken again, clean': found['checked_again'],
    'of them with another outcome, score or tree': len(found['different']),
    'left behind': counts('left_behind'),
    "growth of the engine's folder": f'{found["engine_bytes"] / 1e6:.1f} MB',
    'shims without a container that the killed engine forgot': (
      found['orphans']
    ),
  }
  today = datetime.date.today().isoformat()
  yield f'Measured {today} on {found["machine"]}, with other work beside it.'
  yield ''
  yield '| what | figure |'
  yield '|---|---|'
  for name, value in rows.items():
    yield f'| {name} | {value} |'


def _kind_of_error(text: str) -> str:
  for words in ('the worker was killed', 'not ready', 'the sandbox failed'):
    if words in text:
      return words
  return text[:60]


def _descriptors() -> list[str]:
  links = []
  for name in os.listdir('/proc/self/fd'):
    try:
      links.append(os.readlink(f'/proc/self/fd/{name}'))
    except FileNotFoundError:
      continue  # the listing's own
  # Each of the others has a number of its own.
  return [link.split(':')[0] for link in links]


def _size(folder: pathlib.Path) -> int:
  """Bytes of the files in a folder, as far as they are there."""
  total = 0
  for path, _, names in os.walk(folder):
    for name in names:
      try:
        total += os.lstat(os.path.join(path, name)).st_size
      except FileNotFoundError:
        continue
  return total


def _rows(file: pathlib.Path) -> list[dict]:
  if not file.exists():
    return []
  return [json.loads(line) for line in file.read_text().splitlines()]


def _append(file: pathlib.Path, row: dict) -> None:
  with file.open('a') as stream:
    stream.write(json.dumps(row) + '\n')

"""A person's own folder -> a task, without touching the folder.

The folder holds a script, its data and whatever else it needs (`task_wish`).

  a table   Of the labelled rows, 60 % stay; 20 % are validation, what the agent
            is told scores of; 20 % are test, which nothing but the final
            comparison is scored on.
  printed   Half of the rows of the table are what the agent works with; the
            final comparison runs both scripts on the other half.

Scripts and small texts go to the workspace. Everything else becomes read-only
data in ./data, with links in its old places.
"""

import dataclasses
import hashlib
import os
import pathlib
import shutil

import numpy as np

from mlagent_jax.environment import task_folder
from mlagent_jax.environment import task_import_tables as tables
from mlagent_jax.environment.metrics import METRICS
from mlagent_jax.environment.task_fields import PRINTED, TaskError
from mlagent_jax.environment.task_import_source import our_name
from mlagent_jax.environment.task_import_text import toml_value
from mlagent_jax.environment.task_wish import Wish, files_of

_TEXTS = frozenset(
  '.py .md .txt .toml .yaml .yml .json .cfg .ini .sh .r .jl .sql'.split()
)
_TEXT_BYTES = 2**18
_PREPARE = '''"""Copies what was split when the task was made."""

import pathlib
import shutil


def prepare(public: pathlib.Path, private: pathlib.Path) -> None:
  made = pathlib.Path(__file__).parent / 'made'
  shutil.copytree(made / 'public', public, dirs_exist_ok=True)
  if (made / 'private').is_dir():
    shutil.copytree(made / 'private', private, dirs_exist_ok=True)
'''


@dataclasses.dataclass(frozen=True)
class OwnTask:
  """What `make_task` made.

  Attributes:
    folder: of the task that the agent works on.
    final_folder: of the same task on rows that the agent never sees
      ('printed'); None for 'table', whose test rows serve.
    rows: (for work, validation, test) rows; 'printed' has no validation.
    links: paths of the person's that lead into data/.
  """

  folder: pathlib.Path
  final_folder: pathlib.Path | None
  rows: tuple[int, int, int]
  links: tuple[str, ...]


def make_task(wish: Wish, out: pathlib.Path, *, seed: int = 0) -> OwnTask:
  """Copies the folder into a task in `out`; scores are not measured yet.

  Args:
    wish: as `task_wish.complete` returns it.
    out: an empty folder.
    seed: of the rows that are held back.

  Raises:
    TaskError: if two files would become one, or data are missing.
  """
  name = our_name(wish.folder.resolve().name)
  made = out / name / 'made'
  starter = out / name / 'starter'
  public = made / 'public'
  public.mkdir(parents=True)
  starter.mkdir()
  links = _copy(wish, starter, public)
  table = tables.read(wish.folder / wish.data)
  order = np.random.RandomState(seed).permutation(len(table.rows))
  final = None
  if wish.printed:
    half = len(order) // 2
    rows = (half, 0, len(order) - half)
    _write_part(public / _inside(wish.data), table, order[:half])
    final = out / f'{name}-final'
    shutil.copytree(out / name, final, symlinks=True)
    _write_part(
      final / 'made' / 'public' / _inside(wish.data), table, order[half:]
    )
    _write_toml(wish, final)
  else:
    rows = _hold_out(wish, table, order, public, made / 'private')
    test_link = _link(starter, wish.test)
    if test_link:
      links.append(wish.test)
  _write_toml(wish, out / name)
  return OwnTask(out / name, final, rows, tuple(links))


def _copy(wish: Wish, starter: pathlib.Path, public: pathlib.Path) -> list[str]:
  links = []
  for file in files_of(wish.folder):
    path = file.relative_to(wish.folder).as_posix()
    is_text = file.suffix.lower() in _TEXTS
    if path == wish.script or (
      is_text
      and not path.startswith('data/')
      and file.stat().st_size <= _TEXT_BYTES
    ):
      target = starter / path
    else:
      target = public / _inside(path)
      if target.exists():
        raise TaskError(
          f'{wish.folder}: {path} and {_inside(path)} would be one file in'
          ' data/; rename one of them'
        )
      if _link(starter, path):
        links.append(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)
  return links


def _link(starter: pathlib.Path, path: str) -> bool:
  """Puts a link into data/ where a file of the person's was."""
  if path.startswith('data/'):
    return False
  place = starter / path
  place.parent.mkdir(parents=True, exist_ok=True)
  if not place.is_symlink():
    os.symlink('../' * path.count('/') + f'data/{path}', place)
  return True


def _inside(path: str) -> str:
  return path.removeprefix('data/')


def _write_part(path: pathlib.Path, table: tables.Table, rows) -> None:
  part = table.pick([int(row) for row in sorted(rows)])
  tables.write(path, [part.header, *part.rows])


def _hold_out(wish, table, order, public, private) -> tuple[int, int, int]:
  """Writes the three parts of a table; returns their sizes."""
  count = len(order)
  held = count // 5
  parts = {'validation': order[:held], 'test': order[held : 2 * held]}
  rest = order[2 * held :]
  _write_part(public / _inside(wish.data), table, rest)
  split = {int(row): part for part, rows in parts.items() for row in rows}
  hidden = table.pick(list(split))  # in a random order
  features = [name for name in table.header if name != wish.target]
  test = public / _inside(wish.test)
  test.parent.mkdir(parents=True, exist_ok=True)
  tables.write(test, [features, *hidden.select(features)])
  private.mkdir()
  ids, labels = hidden.column(wish.id_column), hidden.column(wish.target)
  tables.write(
    private / 'labels.csv',
    [
      [wish.id_column, 'split', wish.target],
      *zip(ids, split.values(), labels, strict=True),
    ],
  )
  return len(rest), held, held


def _higher(wish: Wish) -> bool:
  if wish.printed:
    return wish.higher_is_better == 'true'
  return METRICS[wish.metric].higher_is_better


def _write_toml(
  wish: Wish, folder: pathlib.Path, scores: tuple[float, float] | None = None
) -> None:
  """Writes task.toml; `scores` are the starter's, (validation, test)."""
  higher = _higher(wish)
  validation, test = scores or (1.0, 1.0)
  values = {
    'name': folder.name,
    'title': f'{wish.script} of {wish.folder.resolve().name}',
    'description': _description(wish),
    'kind': 'tabular',
    'metric': PRINTED if wish.printed else wish.metric,
    'higher_is_better': higher,
    'entry': wish.script,
    'source': 'a folder of your own',
    'licence': 'yours',
    'm_init': validation,
    'm_best': _hoped(validation, higher),
    'p_init': test or 1e-12,
    'p_best': _hoped(test or 1e-12, higher),
  }
  if wish.printed:
    values['score_pattern'] = wish.score_pattern
  else:
    values['id_column'] = wish.id_column
    values['target_columns'] = [wish.target]
  lines = [f'{name} = {toml_value(value)}' for name, value in values.items()]
  lines += ['', '[limits]', f'seconds = {wish.seconds}']
  lines += [f'memory_mb = {wish.memory_mb}', f'cpus = {wish.cpus}']
  lines += ['workspace_mb = 1024', 'file_mb = 1024', '', '[files]']
  made = folder / 'made'
  for file in sorted(path for path in made.rglob('*') if path.is_file()):
    with file.open('rb') as stream:
      digest = hashlib.file_digest(stream, 'sha256').hexdigest()
    name = file.relative_to(made).as_posix()
    lines.append(f'{toml_value(name)} = {toml_value(digest)}')
  (folder / 'task.toml').write_text('\n'.join(lines) + '\n', encoding='utf-8')
  (folder / 'prepare.py').write_text(_PREPARE, encoding='utf-8')


def _hoped(score: float, higher: bool) -> float:
  """A score that would be good: it only scales rewards and plots."""
  step = max(0.3 * abs(score), 1e-3)
  return score + step if higher else score - step


def _description(wish: Wish) -> str:
  text = [wish.description.strip() or f'Improve {wish.script}.']
  if wish.printed:
    better = 'higher' if _higher(wish) else 'lower'
    text.append(
      f'{wish.script} prints its score, and {better} is better. The score must'
      ' stay an honest one: measured in the same way, on rows that were not'
      ' trained on.'
    )
  else:
    text.append(
      f'{wish.data} has the training rows with the target {wish.target}. The'
      f' rows of {wish.test} have no target: {wish.script} writes'
      f' submission.csv with the columns {wish.id_column},{wish.target} and one'
      f' row for each of them, scored by {wish.metric}.'
    )
  return ' '.join(text)


def write_scores(
  wish: Wish, folder: pathlib.Path, scores: tuple[float, float]
) -> task_folder.Task:
  """The task with the starter's measured (validation, test) scores."""
  _write_toml(wish, folder, scores)
  return task_folder.load_task(folder)

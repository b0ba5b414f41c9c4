"""Turns task folders of other projects into ours, and says what was lost.

An imported task is a folder like any other: task.toml, starter/, prepare.py,
and grader/ with the source's own grading code (see `custom_grading`). Beside
them IMPORT.md, the report: everything that could not be carried over is in it.

Third-party code never runs on the host: a source's prepare.py, its grader and
its scripts run in a sandbox.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from mlagent_jax import paths
from mlagent_jax.environment import (
  prepared,
  task_import_measure,
  task_import_mlagentbench,
  task_import_mlebench,
  task_import_rows,
  task_import_tables,
  task_import_text,
)
from mlagent_jax.environment.grading import MAX_SUBMISSION_BYTES
from mlagent_jax.environment.records import Limits, Scale
from mlagent_jax.environment.sandbox import Sandbox, make_sandbox
from mlagent_jax.environment.task_fields import CUSTOM, Grader, TaskError
from mlagent_jax.environment.task_folder import Task, load_task
from mlagent_jax.environment.task_import_rows import Split
from mlagent_jax.environment.task_import_source import (
  Source,
  Staged,
  make_workspace,
)
from mlagent_jax.environment.task_import_text import Report

SOURCES = ('mlagentbench', 'mlebench')
# Their folders state no limits; these are generous for a CPU.
LIMITS = Limits(
  seconds=600.0, memory_mb=8192, file_mb=1024, workspace_mb=4096, cpus=1.0
)
_IMAGES = ('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.bmp', '.dcm')


def import_task(
  source: str,
  folder: str | pathlib.Path,
  out: str | pathlib.Path,
  *,
  data: str | pathlib.Path | None = None,
  name: str = '',
  entry: str = '',
  strong: str | pathlib.Path | None = None,
  higher_is_better: bool | None = None,
  limits: Limits = LIMITS,
  sandbox: Sandbox | None = None,
) -> Report:
  """Imports one task.

  Args:
    source: 'mlagentbench' or 'mlebench'.
    folder: the task's folder there (benchmarks/NAME, competitions/ID).
    out: the suite's folder that gets the new one.
    data: where its data are; `folder` itself if None. For MLE-bench: holds
      raw/, or prepared/public and prepared/private.
    name: of the new task; made of the source's if ''.
    entry: MLAgentBench: the script of env/ that makes the submission; '' is
      train.py, or the only one.
    strong: a script better than the starter, to measure m_best and p_best.
    higher_is_better: the metric's direction; found out if None.
    limits: of one run of a script.
    sandbox: where everything of the source runs; the strongest if None.

  Raises:
    TaskError: something is not right with the folder, its data or its code;
      the message names the file and the field. Nothing is left behind.
    SandboxUnavailable: if there is none.
  """
  if source not in SOURCES:
    raise TaskError(f'--from {source!r}: must be one of {", ".join(SOURCES)}')
  folder = pathlib.Path(folder).resolve()
  if not folder.is_dir():
    raise TaskError(f'{folder}: there is no such folder')
  if strong is not None and not pathlib.Path(strong).is_file():
    raise TaskError(f'--strong {strong}: there is no such file')
  if source == 'mlebench':
    read = task_import_mlebench.read(folder)
  else:
    read = task_import_mlagentbench.read(folder, entry)
  if name:
    read = dataclasses.replace(read, name=name)
  final = _free(pathlib.Path(out).resolve(), read.name)
  data = folder if data is None else pathlib.Path(data).resolve()
  with contextlib.ExitStack() as stack:
    if sandbox is None:
      sandbox = stack.enter_context(make_sandbox())
    made = stack.enter_context(_made_beside(final))
    _write_code(made, read, data)
    with make_workspace() as work:
      files, split, staged, kind = _prepare_once(made, data, sandbox, work)
    _write_starter(made, read, staged)
    task = Task(
      folder=made,
      name=read.name,
      title=read.title,
      description=task_import_text.description(read, split, staged.sample),
      kind=kind,
      metric=CUSTOM,
      entry=read.entry or 'train.py',
      id_column=split.id_column,
      target_columns=split.target_columns,
      scale=Scale(True, 0.0, 1.0, 1.0, 2.0),  # measured below
      limits=limits,
      source=read.origin,
      licence='not stated in the imported folder: see its source',
      files=files,
      grader=Grader('grade.py', split.number_columns, split.how != 'none'),
    )
    stack.enter_context(_prepared_twice(task))
    measured = task_import_measure.measure(
      task, sandbox, strong and pathlib.Path(strong), higher_is_better
    )
    board = None
    if source == 'mlebench':
      board = task_import_mlebench.leaderboard(folder)
    if measured.higher_is_better is None and board and board[0] != board[1]:
      measured = dataclasses.replace(
        measured, higher_is_better=board[0] > board[1]
      )
    report = task_import_text.report(read, task, split, staged, measured, board)
    (made / 'task.toml').write_text(
      task_import_text.task_toml(task, measured, report), encoding='utf-8'
    )
    report = _checked(report, final, made)
    (made / 'IMPORT.md').write_text(str(report), encoding='utf-8')
    made.rename(final)
  return report


def prepare(
  folder: pathlib.Path,
  data: pathlib.Path,
  public: pathlib.Path,
  private: pathlib.Path,
) -> None:
  """Prepares an imported task's data; its prepare.py calls this.

  Args:
    folder: the imported task's.
    data: where the source's data are.
    public: an empty folder.
    private: another one.

  Raises:
    TaskError: if that fails.
  """
  with make_sandbox() as sandbox, make_workspace() as work:
    _prepare(folder, data, public, private, sandbox, pathlib.Path(work))


def _prepare(
  folder, data, public, private, sandbox, work
) -> tuple[Split, Staged]:
  file = folder / 'grader' / 'source.json'
  facts = json.loads(file.read_text(encoding='utf-8'))
  module = {
    'mlebench': task_import_mlebench,
    'mlagentbench': task_import_mlagentbench,
  }[facts['from']]
  staged = module.stage(facts, folder / 'grader', data, work, public, sandbox)
  split = task_import_rows.split(public, private, staged.answers, staged.sample)
  if split.stale_sample:
    staged = dataclasses.replace(staged, sample='')
  return split, staged


def _prepare_once(
  made: pathlib.Path, data: pathlib.Path, sandbox: Sandbox, work: str
) -> tuple[dict[str, str], Split, Staged, str]:
  """Prepares into a folder of its own: table [files], split, data, kind."""
  top = pathlib.Path(work)
  for part in ('public', 'private', 'work'):
    (top / part).mkdir()
  public, private = top / 'public', top / 'private'
  split, staged = _prepare(made, data, public, private, sandbox, top / 'work')
  sample = public / staged.sample
  if staged.sample and sample.stat().st_size > MAX_SUBMISSION_BYTES:
    raise TaskError(
      f'{staged.sample}: has {sample.stat().st_size} bytes; a submission may'
      f' have {MAX_SUBMISSION_BYTES}: this task cannot be carried over'
    )
  files = {}
  for folder in (private, public):
    for file in sorted(path for path in folder.rglob('*') if path.is_file()):
      with file.open('rb') as stream:
        digest = hashlib.file_digest(stream, 'sha256').hexdigest()
      files[file.relative_to(top).as_posix()] = digest
  images = any(
    pathlib.PurePath(name).suffix.lower() in _IMAGES for name in files
  )
  kind = 'image' if images else task_import_tables.kind_of(public / 'test.csv')
  return files, split, staged, kind


def _free(out: pathlib.Path, name: str) -> pathlib.Path:
  """Where the new task goes.

  Raises:
    TaskError: if it is taken, or the name is another task's.
  """
  final = out / name
  if final.exists():
    raise TaskError(f'{final}: is there already; remove it, or give --name')
  tasks = paths.top_folder('tasks')
  for other in sorted(tasks.glob(f'*/{name}/task.toml')):
    raise TaskError(f'{other}: is a task of the same name; give --name')
  return final


@contextlib.contextmanager
def _made_beside(final: pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder of the same name on the same disk; gone if the block fails."""
  final.parent.mkdir(parents=True, exist_ok=True)
  top = pathlib.Path(tempfile.mkdtemp(prefix='.import-', dir=final.parent))
  try:
    made = top / final.name
    made.mkdir()
    yield made
  finally:
    shutil.rmtree(top)


@contextlib.contextmanager
def _prepared_twice(task: Task) -> Iterator[None]:
  """Prepares again, into the cache: it must give the same files.

  If the block fails, the cache is as it was.
  """
  try:
    prepared.prepare_task(task)
  except TaskError as error:
    raise TaskError(
      f'{task.name}: preparing the data a second time: {error}'
    ) from error
  try:
    yield
  except BaseException:
    shutil.rmtree(task.prepared_folder, ignore_errors=True)
    raise


def _write_code(made: pathlib.Path, source: Source, data: pathlib.Path) -> None:
  """grader/ and prepare.py."""
  (made / 'grader').mkdir()
  for path, file in source.grader.items():
    target = made / 'grader' / path
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)
  for part in ('env', 'scripts'):
    if source.facts['from'] == 'mlagentbench':
      (made / 'grader' / part).mkdir(exist_ok=True)
  (made / 'grader' / 'source.json').write_text(
    json.dumps(dict(source.facts), indent=2) + '\n', encoding='utf-8'
  )
  (made / 'prepare.py').write_text(
    task_import_text.prepare_script(source, data), encoding='utf-8'
  )


def _write_starter(made: pathlib.Path, source: Source, staged: Staged) -> None:
  """The source's scripts, or one that copies the sample submission."""
  starter = made / 'starter'
  starter.mkdir()
  for path, file in source.starter.items():
    target = starter / path
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)
  for path, leads_to in staged.links.items():
    link = starter / path
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(leads_to)
  if not source.entry:
    (starter / 'train.py').write_text(
      task_import_text.starter_script(staged.sample), encoding='utf-8'
    )


def _checked(report: Report, final: pathlib.Path, made: pathlib.Path) -> Report:
  """The report, with what `load_task` says once nothing is left to fill in."""
  report = dataclasses.replace(report, folder=final)
  if report.to_fill:
    return report
  try:
    load_task(made)
  except TaskError as error:
    message = str(error).replace(str(made), str(final))
    return dataclasses.replace(report, refused=message)
  return report

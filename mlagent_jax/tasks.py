"""Manages tasks: python -m mlagent_jax.tasks COMMAND.

list                       every task, its metric, and whether its data is there
prepare --all              downloads and prepares the data of all tasks
check --all                runs the starters and stronger scripts: each must
                           score what task.toml states, and shows a table;
                           --repeat 5 shows how scores spread
exec --task T --script F   runs any script in place of the starter, and prints
                           one line of JSON: kind, score, exit_code, seconds,
                           output
grade --task T --submission F
                           prints the scores of a submission as JSON
import --from SOURCE DIR   turns a task folder of MLAgentBench or MLE-bench into
                           one of ours, and prints what was not carried over
trace --from DIR --out D   writes recorded trajectories in the form of
                           MLAgentBench's trace.json
reap                       removes what killed runs left on this machine
"""

import argparse
import contextlib
import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence

import rich.console
import rich.table

from mlagent_jax import paths, task_arguments, trajectories
from mlagent_jax.commands import Commands
from mlagent_jax.environment import (
  blobs,
  custom_grading,
  fetch,
  grading,
  prepared,
  records,
  sandbox,
  scratch,
  task_check,
  task_folder,
  trace,
)
from mlagent_jax.environment.sandbox import cgroups, docker_reaper, process

_FLAGS = {'true': True, 'false': False}


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs one command; the exit code: 0 well, 1 a check failed, 2 an error."""
  return _commands().run(
    arguments,
    lambda: (
      blobs.DiskFullError,
      fetch.FetchError,
      records.SandboxUnavailable,
      task_folder.TaskError,
    ),
  )


def _commands() -> Commands:
  commands = Commands('tasks', __doc__)
  commands.add(
    'list', _list, 'Shows every task and whether its data is prepared.'
  )
  some = commands.add('prepare', _prepare, 'Downloads and prepares data, once.')
  task_arguments.add_choice(some)
  some = commands.add(
    'check', _check, 'Runs starters: each must score its m_init.'
  )
  task_arguments.add_choice(some)
  task_arguments.add_sandbox(some)
  task_arguments.add_check(some)
  one = commands.add('exec', _exec, 'Runs a script in place of the starter.')
  one.add_argument('--task', required=True, help='name, or folder')
  one.add_argument(
    '--script', required=True, type=pathlib.Path, help='a Python file'
  )
  task_arguments.add_sandbox(one)
  one.add_argument(
    '--time_limit', type=float, metavar='SECONDS', help="instead of the task's"
  )
  one = commands.add(
    'grade', _grade, 'Prints the scores of a submission as JSON.'
  )
  one.add_argument('--task', required=True, help='name, or folder')
  one.add_argument(
    '--submission', required=True, type=pathlib.Path, help='a CSV file'
  )
  task_arguments.add_sandbox(one)
  task_arguments.add_import(
    commands.add('import', _import, 'Imports a task of another project.')
  )
  some = commands.add(
    'trace', _trace, "Writes trajectories as MLAgentBench's trace.json."
  )
  some.add_argument(
    '--from',
    dest='source',
    required=True,
    type=pathlib.Path,
    metavar='FOLDER',
    help='a folder with trajectories.jsonl, as collect and evaluate leave it',
  )
  some.add_argument(
    '--out',
    required=True,
    type=pathlib.Path,
    metavar='FOLDER',
    help='gets TASK/ID/env_log/trace.json for each of them',
  )
  some.add_argument(
    '--task',
    metavar='NAME',
    help='those of this task only (a name or a folder)',
  )
  commands.add('reap', _reap, 'Removes what killed runs left on this machine.')
  return commands


def _list(options: argparse.Namespace) -> int:
  table = _table('task', 'title', 'kind', 'metric', 'm_init', 'm_best', 'data')
  for name in task_arguments.all_names():
    task = task_folder.load_task(name)
    arrow = '↑' if task.scale.higher_is_better else '↓'
    table.add_row(
      task.name,
      task.title,
      task.kind,
      f'{task.metric} {arrow}',
      f'{task.scale.m_init:g}',
      f'{task.scale.m_best:g}',
      task_check.data_state(task)[0],
    )
  _console().print(table)
  return 0


def _prepare(options: argparse.Namespace) -> int:
  for task in task_arguments.chosen(options):
    prepared.prepare_task(task)
    print(f'{task.name}: {task.prepared_folder}')
  return 0


def _check(options: argparse.Namespace) -> int:
  if options.repeat < 1:
    raise task_folder.TaskError(
      f'--repeat must be at least 1, found {options.repeat}'
    )
  tasks = task_arguments.chosen(options)
  script = None
  if options.script:
    if len(tasks) > 1:
      raise task_folder.TaskError('--script needs --task, once')
    script = task_arguments.read('--script', options.script)
  strong = task_arguments.strong_scripts(options, tasks)
  found = []
  with _sandbox(options.sandbox) as box, _store() as store:
    for task in tasks:
      checked = task_check.check(
        task,
        box,
        store,
        repeat=options.repeat,
        script=script,
        strong=strong.get(task.name),
        tolerance=options.tolerance,
      )
      found.append(checked)
      for problem in checked.problems:
        print(f'{task.name}: {problem}', file=sys.stderr)
      for run in checked.runs[:1] if checked.problems else ():
        print(run.completed.output, file=sys.stderr, end='')
  if options.json:
    rows = [checked.to_dict() for checked in found]
    print(json.dumps({'sandbox': box.identity, 'tasks': rows}, indent=2))
  else:
    print(f'sandbox: {box.identity}')
    _console().print(task_check.table(found))
  if any(checked.data != 'right' for checked in found):
    return 2
  return 1 if any(checked.problems for checked in found) else 0


def _exec(options: argparse.Namespace) -> int:
  task = task_folder.load_task(options.task)
  if options.time_limit is not None:
    if not options.time_limit > 0:
      raise task_folder.TaskError(
        f'--time_limit must be above 0, found {options.time_limit}'
      )
    limits = dataclasses.replace(task.limits, seconds=options.time_limit)
    task = dataclasses.replace(task, limits=limits)
  content = task_arguments.read('--script', options.script)
  prepared.check_prepared(task)
  with _sandbox(options.sandbox) as box, _store() as store:
    ran = task_check.run_script(task, box, store, content)
  if ran.message:
    print(ran.message, file=sys.stderr)
  print(
    json.dumps(
      {
        'kind': ran.kind,
        'score': ran.scores.validation if ran.scores else None,
        'exit_code': ran.completed.exit_code,
        'seconds': round(ran.completed.seconds, 3),
        'output': ran.completed.output,
      }
    )
  )
  return 0


def _grade(options: argparse.Namespace) -> int:
  task = task_folder.load_task(options.task)
  if task.score_pattern:
    raise task_folder.TaskError(
      f'{task.name}: its score is what its script prints, there is no'
      ' submission to grade: use exec'
    )
  prepared.check_prepared(task)
  try:
    data = grading.read_submission(options.submission)
    if task.grader is None:
      scores = grading.grade_bytes(data, task)
    else:  # of its own: it runs in a sandbox
      with _sandbox(options.sandbox) as box:
        scores = custom_grading.grade(data, task, box)
  except (grading.SubmissionError, FileNotFoundError) as error:
    print(json.dumps({'validation': None, 'test': None, 'error': str(error)}))
    return 1
  print(json.dumps(dataclasses.asdict(scores)))
  return 0


def _import(options: argparse.Namespace) -> int:
  # It needs pandas, which the other commands do without.
  from mlagent_jax.environment import task_import

  with _sandbox(options.sandbox) as box:
    report = task_import.import_task(
      options.source,
      options.folder,
      options.out or paths.top_folder('tasks') / 'imported',
      data=options.data,
      name=options.name,
      entry=options.entry,
      strong=options.strong,
      higher_is_better=_FLAGS.get(options.higher_is_better),
      sandbox=box,
    )
  print(report)
  print(f'{report.folder}')
  return 0 if report.ready else 1


def _trace(options: argparse.Namespace) -> int:
  file = options.source / trajectories.FILE_NAME
  if not file.is_file():
    raise task_folder.TaskError(f'--from: there is no {file}')
  only = task_folder.load_task(options.task) if options.task else None
  tasks = {only.name: only} if only else {}
  written = 0
  for trajectory in trajectories.TrajectoryStore(options.source):
    name = trajectory.task
    if only and name != only.name:
      continue
    if name not in tasks:
      tasks[name] = task_folder.load_task(name)
    place = options.out / name / trajectory.trajectory_id / 'env_log'
    trace.write_mlagentbench_trace(
      trajectory, tasks[name], place / 'trace.json'
    )
    written += 1
  print(f'{written} trajectories: {options.out}')
  if not written:
    print(f'{file} holds none of this task', file=sys.stderr)
  return 0 if written else 1


def _reap(options: argparse.Namespace) -> int:
  del options
  cgroups.find_place()  # removes groups on its way
  removed = [*scratch.reap(), *process.sweep_homes()]
  try:
    removed += docker_reaper.reap()
  except records.SandboxUnavailable as error:
    print(f'docker: not looked at: {error}', file=sys.stderr)
  for name in removed:
    print(name)
  print(f'removed: {len(removed)}')
  return 0


def _sandbox(kind: str) -> sandbox.Sandbox:
  try:
    return sandbox.make_sandbox(kind)
  except ValueError as error:
    raise task_folder.TaskError(f'--sandbox: {error}') from error


@contextlib.contextmanager
def _store() -> Iterator[blobs.BlobStore]:
  with scratch.make_folder('store') as folder:
    yield blobs.BlobStore(folder)


def _table(*columns: str) -> rich.table.Table:
  table = rich.table.Table()
  for column in columns:
    table.add_column(column)
  return table


def _console() -> rich.console.Console:
  # A pipe or a log has no width to fit into.
  wide = None if sys.stdout.isatty() else 200
  return rich.console.Console(width=wide)


if __name__ == '__main__':
  sys.exit(main())

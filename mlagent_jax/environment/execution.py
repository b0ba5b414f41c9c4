"""Runs a script of a workspace, and says what came of it.

A run gets its own copy of the workspace without the submission that may lie
in it, so that a stale one cannot score. A run that ends well keeps the files
that it wrote, so that one script can build on another's results; scripts that
were there before stay as they were, for only the agent edits. A run that
fails, or is stopped, leaves nothing behind.

Identical executions are not repeated: the key is (sandbox, command, limits,
tree, task data). What a time-out, a memory limit or a kill from outside ended
is never reused, and nothing that happened on a full disk counts.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import re
import signal

from mlagent_jax.environment import custom_grading, grading, workspace
from mlagent_jax.environment.blobs import BlobStore
from mlagent_jax.environment.cache import ExecutionCache
from mlagent_jax.environment.records import (
  Completed,
  OutcomeKind,
  SandboxUnavailable,
  StoppedBy,
)
from mlagent_jax.environment.sandbox import Sandbox
from mlagent_jax.environment.scratch import make_folder
from mlagent_jax.environment.task_folder import Task

_NOT_REUSED = (StoppedBy.TIME, StoppedBy.MEMORY)
# With less than this left, a script that failed may have failed for it.
_SPARE_BYTES = 2**24


@dataclasses.dataclass(frozen=True)
class Execution:
  """What one run gave.

  Attributes:
    completed: the sandbox's report.
    tree: the workspace after it.
    submission: SHA-256 of the submission it wrote; None if it wrote none.
    refusal: why what it wrote under that name cannot be taken; or ''.
    stale: there was a submission before, and the run wrote none.
    notes: files that could not be kept.
    cached: an identical earlier execution was reused.
  """

  completed: Completed
  tree: str
  submission: str | None = None
  refusal: str = ''
  stale: bool = False
  notes: tuple[str, ...] = ()
  cached: bool = False


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What an execution is worth.

  Attributes:
    kind: EXECUTED, or what went wrong.
    message: for the agent, if it did.
    scores: of a valid submission.
  """

  kind: OutcomeKind
  message: str = ''
  scores: grading.Scores | None = None


def execute(
  tree: str,
  script: str,
  task: Task,
  sandbox: Sandbox,
  store: BlobStore,
  cache: ExecutionCache | None = None,
  *,
  scratch: pathlib.Path | None = None,
) -> Execution:
  """Runs a script in its own copy of a workspace, or reuses such a run.

  Args:
    tree: the workspace.
    script: a file of it.
    task: gives data and limits.
    sandbox: where it runs.
    store: holds the workspace and gets what the run wrote.
    cache: of earlier executions; None runs always.
    scratch: where the copy is made; the system's temporary folder if None.

  Raises:
    SandboxUnavailable: if the sandbox failed, whatever the script did, or
      there is no space for all that the script may write.
    DiskFullError: if the store or the cache is full.
  """
  before = workspace.read_tree(tree, store)
  stale = grading.SUBMISSION in before
  if stale:
    kept = {p: e for p, e in before.items() if not _is_submission(p)}
    tree, before = workspace.write_tree(kept, store), kept
  # A name that begins with '-' must not become an option of the interpreter.
  command = ('python', f'./{script}' if script.startswith('-') else script)

  def run() -> Execution:
    return _run(tree, before, command, task, sandbox, store, scratch)

  if cache is None:
    execution = run()
  else:
    key = _key(tree, command, task, sandbox)
    with cache.locked(key):
      record = cache.get(key, store)
      cache.note(hit=record is not None)
      if record is not None:
        execution = _recall(record)
      else:
        execution = run()
        if _is_reusable(execution.completed):
          blobs = _blobs(execution, store)
          cache.put(key, _record(execution), blobs=blobs, store=store)
  stale = stale and execution.submission is None and not execution.refusal
  return dataclasses.replace(execution, stale=stale)


def judge(
  execution: Execution,
  task: Task,
  store: BlobStore,
  *,
  must_submit: bool,
  sandbox: Sandbox | None = None,
  cache: ExecutionCache | None = None,
  scratch: pathlib.Path | None = None,
) -> Verdict:
  """Grades an execution.

  Args:
    execution: from `execute`.
    task: its labels and metric.
    store: holds the submission.
    must_submit: a run without a submission is a failure.
    sandbox: where the task's own grader runs; needed if it has one.
    cache: of what such graders gave; None runs them always.
    scratch: where they run; the system's temporary folder if None.

  Raises:
    SandboxUnavailable, TaskError: if the task's own grader failed.
  """
  completed = execution.completed
  limits = task.limits
  stopped = {
    StoppedBy.TIME: (
      OutcomeKind.TIME_LIMIT,
      f'The script was stopped after {limits.seconds:g} seconds.',
    ),
    StoppedBy.MEMORY: (
      OutcomeKind.MEMORY_LIMIT,
      f'The script was stopped: it needed more than {limits.memory_mb} MiB.',
    ),
    StoppedBy.OUTPUT: (
      OutcomeKind.SCRIPT_FAILED,
      'The script was stopped: it printed far too much.',
    ),
    StoppedBy.DISK: (
      OutcomeKind.SCRIPT_FAILED,
      f'The script was stopped: it wrote more than {limits.workspace_mb} MiB.',
    ),
  }
  if completed.stopped_by is not StoppedBy.NOTHING:
    return Verdict(*stopped[completed.stopped_by])
  if completed.exit_code:
    return Verdict(
      OutcomeKind.SCRIPT_FAILED,
      f'The script failed with exit code {completed.exit_code}.',
    )
  if task.score_pattern:
    return _printed(completed.output, task.score_pattern, must_submit)
  if execution.refusal:
    return Verdict(OutcomeKind.REFUSED_SUBMISSION, execution.refusal)
  if execution.submission is None:
    if execution.stale and must_submit:
      return Verdict(
        OutcomeKind.STALE_SUBMISSION,
        f'The script did not write {grading.SUBMISSION}; the one that was there'
        ' before does not count.',
      )
    if must_submit:
      return Verdict(
        OutcomeKind.MISSING_SUBMISSION,
        f'The script ended, but did not write {grading.SUBMISSION}.',
      )
    return Verdict(OutcomeKind.EXECUTED)
  try:
    submission = store.get(execution.submission)
    if task.grader is None:
      scores = grading.grade_bytes(submission, task)
    elif sandbox is None:
      raise ValueError(f'{task.name} has a grader of its own: give a sandbox')
    else:
      scores = custom_grading.grade(
        submission, task, sandbox, cache, scratch=scratch
      )
  except grading.SubmissionError as error:
    return Verdict(
      OutcomeKind.REFUSED_SUBMISSION,
      f'{grading.SUBMISSION} was refused: {error}',
    )
  return Verdict(OutcomeKind.EXECUTED, scores=scores)


def _printed(output: str, pattern: str, must_print: bool) -> Verdict:
  """The verdict on a script that prints its own score."""
  found = re.findall(pattern, output)
  if not found:
    if not must_print:
      return Verdict(OutcomeKind.EXECUTED)
    return Verdict(
      OutcomeKind.MISSING_SUBMISSION,
      f'The script ended, but its output has nothing like {pattern!r}: it'
      ' printed no score.',
    )
  try:
    score = float(found[-1])
  except ValueError:
    score = math.nan
  if not math.isfinite(score):
    return Verdict(
      OutcomeKind.REFUSED_SUBMISSION,
      f'The printed score {found[-1][:40]!r} is not a finite number.',
    )
  return Verdict(OutcomeKind.EXECUTED, scores=grading.Scores(score, score))


def _run(tree, before, command, task, sandbox, store, scratch) -> Execution:
  with contextlib.ExitStack() as stack:
    try:
      folder = stack.enter_context(make_folder('run', scratch))
      _check_space(folder, task.limits.workspace_mb * 2**20)
      workspace.restore_tree(tree, store, folder)
    except OSError as error:
      raise SandboxUnavailable(f'no workspace can be made: {error}') from error
    completed = sandbox.run(command, folder, task.limits, data=task.data_folder)
    # Paths in a traceback as the agent knows them, and the same every time.
    output = completed.output.replace(f'{folder}/', '')
    completed = dataclasses.replace(completed, output=output)
    if completed.exit_code or completed.stopped_by is not StoppedBy.NOTHING:
      if completed.stopped_by is StoppedBy.NOTHING:
        _check_space(folder, _SPARE_BYTES)
      return Execution(completed, tree)
    submission, refusal = None, ''
    try:
      submission = store.put(
        grading.read_submission(folder / grading.SUBMISSION)
      )
    except FileNotFoundError:
      pass
    except grading.SubmissionError as error:
      refusal = str(error)
    notes: list[str] = []
    try:
      after = workspace.snapshot_tree(
        folder, store, exclude=('data', grading.SUBMISSION), notes=notes
      )
    except workspace.WorkspaceError as error:
      notes = [f'nothing that the script wrote was kept: {error}']
    else:
      tree = workspace.write_tree(
        _kept(before, workspace.read_tree(after, store)), store
      )
    return Execution(completed, tree, submission, refusal, notes=tuple(notes))


def _check_space(folder: pathlib.Path, needed: int) -> None:
  """Tells a script's failure from a disk that others filled."""
  status = os.statvfs(folder)
  free = status.f_bavail * status.f_frsize
  if free < needed:
    raise SandboxUnavailable(
      f'{folder.parent} has {free // 2**20} MiB left, a run there may need'
      f' {needed // 2**20} MiB: free some space'
    )


def _kept(before: workspace.Tree, after: workspace.Tree) -> workspace.Tree:
  """What a run leaves: its files, with the scripts of before untouched."""
  scripts = {
    path
    for path, entry in before.items()
    if entry.kind == 'file' and path.endswith('.py')
  }
  folders = {parent for path in scripts for parent in workspace.parents(path)}
  kept = {path: before[path] for path in scripts | folders}
  for path, entry in after.items():
    above = workspace.parents(path)
    if '__pycache__' in path.split('/') or path in kept:
      continue
    if any(kept.get(p) and kept[p].kind != 'folder' for p in above):
      continue  # a script was replaced by a folder
    old = before.get(path)
    # A mode is no change: the sandbox may have had to change it.
    same = old and (old.kind, old.content) == (entry.kind, entry.content)
    kept[path] = old if same else entry
  return kept


def _is_submission(path: str) -> bool:
  return path.split('/', 1)[0] == grading.SUBMISSION


def _is_reusable(completed: Completed) -> bool:
  killed = completed.exit_code == -signal.SIGKILL
  return completed.stopped_by not in _NOT_REUSED and not (
    killed and completed.stopped_by is StoppedBy.NOTHING
  )


def _key(tree, command, task: Task, sandbox: Sandbox) -> str:
  parts = [
    sandbox.identity,
    command,
    dataclasses.asdict(task.limits),
    tree,
    task.data_hash,
  ]
  return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _record(execution: Execution) -> dict:
  return {
    'completed': dataclasses.asdict(execution.completed),
    'tree': execution.tree,
    'submission': execution.submission,
    'refusal': execution.refusal,
    'notes': execution.notes,
  }


def _blobs(execution: Execution, store: BlobStore) -> list[str]:
  """All that an execution left, so that its record can be used elsewhere."""
  tree = workspace.read_tree(execution.tree, store)
  files = [entry.content for entry in tree.values() if entry.kind == 'file']
  submission = [execution.submission] if execution.submission else []
  return [execution.tree, *files, *submission]


def _recall(record: dict) -> Execution:
  completed = dict(record['completed'])
  completed['stopped_by'] = StoppedBy(completed['stopped_by'])
  return Execution(
    Completed(**completed),
    record['tree'],
    record['submission'],
    record['refusal'],
    notes=tuple(record['notes']),
    cached=True,
  )

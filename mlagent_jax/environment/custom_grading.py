"""Grading by a task's own grader, in a sandboxed process of its own.

The host checks the shape of a submission as strictly as for its own metrics,
cuts it into the validation and the test rows, each in the order of the
answers, and only then hands it over, as data: to one run of the grader's code
(see `grading_process`) in a workspace of its own, with the answers as ./data.
Nothing of an agent runs there, and no other run sees the answers.

Whose fault it is if there is no score:

  the grader raises InvalidSubmissionError   the agent's: `SubmissionError`
  it raises anything else                    the agent's if the grader takes a
                                             submission that is right in every
                                             row, else the task's: `TaskError`
  its process crashes or leaves no result    the task's: `TaskError`
  it runs out of time or memory              ours: `SandboxUnavailable`
"""

import contextlib
import csv
import hashlib
import io
import json
import math
import pathlib
import shutil

from mlagent_jax.environment import grading, grading_process
from mlagent_jax.environment.cache import ExecutionCache
from mlagent_jax.environment.grading import Scores, SubmissionError
from mlagent_jax.environment.records import (
  Completed,
  SandboxUnavailable,
  StoppedBy,
)
from mlagent_jax.environment.sandbox import Sandbox
from mlagent_jax.environment.scratch import make_folder
from mlagent_jax.environment.task_folder import Task, TaskError

# A submission that is right in every row; optional, the host's own.
REFERENCE = 'private/reference.csv'
_WHOLE = 'whole'
_MAX_RESULT_BYTES = 2**20
_SHOWN = 300  # characters of a refusal that the agent reads


class _Failed(Exception):  # noqa: N818 - its cause is still to be judged
  """The grader raised an error of its own."""

  def __init__(self, kind: str, text: str):
    super().__init__(f'{kind}: {text}')
    self.kind = kind


def grade(
  data: bytes,
  task: Task,
  sandbox: Sandbox,
  cache: ExecutionCache | None = None,
  *,
  scratch: pathlib.Path | None = None,
) -> Scores:
  """Scores the bytes of a submission.

  Args:
    data: what the script wrote.
    task: with a grader of its own.
    sandbox: where the grader runs.
    cache: of earlier results; None grades always.
    scratch: where the grader's workspace is made; the system's temporary
      folder if None.

  Raises:
    SubmissionError: if it is refused; the message is for the agent.
    TaskError: if the task's grader or its answers are not right.
    SandboxUnavailable: if the run failed for want of time, memory, disk or
      sandbox.
  """
  parts = _parts(data, task)
  if cache is None:
    return _scores(_grade(parts, task, sandbox, scratch), task)
  key = _key(parts, task, sandbox)
  with cache.locked(key):
    record = cache.get(key)
    if record is None:
      record = _grade(parts, task, sandbox, scratch)
      cache.put(key, record)
  return _scores(record, task)


def grade_reference(
  task: Task, sandbox: Sandbox, *, scratch: pathlib.Path | None = None
) -> Scores | None:
  """Scores of a submission that is right in every row; None if there is none.

  Raises:
    TaskError, SandboxUnavailable: as `grade`.
  """
  file = task.prepared_folder / REFERENCE
  if not file.is_file():
    return None
  parts = _parts(file.read_bytes(), task)
  try:
    return _scores(_run(parts, task, sandbox, scratch), task)
  except (_Failed, SubmissionError) as error:
    raise TaskError(
      f'{task.grader_folder / task.grader.script}: does not grade {file}, which'
      f' is right in every row: {error}'
    ) from error


def _parts(data: bytes, task: Task) -> dict[str, bytes]:
  """What the grader gets: part -> the bytes of its submission.csv."""
  if not task.grader.by_rows:
    return {_WHOLE: data}
  labels = grading.load_labels(task)
  columns = grading.parse_submission(data, task, labels)
  for name, column in zip(task.target_columns, columns, strict=True):
    if name in task.grader.number_columns:
      _check_numbers(name, column)
  header = [task.id_column, *task.target_columns]
  rows = list(zip(labels.rows, *columns, strict=True))
  chosen = {'validation': labels.validation, 'test': labels.test}
  return {
    part: _csv([header, *(rows[i] for i in mask.nonzero()[0])])
    for part, mask in chosen.items()
  }


def _check_numbers(name: str, column: list[str]) -> None:
  for value in column:
    try:
      number = float(value)
    except ValueError:
      raise SubmissionError(
        f'{name} holds {value[:40]!r}, which is not a number.'
      ) from None
    if not math.isfinite(number):
      raise SubmissionError(
        f'{name} holds {value[:40]!r}: values must be finite (no NaN, no inf).'
      )


def _csv(rows) -> bytes:
  text = io.StringIO(newline='')
  csv.writer(text, lineterminator='\n').writerows(rows)
  return text.getvalue().encode('utf-8')


def _grade(
  parts: dict[str, bytes], task: Task, sandbox: Sandbox, scratch
) -> dict:
  """{'scores': …} or {'refused': message}."""
  try:
    return _run(parts, task, sandbox, scratch)
  except _Failed as error:
    # The text of the error stays here: it may quote a label.
    if grade_reference(task, sandbox, scratch=scratch) is None:
      raise TaskError(
        f'{task.grader_folder / task.grader.script}: {error}'
      ) from error
    return {'refused': f'the grader cannot read its values ({error.kind}).'}


def _scores(record: dict, task: Task) -> Scores:
  if 'refused' in record:
    raise SubmissionError(record['refused'][:_SHOWN])
  scores = record['scores']
  for part, score in scores.items():
    if not math.isfinite(score):
      raise SubmissionError(
        f'the score of these predictions is not a finite number ({part} rows).'
      )
  if not task.grader.by_rows:
    return Scores(scores[_WHOLE], scores[_WHOLE])
  return Scores(scores['validation'], scores['test'])


def _run(
  parts: dict[str, bytes], task: Task, sandbox: Sandbox, scratch
) -> dict:
  with contextlib.ExitStack() as stack:
    try:
      folder = stack.enter_context(make_folder('grading', scratch))
      shutil.copy(grading_process.__file__, folder / 'grading_process.py')
      shutil.copytree(task.grader_folder, folder / grading_process.GRADER)
      for part, data in parts.items():
        place = folder / grading_process.SUBMISSIONS / part
        place.mkdir(parents=True)
        (place / grading.SUBMISSION).write_bytes(data)
    except OSError as error:
      raise SandboxUnavailable(
        f'no workspace can be made for the grader: {error}'
      ) from error
    answers = task.answers_folder
    completed = sandbox.run(
      ('python', 'grading_process.py', task.grader.script, *parts),
      folder,
      task.grader.limits,
      data=answers if answers.is_dir() else None,
    )
    return _read_result(completed, folder, task, set(parts))


def _read_result(
  completed: Completed, folder: pathlib.Path, task: Task, parts: set[str]
) -> dict:
  script = task.grader_folder / task.grader.script
  limits = task.grader.limits
  if completed.stopped_by is not StoppedBy.NOTHING:
    raise SandboxUnavailable(
      f'{script}: the grader was stopped by its limit on'
      f' {completed.stopped_by} (grader.seconds = {limits.seconds:g},'
      f' grader.memory_mb = {limits.memory_mb})'
    )
  problem = f'exit code {completed.exit_code}'
  if completed.exit_code == 0:
    try:
      result = json.loads(
        grading.read_submission(
          folder / grading_process.RESULT, _MAX_RESULT_BYTES
        )
      )
    except (OSError, ValueError) as error:
      problem = f'no result: {error}'
    else:
      if 'failed' in result:
        raise _Failed(result['failed'], result['text'])
      if 'refused' in result or result.get('scores', {}).keys() == parts:
        return result
      problem = f'a result without {sorted(parts)}'
  raise TaskError(
    f'{script}: the grader gave no score ({problem}):'
    f' {completed.output.strip()[-500:]}'
  )


def _key(parts: dict[str, bytes], task: Task, sandbox: Sandbox) -> str:
  digest = hashlib.sha256()

  def add(*values: str | bytes) -> None:
    for value in values:
      data = value.encode() if isinstance(value, str) else value
      digest.update(b'%d:' % len(data))
      digest.update(data)

  add('grading', sandbox.identity, repr(task.grader))
  for name, sha256 in sorted(task.files.items()):
    if name.startswith('private/'):
      add(name, sha256)
  for file in sorted(task.grader_folder.rglob('*')):
    if file.is_file():
      add(str(file.relative_to(task.grader_folder)), file.read_bytes())
  for part, data in parts.items():
    add(part, data)
  return digest.hexdigest()

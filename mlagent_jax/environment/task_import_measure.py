"""Measures an imported task: what its starter scores, which way is better."""

import csv
import dataclasses
import io
import pathlib

import numpy as np

from mlagent_jax.environment import (
  custom_grading,
  execution,
  grading,
  workspace,
)
from mlagent_jax.environment.blobs import BlobStore
from mlagent_jax.environment.grading import Scores
from mlagent_jax.environment.sandbox import Sandbox
from mlagent_jax.environment.scratch import make_folder
from mlagent_jax.environment.task_folder import Task


@dataclasses.dataclass(frozen=True)
class Measured:
  """What was found out about a task by running it.

  Attributes:
    starter, strong: scores of the two scripts; None without one.
    starter_failure, strong_failure: why a script has no score; or ''.
    right: scores of a submission that is right in every row, if it can be
      made of the answers.
    higher_is_better: the direction; None if it could not be found out.
    stated: the direction was given by the person.
  """

  starter: Scores | None
  starter_failure: str
  strong: Scores | None
  strong_failure: str
  right: Scores | None
  higher_is_better: bool | None
  stated: bool


def measure(
  task: Task,
  sandbox: Sandbox,
  strong: pathlib.Path | None,
  higher_is_better: bool | None,
) -> Measured:
  """Runs grader and scripts of a prepared task.

  Args:
    task: its scale is not looked at.
    sandbox: where.
    strong: a script that takes the place of the entry script.
    higher_is_better: the direction, if the person stated it.

  Raises:
    TaskError: if the grader does not even grade the answers.
    SandboxUnavailable: as `Sandbox.run`.
  """
  right = custom_grading.grade_reference(task, sandbox)
  found = higher_is_better
  if found is None and right is not None:
    found = _direction(task, sandbox, right)
  starter, starter_failure = _run(task, sandbox, None)
  strong_scores, strong_failure = None, ''
  if strong is not None:
    strong_scores, strong_failure = _run(task, sandbox, strong.read_bytes())
  return Measured(
    starter,
    starter_failure,
    strong_scores,
    strong_failure,
    right,
    found,
    higher_is_better is not None,
  )


def _direction(task: Task, sandbox: Sandbox, right: Scores) -> bool | None:
  """Whether the answers score higher than the same ones in a wrong order."""
  text = (task.prepared_folder / custom_grading.REFERENCE).read_text(
    encoding='utf-8'
  )
  header, *rows = csv.reader(io.StringIO(text, newline=''))
  order = np.random.RandomState(0).permutation(len(rows))
  wrong = [[row[0], *rows[n][1:]] for row, n in zip(rows, order, strict=True)]
  shuffled = io.StringIO(newline='')
  csv.writer(shuffled, lineterminator='\n').writerows([header, *wrong])
  try:
    scores = custom_grading.grade(
      shuffled.getvalue().encode('utf-8'), task, sandbox
    )
  except grading.SubmissionError:
    return None
  if scores.test == right.test:
    return None
  return right.test > scores.test


def _run(
  task: Task, sandbox: Sandbox, script: bytes | None
) -> tuple[Scores | None, str]:
  """(scores or None, why none) of the starter, or of a script in its place."""
  with make_folder('store') as folder:
    store = BlobStore(folder)
    digest = workspace.snapshot_tree(task.starter_folder, store)
    if script is not None:
      tree = workspace.read_tree(digest, store)
      tree = workspace.with_file(tree, task.entry, script, store)
      digest = workspace.write_tree(tree, store)
    ran = execution.execute(digest, task.entry, task, sandbox, store)
    verdict = execution.judge(
      ran, task, store, must_submit=True, sandbox=sandbox
    )
  if verdict.scores is not None:
    return verdict.scores, ''
  last = ran.completed.output.strip().splitlines()[-1:]
  return None, ' '.join([verdict.message, *last])

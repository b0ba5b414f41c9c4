"""Is a task what its task.toml says? Its scripts are run, and compared.

Nothing here is taken from a cache: that a script scores the same when it is
run again is one of the questions.
"""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

import rich.table

from mlagent_jax.environment import execution, prepared, workspace
from mlagent_jax.environment.blobs import BlobStore
from mlagent_jax.environment.grading import Scores
from mlagent_jax.environment.records import Completed, OutcomeKind
from mlagent_jax.environment.sandbox import Sandbox
from mlagent_jax.environment.task_folder import Task, TaskError

# A stronger script may take longer than the steps of an agent.
STRONG_SECONDS = 60.0
# By how much of the gap it may beat m_best, which was measured elsewhere.
_ABOVE_BEST = 0.02


@dataclasses.dataclass(frozen=True)
class Ran:
  """One run of a script in place of the entry script."""

  kind: OutcomeKind
  message: str
  completed: Completed
  scores: Scores | None


@dataclasses.dataclass(frozen=True)
class Checked:
  """What a check found.

  Attributes:
    task: as it was checked.
    data: state of the prepared data: 'right', 'missing' or 'damaged'.
    runs: of the starter, or of the script in its place.
    strong: the run of the stronger script, if there is one.
    problems: why the task is not right.
  """

  task: Task
  data: str
  runs: tuple[Ran, ...] = ()
  strong: Ran | None = None
  problems: tuple[str, ...] = ()

  @property
  def scores(self) -> list[float]:
    """Validation scores of the runs that have one."""
    return [run.scores.validation for run in self.runs if run.scores]

  @property
  def spread(self) -> float | None:
    """Largest less smallest score; None of fewer than two."""
    scores = self.scores
    return max(scores) - min(scores) if len(scores) > 1 else None

  @property
  def deviation(self) -> float | None:
    """Standard deviation of the scores; None of fewer than two."""
    scores = self.scores
    return statistics.stdev(scores) if len(scores) > 1 else None

  @property
  def gap(self) -> float:
    """From m_init to m_best: what a reward measures a score by."""
    return abs(self.task.scale.m_best - self.task.scale.m_init)

  def to_dict(self) -> dict[str, Any]:
    """As JSON values."""
    return {
      'task': self.task.name,
      'data': self.data,
      **dataclasses.asdict(self.task.scale),
      'runs': [_run_dict(run) for run in self.runs],
      'spread': self.spread,
      'deviation': self.deviation,
      'strong': _run_dict(self.strong) if self.strong else None,
      'problems': list(self.problems),
    }


def _run_dict(run: Ran) -> dict[str, Any]:
  return {
    'kind': run.kind,
    'score': run.scores.validation if run.scores else None,
    'test_score': run.scores.test if run.scores else None,
    'seconds': round(run.completed.seconds, 3),
  }


def data_state(task: Task) -> tuple[str, str]:
  """('right', 'missing' or 'damaged', what is wrong and what to do)."""
  try:
    prepared.check_prepared(task)
  except TaskError as error:
    there = task.prepared_folder.is_dir()
    return 'damaged' if there else 'missing', str(error)
  return 'right', ''


def run_script(
  task: Task, sandbox: Sandbox, store: BlobStore, script: bytes | None = None
) -> Ran:
  """Runs the starter, or a script in place of the entry script.

  Raises:
    SandboxUnavailable: as `execution.execute`.
  """
  tree = workspace.snapshot_tree(task.starter_folder, store)
  if script is not None:
    files = workspace.read_tree(tree, store)
    files = workspace.with_file(files, task.entry, script, store)
    tree = workspace.write_tree(files, store)
  ran = execution.execute(tree, task.entry, task, sandbox, store)
  verdict = execution.judge(ran, task, store, must_submit=True, sandbox=sandbox)
  return Ran(verdict.kind, verdict.message, ran.completed, verdict.scores)


def check(
  task: Task,
  sandbox: Sandbox,
  store: BlobStore,
  *,
  repeat: int = 1,
  script: bytes | None = None,
  strong: bytes | None = None,
  tolerance: float = 1e-3,
) -> Checked:
  """Checks a task's data and its starter's scores.

  Args:
    task: its data need not be there.
    sandbox: where scripts run.
    store: of workspaces.
    repeat: how often the starter is run.
    script: is run in place of the starter; its scores may be any.
    strong: a script that must be better than the starter.
    tolerance: relative difference from m_init and p_init that is let pass.

  Raises:
    SandboxUnavailable: as `execution.execute`.
  """
  data, problem = data_state(task)
  if problem:
    return Checked(task, data, problems=(problem,))
  runs = tuple(run_script(task, sandbox, store, script) for _ in range(repeat))
  problems = [run.message for run in runs if run.message]
  if script is None:
    for run in runs:
      problems += _differences(run.scores, task, tolerance)
  ran = None
  if strong is not None:
    seconds = max(STRONG_SECONDS, task.limits.seconds)
    limits = dataclasses.replace(task.limits, seconds=seconds)
    patient = dataclasses.replace(task, limits=limits)
    ran = run_script(patient, sandbox, store, strong)
    problems += _strong_problems(ran, task)
  # Repeated runs tend to have the same ones.
  return Checked(task, data, runs, ran, tuple(dict.fromkeys(problems)))


def _differences(
  scores: Scores | None, task: Task, tolerance: float
) -> list[str]:
  if scores is None:
    return []  # the run's message says why
  scale = task.scale
  return [
    f'the starter scores {found:.6g} on {part}, {name} is {stated:.6g}'
    for part, found, name, stated in (
      ('validation', scores.validation, 'm_init', scale.m_init),
      ('test', scores.test, 'p_init', scale.p_init),
    )
    if not math.isclose(found, stated, rel_tol=tolerance)
  ]


def _strong_problems(run: Ran, task: Task) -> list[str]:
  if run.scores is None:
    return [f'the stronger script: {run.message}']
  scale, score = task.scale, run.scores.validation
  gained = scale.sign * (score - scale.m_init)
  gap = abs(scale.m_best - scale.m_init)
  if gained <= 0:
    return [
      f'the stronger script scores {score:.6g}, which is no better than m_init'
      f' {scale.m_init:.6g}'
    ]
  if gained > (1 + _ABOVE_BEST) * gap:
    return [
      f'the stronger script scores {score:.6g}, which is better than m_best'
      f' {scale.m_best:.6g}'
    ]
  return []


def table(found: Sequence[Checked]) -> rich.table.Table:
  """A row for each task; columns that would be empty are left out."""
  columns = {
    'task': lambda c: c.task.name,
    'outcome': lambda c: c.runs[0].kind if c.runs else '-',
    'seconds': lambda c: _seconds(c.runs[0] if c.runs else None),
    'score': lambda c: _score(c.runs[0] if c.runs else None),
    'm_init': lambda c: f'{c.task.scale.m_init:.6g}',
    'm_best': lambda c: f'{c.task.scale.m_best:.6g}',
    'strong': lambda c: _score(c.strong),
    'its seconds': lambda c: _seconds(c.strong),
    'test': lambda c: _score(c.runs[0] if c.runs else None, 'test'),
    'p_init': lambda c: f'{c.task.scale.p_init:.6g}',
    'spread': lambda c: _number(c.spread),
    'deviation': lambda c: _number(c.deviation),
    'of the gap': lambda c: (
      '-' if c.spread is None else f'{100 * c.spread / c.gap:.2g} %'
    ),
    'data': lambda c: c.data,
    'check': lambda c: (
      '-' if not c.runs else 'WRONG' if c.problems else 'right'
    ),
  }
  absent = set()
  if not any(checked.strong for checked in found):
    absent |= {'strong', 'its seconds'}
  if all(len(checked.runs) < 2 for checked in found):
    absent |= {'spread', 'deviation', 'of the gap'}
  shown = [name for name in columns if name not in absent]
  made = rich.table.Table(*shown)
  for checked in found:
    made.add_row(*(str(columns[name](checked)) for name in shown))
  return made


def _score(run: Ran | None, part: str = 'validation') -> str:
  return _number(getattr(run.scores, part) if run and run.scores else None)


def _seconds(run: Ran | None) -> str:
  return f'{run.completed.seconds:.1f}' if run else '-'


def _number(value: float | None) -> str:
  return '-' if value is None else f'{value:.6g}'

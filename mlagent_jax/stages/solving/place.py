"""The task that a person's folder becomes, and where its scripts run."""

import contextlib
import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Iterator

from mlagent_jax.environment import (
  blobs,
  cache,
  episode,
  execution,
  prepared,
  records,
  sandbox,
  task_folder,
  task_own,
  task_wish,
)
from mlagent_jax.environment.grading import Scores
from mlagent_jax.stages import workdir

_SHOWN = 2000  # characters of the output of a script that failed


class SolveError(RuntimeError):
  """The folder cannot be worked on; says what its script did."""


@dataclasses.dataclass(frozen=True)
class Place:
  """A task that is set up, and where its scripts run.

  Attributes:
    out: the folder of results.
    wish: of the person.
    own: what their folder became.
    task: with the starter's scores.
    environment: takes steps.
  """

  out: pathlib.Path
  wish: task_wish.Wish
  own: task_own.OwnTask
  task: task_folder.Task
  environment: episode.Environment


@contextlib.contextmanager
def open_place(
  wish: task_wish.Wish,
  out: pathlib.Path,
  *,
  allowed: frozenset[records.ActionName],
  protocol: str,
  sandbox_kind: str = 'auto',
  editor: episode.Editor | None = None,
  seed: int = 0,
  say: Callable[[str], None] = lambda text: None,
) -> Iterator[Place]:
  """Sets the task up, or finds it set up by an earlier start.

  Args:
    wish: as `task_wish.complete` returns it.
    out: the folder of results, made if missing.
    allowed: actions of the agent.
    protocol: of the agent.
    sandbox_kind: as of `sandbox.make_sandbox`.
    editor: behind Edit Script (AI).
    seed: of the rows that are held back.
    say: takes a line about what is going on.

  Raises:
    SolveError: if the script does not run, or gives no score.
    TaskError, SandboxUnavailable: see there.
    WorkdirError: if `out` holds the work on something else.
  """
  own = _made(wish, out, seed)
  with sandbox.make_sandbox(sandbox_kind) as box:
    say(f'sandbox: {box.identity}')
    store = blobs.BlobStore(out / 'blobs')
    executions = cache.ExecutionCache(out / 'executions')

    def environment_of(task) -> episode.Environment:
      return episode.Environment(
        {task.name: task},
        box,
        store,
        cache=executions,
        allowed=allowed,
        protocol=protocol,
        editor=editor,
      )

    task = task_folder.load_task(own.folder)
    prepared.prepare_task(task)
    say(f'running {wish.script} as it is, on {own.rows[0]} rows')
    environment = environment_of(task)
    scores = score_of(
      environment, task, environment.initial(task.name).tree, wish
    )
    task = task_own.write_scores(
      wish, own.folder, (scores.validation, scores.test)
    )
    yield Place(out, wish, own, task, environment_of(task))


def _made(wish, out: pathlib.Path, seed: int) -> task_own.OwnTask:
  """The task in out/task; what an earlier start made is taken as it is."""
  said = {
    **{name: str(value) for name, value in dataclasses.asdict(wish).items()},
    'folder': str(wish.folder.resolve()),
    'seed': str(seed),
  }
  path, making = out / 'wish.json', out / '.task-in-the-making'
  known = workdir.read_json(path)
  if known is not None:
    changed = [
      f'  {key}: {known["wish"].get(key)!r} there, {said.get(key)!r} now'
      for key in sorted(known['wish'].keys() | said.keys())
      if known['wish'].get(key) != said.get(key)
    ]
    if changed:
      raise workdir.WorkdirError(
        f'{out} holds the work on something else:\n'
        + '\n'.join(changed)
        + '\nUse another --out.'
      )
    if making.exists():
      making.rename(out / 'task')
    final = known['final_folder']
    return task_own.OwnTask(
      out / 'task' / known['folder'],
      out / 'task' / final if final else None,
      tuple(known['rows']),
      tuple(known['links']),
    )
  if making.exists():
    shutil.rmtree(making)  # a start that was killed while it copied
  if out.exists() and any(out.iterdir()):
    raise workdir.WorkdirError(
      f'{out} is not empty and holds no earlier work of this command: choose'
      ' another --out'
    )
  if out.resolve().is_relative_to(wish.folder.resolve()):
    raise workdir.WorkdirError(
      f'--out {out} is inside {wish.folder}, which is never written to: choose'
      ' another --out'
    )
  out.mkdir(parents=True, exist_ok=True)
  making.mkdir()
  own = task_own.make_task(wish, making, seed=seed)
  workdir.write_json(
    path,
    {
      'wish': said,
      'folder': own.folder.name,
      'final_folder': own.final_folder.name if own.final_folder else '',
      'rows': own.rows,
      'links': own.links,
    },
  )
  return _made(wish, out, seed)


def try_script(
  environment, task, tree: str
) -> tuple[execution.Execution, execution.Verdict]:
  """Runs the entry script of a tree; what it gave and what that is worth."""
  ran = execution.execute(
    tree,
    task.entry,
    task,
    environment.sandbox,
    environment.store,
    environment.cache,
  )
  verdict = execution.judge(
    ran,
    task,
    environment.store,
    must_submit=True,
    sandbox=environment.sandbox,
  )
  return ran, verdict


def score_of(environment, task, tree: str, wish) -> Scores:
  """Scores of the person's own script, which the tree holds.

  Raises:
    SolveError: if it has none; says what the script printed.
  """
  ran, verdict = try_script(environment, task, tree)
  if verdict.scores is None:
    printed = ran.completed.output.strip()[-_SHOWN:] or '(nothing)'
    raise SolveError(
      f'{wish.script} cannot be worked on yet: {verdict.message} Its folder is'
      f' the current one, {wish.data} is where it was (with a part of its'
      f' rows), there is no network, and a run may take {wish.seconds:g} s and'
      f' {wish.memory_mb} MiB (--seconds, --memory_mb). It printed:\n{printed}'
    )
  return verdict.scores

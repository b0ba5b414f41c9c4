"""Solve: an agent works on a person's own folder; they get a patch.

  set up    the folder is copied into a task; rows are held back
            (`environment.task_own`); the script runs as it is
  attempt   several episodes, all within one budget of time
  choose    the best script of all attempts by its validation score
  compare   with and without the change, on rows that no attempt was ever
            scored on

The last comparison is made once, for one script: choosing by it would make it
worthless.
"""

import contextlib
import dataclasses
import difflib
import pathlib
from collections.abc import Callable, Iterator, Sequence

from mlagent_jax import trajectories
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
  workers,
  workspace,
)
from mlagent_jax.environment.grading import Scores
from mlagent_jax.stages import workdir
from mlagent_jax.stages.evaluation import playing

_PATCHED_BYTES = 2**18  # a larger file is a result, not a change
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
  wish: task_own.Wish
  own: task_own.OwnTask
  task: task_folder.Task
  environment: episode.Environment


@dataclasses.dataclass(frozen=True)
class Found:
  """What came of all attempts.

  Attributes:
    starter: scores of the script as it was; `test` on unseen rows.
    best: of the best script; None if none was better on validation.
    trajectory_id, step: where it was found.
    patch: unified difference, from their folder to the best script's.
    files: path -> text of each changed file.
    attempts: best validation score of each attempt; None without one.
  """

  starter: Scores
  best: Scores | None
  trajectory_id: str
  step: int
  patch: str
  files: dict[str, str]
  attempts: tuple[float | None, ...]


@contextlib.contextmanager
def open_place(
  wish: task_own.Wish,
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
    wish: as `task_own.complete` returns it.
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
    scores = _score(
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
  path = out / 'wish.json'
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
    final = known['final_folder']
    return task_own.OwnTask(
      out / 'task' / known['folder'],
      out / 'task' / final if final else None,
      tuple(known['rows']),
      tuple(known['links']),
    )
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
  (out / 'task').mkdir(parents=True)
  own = task_own.make_task(wish, out / 'task', seed=seed)
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
  return own


def _score(environment, task, tree: str, wish) -> Scores:
  """Scores of the entry script of a tree.

  Raises:
    SolveError: if it has none; says what the script printed.
  """
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
  if verdict.scores is None:
    printed = ran.completed.output.strip()[-_SHOWN:] or '(nothing)'
    raise SolveError(
      f'{wish.script} cannot be worked on yet: {verdict.message} Its folder is'
      f' the current one, {wish.data} is where it was (with a part of its'
      f' rows), there is no network, and a run may take {wish.seconds:g} s and'
      f' {wish.memory_mb} MiB (--seconds, --memory_mb). It printed:\n{printed}'
    )
  return verdict.scores


def attempt(
  place: Place,
  contestant,
  *,
  best_of: int,
  budget_seconds: float,
  max_steps: int,
  worker_count: int,
  on_step: Callable[[], None] = lambda: None,
) -> None:
  """Plays the attempts that `out/attempts` does not hold yet."""
  with workers.make_pool(
    place.environment, kind='local', workers=worker_count
  ) as pool:
    playing.play_missing(
      pool,
      contestant,
      [place.task],
      place.out / 'attempts',
      episodes=best_of,
      max_steps=max_steps,
      max_seconds=budget_seconds,
      at_once=best_of,
      on_step=on_step,
    )


def find_best(place: Place) -> Found:
  """The best script of all attempts, compared on unseen rows.

  Raises:
    SolveError: if a script that had a score has none on the unseen rows.
  """
  scale = place.task.scale
  best, where, step_index, attempts = None, '', 0, []
  for played in trajectories.TrajectoryStore(place.out / 'attempts'):
    scores = []
    for index, step in enumerate(played.steps):
      score = step.outcome.score
      if score is None or step.outcome.kind is not records.OutcomeKind.EDITED:
        continue
      scores.append(score)
      gain = scale.sign * (score - scale.m_init)
      if gain > 0 and (
        best is None or scale.sign * (score - best.outcome.score) > 0
      ):
        best, where, step_index = step, played.trajectory_id, index
    pick = max if scale.higher_is_better else min
    attempts.append(pick(scores) if scores else None)
  starter = Scores(scale.m_init, scale.p_init)
  if best is None:
    return Found(starter, None, '', 0, '', {}, tuple(attempts))
  environment = place.environment
  before = environment.initial(place.task.name).tree
  after = best.after.tree
  found = Scores(best.outcome.score, best.outcome.test_score)
  if place.own.final_folder is not None:
    final = task_folder.load_task(place.own.final_folder)
    prepared.prepare_task(final)
    unseen = [
      _score(environment, final, tree, place.wish).test
      for tree in (before, after)
    ]
    starter = Scores(starter.validation, unseen[0])
    found = Scores(found.validation, unseen[1])
  patch, files = difference(environment.store, before, after)
  return Found(starter, found, where, step_index, patch, files, tuple(attempts))


def difference(
  store: blobs.BlobStore, before: str, after: str
) -> tuple[str, dict[str, str]]:
  """(patch, changed files) between the texts of two trees.

  Files that a run wrote are left out unless they are scripts: they are
  results. Nothing that an agent could call a file makes the patch write
  outside of the folder it is applied in: names of a tree are relative.
  """
  old, new = (workspace.read_tree(tree, store) for tree in (before, after))
  parts: list[str] = []
  changed = {}
  for path in sorted(old.keys() | new.keys()):
    a, b = old.get(path), new.get(path)
    if b is None or b.kind != 'file' or a == b:
      continue
    if a is None and not path.endswith('.py'):
      continue
    if a is not None and (a.kind != 'file' or a.content == b.content):
      continue
    content = store.get(b.content)
    if len(content) > _PATCHED_BYTES:
      continue
    text = content.decode('utf-8', 'replace')
    was = '' if a is None else store.get(a.content).decode('utf-8', 'replace')
    changed[path] = text
    parts += _unified(path, was, text, is_new=a is None)
  return ''.join(parts), changed


def _unified(path: str, was: str, text: str, *, is_new: bool) -> Sequence[str]:
  lines = []
  for line in difflib.unified_diff(
    was.splitlines(keepends=True),
    text.splitlines(keepends=True),
    '/dev/null' if is_new else f'a/{path}',
    f'b/{path}',
  ):
    lines.append(
      line if line.endswith('\n') else f'{line}\n\\ No newline at end of file\n'
    )
  return lines


def write_results(place: Place, found: Found, agent: str) -> dict:
  """Writes solution.patch, best/ and solve.json; returns what is in it."""
  out = place.out
  (out / 'solution.patch').write_text(found.patch, encoding='utf-8')
  for path, text in found.files.items():
    target = out / 'best' / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding='utf-8')
  scale = place.task.scale
  result = {
    'agent': agent,
    'script': place.wish.script,
    'metric': place.task.metric,
    'higher_is_better': scale.higher_is_better,
    'rows': dict(
      zip(('work', 'validation', 'unseen'), place.own.rows, strict=True)
    ),
    'starter': dataclasses.asdict(found.starter),
    'best': dataclasses.asdict(found.best) if found.best else None,
    'improved_on_unseen': (
      found.best is not None
      and scale.sign * (found.best.test - found.starter.test) > 0
    ),
    'found_in': found.trajectory_id,
    'found_at_step': found.step,
    'attempts': list(found.attempts),
  }
  workdir.write_json(out / 'solve.json', result)
  return result

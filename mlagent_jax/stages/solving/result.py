"""The best script of all attempts: found, compared, and written down."""

import dataclasses
import difflib
import shutil
from collections.abc import Sequence

from mlagent_jax import trajectories
from mlagent_jax.environment import (
  blobs,
  edits,
  prepared,
  records,
  task_folder,
  workspace,
)
from mlagent_jax.environment.grading import Scores
from mlagent_jax.stages import workdir
from mlagent_jax.stages.evaluation import playing
from mlagent_jax.stages.solving.place import Place, score_of, try_script

ATTEMPTS = 'evaluation'  # where the report looks for episodes
_PATCHED_BYTES = 2**18  # a larger file is a result, not a change


@dataclasses.dataclass(frozen=True)
class Found:
  """What came of all attempts.

  Attributes:
    starter: scores of the script as it was; `test` on unseen rows.
    best: of the best script; None if none was better on validation and has
      a score on unseen rows too.
    trajectory_id, step: where it was found.
    patch: unified difference, from their folder to the best script's.
    files: path -> text of each changed file.
    attempts: best validation score of each attempt; None without one.
    failed_on_unseen: scripts that were better still on validation, but have no
      score on the unseen rows.
  """

  starter: Scores
  best: Scores | None
  trajectory_id: str
  step: int
  patch: str
  files: dict[str, str]
  attempts: tuple[float | None, ...]
  failed_on_unseen: int = 0


def find_best(place: Place, agent: str) -> Found:
  """The best script of all attempts, compared on unseen rows.

  The best is by validation. One that has no score at all on the unseen rows is
  a mistake of the agent's, and the next one takes its place; a score there
  chooses nothing.

  Raises:
    SolveError: if the person's own script has no score on the unseen rows.
  """
  folder = playing.folder_of(place.out / ATTEMPTS, agent)
  scale = place.task.scale
  better, attempts = [], []
  for played in trajectories.TrajectoryStore(folder):
    scored = [
      (step, index)
      for index, step in enumerate(played.steps)
      if step.outcome.kind is records.OutcomeKind.EDITED
    ]
    scores = [step.outcome.score for step, _ in scored]
    pick = max if scale.higher_is_better else min
    attempts.append(pick(scores) if scores else None)
    better += [
      (step, played.trajectory_id, index)
      for step, index in scored
      if scale.sign * (step.outcome.score - scale.m_init) > 0
    ]
  # Of equal ones the first that was found.
  better.sort(key=lambda found: -scale.sign * found[0].outcome.score)
  starter = Scores(scale.m_init, scale.p_init)
  if not better:
    return Found(starter, None, '', 0, '', {}, tuple(attempts))
  before = place.environment.initial(place.task.name).tree
  final = None
  if place.own.final_folder is not None:
    final = task_folder.load_task(place.own.final_folder)
    prepared.prepare_task(final)
    unseen = score_of(place.environment, final, before, place.wish)
    starter = Scores(starter.validation, unseen.test)
  failed: set[str] = set()
  for step, trajectory_id, index in better:
    after = step.after.tree
    if after in failed:
      continue
    scores = Scores(step.outcome.score, step.outcome.test_score)
    if final is not None:
      _, verdict = try_script(place.environment, final, after)
      if verdict.scores is None:
        failed.add(after)
        continue
      scores = Scores(scores.validation, verdict.scores.test)
    patch, files = difference(place.environment.store, before, after)
    return Found(
      starter,
      scores,
      trajectory_id,
      index,
      patch,
      files,
      tuple(attempts),
      len(failed),
    )
  return Found(starter, None, '', 0, '', {}, tuple(attempts), len(failed))


def difference(
  store: blobs.BlobStore, before: str, after: str
) -> tuple[str, dict[str, str]]:
  """(patch, changed files) between the texts of two trees.

  New files are results and left out, unless they are scripts; so is all that a
  patch cannot carry: what is no UTF-8 text, or has a name that `patch` reads in
  another way. Nothing that an agent could call a file makes the patch write
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
    was, text = '' if a is None else _text(store, a), _text(store, b)
    if was is None or text is None or not _is_plain(path):
      continue
    changed[path] = text
    parts += _unified(path, was, text, is_new=a is None)
  return ''.join(parts), changed


def _text(store: blobs.BlobStore, entry: workspace.Entry) -> str | None:
  """A file's text; None if it is none, or so long that it is a result."""
  content = store.get(entry.content)
  if len(content) > _PATCHED_BYTES or b'\0' in content:
    return None
  try:
    return content.decode('utf-8')
  except UnicodeDecodeError:
    return None


def _is_plain(path: str) -> bool:
  return path.isprintable() and not {'"', '\\'} & set(path)


def _unified(path: str, was: str, text: str, *, is_new: bool) -> Sequence[str]:
  # Without a tab at its end, `patch` takes a name to end at its first space.
  end = '\t' if ' ' in path else ''
  lines = []
  for line in difflib.unified_diff(
    edits.split_lines(was),
    edits.split_lines(text),
    '/dev/null' if is_new else f'a/{path}{end}',
    f'b/{path}{end}',
  ):
    lines.append(
      line if line.endswith('\n') else f'{line}\n\\ No newline at end of file\n'
    )
  return lines


def write_results(place: Place, found: Found, agent: str) -> dict:
  """Writes solution.patch, best/ and solve.json; returns what is in it."""
  out = place.out
  (out / 'solution.patch').write_bytes(found.patch.encode('utf-8'))
  if (out / 'best').exists():  # of an earlier start, with fewer attempts
    shutil.rmtree(out / 'best')
  for path, text in found.files.items():
    target = out / 'best' / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(text.encode('utf-8'))
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
    'failed_on_unseen': found.failed_on_unseen,
  }
  workdir.write_json(out / 'solve.json', result)
  return result

"""The best script of all attempts: found, compared, and written down."""

import dataclasses
import difflib
from collections.abc import Sequence

from mlagent_jax import trajectories
from mlagent_jax.environment import (
  blobs,
  prepared,
  records,
  task_folder,
  workspace,
)
from mlagent_jax.environment.grading import Scores
from mlagent_jax.stages import workdir
from mlagent_jax.stages.evaluation import playing
from mlagent_jax.stages.solving.place import Place, score_of

ATTEMPTS = 'evaluation'  # where the report looks for episodes
_PATCHED_BYTES = 2**18  # a larger file is a result, not a change


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


def find_best(place: Place, agent: str) -> Found:
  """The best script of all attempts, compared on unseen rows.

  Raises:
    SolveError: if a script that had a score has none on the unseen rows.
  """
  folder = playing.folder_of(place.out / ATTEMPTS, agent)
  scale = place.task.scale
  best, where, step_index, attempts = None, '', 0, []
  for played in trajectories.TrajectoryStore(folder):
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
      score_of(environment, final, tree, place.wish).test
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

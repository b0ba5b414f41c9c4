"""From a person's folder to a patch: the whole way."""

import contextlib
import dataclasses
import pathlib
import shlex
import time
from collections.abc import Iterator

import rich.console
import rich.markup
import rich.table

from mlagent_jax.environment import episode, task_wish, workers
from mlagent_jax.exploration import chat_editor
from mlagent_jax.stages import run_log, session, trained
from mlagent_jax.stages.evaluation import contestants, playing
from mlagent_jax.stages.solving import place as place_lib
from mlagent_jax.stages.solving import result as result_lib


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is asked for; the flags of solve.py.

  Attributes:
    wish: what the person says of their folder.
    agent: 'scripted', 'random', 'endpoint:MODEL', or the work directory of a
      training run, with ':sft', ':rl' or ':untrained' behind it or not.
    out: the folder of results.
    budget_seconds: of all attempts together, which run side by side.
    best_of: attempts.
    max_steps: of an attempt.
    endpoint: where 'endpoint:MODEL' is, and what it costs.
    protocol: None: the training run's, 'full' for endpoints, else 'compact'.
    sandbox: a kind, or 'auto'.
    workers: scripts at once.
    temperature: of sampling.
    seed: of the rows that are held back, and of every draw.
  """

  wish: task_wish.Wish
  agent: str
  out: pathlib.Path
  budget_seconds: float = 1800.0
  best_of: int = 8
  max_steps: int = 15
  endpoint: contestants.EndpointOptions | None = None
  protocol: str | None = None
  sandbox: str = 'auto'
  workers: int = 2
  temperature: float = 1.0
  seed: int = 0


def solve(plan: Plan, console: rich.console.Console) -> dict:
  """Works on the folder; returns what solve.json holds.

  Raises:
    TaskError: lists what the person has to say.
    SolveError: if their script does not run, or gives no score.
    ConfigError, WorkdirError, SandboxUnavailable, EndpointError: see there.
  """
  for name in ('best_of', 'max_steps', 'workers', 'budget_seconds'):
    if getattr(plan, name) < 1:
      raise session.ConfigError(
        f'{name} must be at least 1, not {getattr(plan, name)}'
      )
  if not plan.temperature >= 0:
    raise session.ConfigError(
      f'temperature must be at least 0, not {plan.temperature}'
    )
  wish = task_wish.complete(plan.wish)

  def say(text: str) -> None:
    console.print(rich.markup.escape(text), highlight=False, soft_wrap=True)

  start = time.monotonic()
  with (
    _open_agent(plan) as (contestant, options, editor),
    place_lib.open_place(
      wish,
      plan.out,
      allowed=options.allowed,
      protocol=options.protocol,
      sandbox_kind=plan.sandbox,
      editor=editor,
      seed=plan.seed,
      say=say,
    ) as place,
  ):
    folder = playing.folder_of(plan.out / result_lib.ATTEMPTS, contestant.name)
    playing.check_settings(
      folder,
      {
        'protocol': options.protocol,
        'max_steps': plan.max_steps,
        'seed': plan.seed,
        **contestant.identity,
      },
    )
    total = plan.best_of * plan.max_steps
    with (
      workers.make_pool(
        place.environment, kind='local', workers=plan.workers
      ) as pool,
      run_log.progress_bar(console, 'attempts', total, 0) as bar,
    ):
      playing.play_missing(
        pool,
        contestant,
        [place.task],
        folder,
        episodes=plan.best_of,
        max_steps=plan.max_steps,
        max_seconds=max(1.0, plan.budget_seconds - (time.monotonic() - start)),
        at_once=plan.best_of,
        on_step=bar,
      )
    say('comparing the best script with yours, on rows that no attempt saw')
    found = result_lib.find_best(place, contestant.name)
    result = result_lib.write_results(place, found, contestant.name)
    console.print(table(place, found))
  return result


@contextlib.contextmanager
def _open_agent(plan: Plan) -> Iterator[tuple]:
  """(contestant, options, editor) of an agent's name."""
  name = plan.agent
  common = {
    'max_steps': plan.max_steps,
    'seed': plan.seed,
    'temperature': plan.temperature,
    'batch_size': plan.best_of,
  }
  if name.startswith(contestants.ENDPOINT):
    options = contestants.Options(
      protocol=plan.protocol or 'full',
      allowed=episode.WITHOUT_EDITOR | episode.NEEDS_EDITOR,
      endpoint=plan.endpoint,
      **common,
    )
    with contestants.make(name, options, None) as contestant:
      yield contestant, options, chat_editor.ChatEditor(contestant.model)
    return
  if name in ('scripted', 'random'):
    options = contestants.Options(
      protocol=plan.protocol or 'compact',
      allowed=episode.WITHOUT_EDITOR,
      **common,
    )
    with contestants.make(name, options, None) as contestant:
      yield contestant, options, None
    return
  folder, stage = _checkpoint(name)
  run = trained.open_trained(folder)
  options = contestants.Options(
    protocol=plan.protocol or run.config.agent.protocol,
    allowed=session.allowed_actions(run.config) - episode.NEEDS_EDITOR,
    **common,
  )
  with contestants.make(stage, options, run) as contestant:
    yield contestant, options, None


def _checkpoint(name: str) -> tuple[pathlib.Path, str]:
  """(work directory, stage) of 'DIR' or 'DIR:STAGE'."""
  folder, _, stage = name.rpartition(':')
  if stage not in trained.STAGES:
    folder, stage = name, ''
  path = pathlib.Path(folder).expanduser()
  if not path.is_dir():
    raise session.ConfigError(
      f'--agent: {name!r} is none of scripted, random, endpoint:MODEL, and no'
      ' folder of that name is the work directory of a training run'
    )
  if not stage:
    have = [s for s in ('rl', 'sft') if (path / s / 'checkpoints').is_dir()]
    if not have:
      raise session.ConfigError(
        f'--agent: {path} has no checkpoint of rl or sft; train one, or say'
        f' {path}:untrained'
      )
    stage = have[0]
  return path, stage


def table(place, found) -> rich.table.Table:
  """Scores with and without the change, and what to do with it."""
  task, out = place.task, place.out
  arrow = '↑' if task.scale.higher_is_better else '↓'
  name = 'printed score' if task.score_pattern else task.metric
  grid = rich.table.Table(title=f'{place.wish.script}: {name} {arrow}')
  grid.add_column('')
  grid.add_column('as it was', justify='right')
  grid.add_column('with the change', justify='right')
  best = found.best
  rows = [('validation (what attempts were told)', 'validation')]
  rows.append((f'{place.own.rows[2]} rows that no attempt saw', 'test'))
  for label, key in rows:
    grid.add_row(
      label,
      f'{getattr(found.starter, key):.6g}',
      '-' if best is None else f'{getattr(best, key):.6g}',
    )
  if best is None:
    grid.caption = (
      f'None of {len(found.attempts)} attempts was better on validation;'
      ' nothing to change.'
      if not found.failed_on_unseen
      else f'{found.failed_on_unseen} scripts were better on validation, but'
      ' none of them has a score on the unseen rows; nothing to change.'
    )
  else:
    grid.caption = (
      f'patch: {out / "solution.patch"}\n'
      f'apply: cd {shlex.quote(str(place.wish.folder.resolve()))} &&'
      f' patch -p1 < {shlex.quote(str((out / "solution.patch").resolve()))}'
    )
  return grid

"""The whole evaluation: play what is missing, then write what it says."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import jax
import rich.console
import rich.table

from mlagent_jax import trajectories
from mlagent_jax.environment import (
  blobs,
  cache,
  episode,
  prepared,
  records,
  sandbox,
  task_folder,
)
from mlagent_jax.environment.workers import local
from mlagent_jax.stages import run_log, session, trained, workdir
from mlagent_jax.stages.evaluation import (
  complexity,
  contestants,
  figures,
  playing,
  tables,
)
from mlagent_jax.stages.evaluation.usage import UsageFile

FOLDER = 'evaluation'


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is asked for; the flags of evaluate.py.

  Attributes:
    workdir: where everything goes, under evaluation/.
    checkpoint: work directory of a training run; None without one.
    agents: names of `contestants`.
    tasks: names or folders.
    episodes: a task.
    max_steps: of an episode.
    max_seconds: of an episode.
    seed: of every draw.
    temperature: of policies.
    protocol: None: 'full' for endpoints, which nobody trained on the other;
      for all others the training run's, or 'compact' without one.
    max_prompt_tokens: of policies; 0: the training run's.
    sandbox: a kind, or 'auto'.
    workers: scripts at once.
    at_once: episodes in flight, and the largest batch of a policy.
    reuse_executions: whether what ran once is not run again.
    dollars_per_hour: of one accelerator.
    bootstrap_samples: of intervals and tests.
    endpoint: where 'endpoint:MODEL' is, and what it costs.
  """

  workdir: pathlib.Path
  checkpoint: pathlib.Path | None
  agents: tuple[str, ...]
  tasks: tuple[str, ...]
  episodes: int = 8
  max_steps: int = 15
  max_seconds: float = 1800.0
  seed: int = 0
  temperature: float = 1.0
  protocol: str | None = None
  max_prompt_tokens: int = 0
  sandbox: str = 'auto'
  workers: int = 2
  at_once: int = 16
  reuse_executions: bool = True
  dollars_per_hour: float = 0.0
  bootstrap_samples: int = 10_000
  endpoint: contestants.EndpointOptions = contestants.EndpointOptions()


def suite_tasks(suite: str) -> tuple[str, ...]:
  """Names of a suite, or the task folders inside a folder.

  Raises:
    TaskError: if it is neither.
  """
  folder = pathlib.Path(suite)
  if folder.is_dir():
    found = tuple(str(f.parent) for f in sorted(folder.glob('*/task.toml')))
    if not found:
      raise task_folder.TaskError(
        f'{folder} holds no task folder (FOLDER/NAME/task.toml)'
      )
    return found
  return task_folder.list_tasks(suite)


def default_agents(checkpoint: pathlib.Path | None) -> tuple[str, ...]:
  """Everyone who can play: what the training run has, and who needs none."""
  stages = [
    stage
    for stage in trained.STAGES
    if checkpoint is not None
    and (stage == 'untrained' or (checkpoint / stage / 'checkpoints').is_dir())
  ]
  return ('starter', 'random', *stages, 'scripted')


def evaluate(plan: Plan, console: rich.console.Console) -> dict:
  """Plays, reports and returns what results.json holds.

  Raises:
    ConfigError, WorkdirError, TaskError, SandboxUnavailable: see there.
  """
  _check(plan)
  tasks: dict[str, task_folder.Task] = {}
  for task in map(task_folder.load_task, plan.tasks):
    if task.name in tasks:
      raise session.ConfigError(
        f'two tasks are called {task.name!r}: {tasks[task.name].folder} and'
        f' {task.folder}'
      )
    tasks[task.name] = task
  run = (
    None if plan.checkpoint is None else trained.open_trained(plan.checkpoint)
  )
  for stage in set(plan.agents) & set(trained.STAGES):
    run.step(stage)  # a missing checkpoint is found before anything is played
  place = plan.workdir / FOLDER
  for task in tasks.values():
    prepared.prepare_task(task)
  with sandbox.make_sandbox(plan.sandbox) as box:
    identity = box.identity
    console.print(f'sandbox: {identity}', highlight=False, soft_wrap=True)
    for name in plan.agents:
      if name != contestants.STARTER:
        options = options_of(plan, run, name)
        with _open_pool(plan, options, tasks, box) as pool:
          _play(plan, name, options, run, pool, tasks, place, console)
  results = report(plan, run, tasks, place, identity)
  write(place, results)
  console.print(summary(results))
  return results


def _check(plan: Plan) -> None:
  """Finds what is wrong with a plan before anything is opened."""
  if not plan.tasks:
    raise session.ConfigError('there is no task to evaluate on')
  for name, least in (
    ('episodes', 1),
    ('max_steps', 1),
    ('workers', 1),
    ('at_once', 1),
    ('bootstrap_samples', 1),
    ('temperature', 0),
    ('max_prompt_tokens', 0),
    ('dollars_per_hour', 0),
  ):
    value = getattr(plan, name)
    if not value >= least:
      raise session.ConfigError(
        f'--{name} must be at least {least}, not {value}'
      )
  if not plan.max_seconds > 0:
    raise session.ConfigError(
      f'--max_minutes must be above 0, not {plan.max_seconds / 60:g}'
    )
  contestants.check_names(plan.agents, plan.checkpoint is not None)


def options_of(plan: Plan, run, agent: str) -> contestants.Options:
  """What one agent has to know.

  There is no second model here: actions that need one are left out, whatever
  the training run had.
  """
  if run is None:
    protocol, allowed = 'compact', episode.WITHOUT_EDITOR
  else:
    protocol = run.config.agent.protocol
    allowed = session.allowed_actions(run.config) - episode.NEEDS_EDITOR
  if agent.startswith(contestants.ENDPOINT):
    protocol = 'full'
  return contestants.Options(
    protocol=plan.protocol or protocol,
    allowed=allowed,
    max_steps=plan.max_steps,
    seed=plan.seed,
    temperature=plan.temperature,
    batch_size=plan.at_once,
    max_prompt_tokens=plan.max_prompt_tokens,
    dollars_per_hour=plan.dollars_per_hour,
    endpoint=plan.endpoint,
  )


@contextlib.contextmanager
def _open_pool(plan: Plan, options, tasks, box) -> Iterator[local.LocalPool]:
  executions = None
  if plan.reuse_executions:
    executions = cache.ExecutionCache(plan.workdir / 'executions')
  environment = episode.Environment(
    tasks,
    box,
    blobs.BlobStore(plan.workdir / 'blobs'),
    cache=executions,
    allowed=options.allowed,
    protocol=options.protocol,
  )
  with local.LocalPool(environment, workers=plan.workers) as pool:
    yield pool


def _play(plan, name, options, run, pool, tasks, place, console) -> None:
  """A contestant's missing episodes."""
  folder = playing.folder_of(place, name)
  with contestants.make(name, options, run) as contestant:
    playing.check_settings(
      folder,
      {
        'protocol': options.protocol,
        'actions': sorted(options.allowed),
        'max_steps': plan.max_steps,
        'max_seconds': plan.max_seconds,
        'seed': plan.seed,
        **contestant.identity,
      },
    )
    store = trajectories.TrajectoryStore(folder)
    done = sum(
      playing.trajectory_id(name, task, number) in store
      for task in tasks
      for number in range(plan.episodes)
    )
    total = len(tasks) * plan.episodes
    with run_log.progress_bar(console, name, total, done) as bar:
      playing.play_missing(
        pool,
        contestant,
        list(tasks.values()),
        folder,
        episodes=plan.episodes,
        max_steps=plan.max_steps,
        max_seconds=plan.max_seconds,
        at_once=plan.at_once,
        on_done=lambda t: bar(
          f'{t.task}: {len(t.steps)} steps; scripts reused'
          f' {pool.counts.hit_rate:.0%}'
        ),
      )


def report(plan: Plan, run, tasks, place, identity: str) -> dict:
  """What the episodes on disk say; exactly `plan.episodes` of each."""
  scales = {name: task.scale for name, task in tasks.items()}
  played = {agent: _read(plan, place, agent, scales) for agent in plan.agents}
  held_in = set(run.config.tasks.train) if run else set()
  splits = {
    'all': list(tasks),
    'held_in': [name for name in tasks if name in held_in],
    'held_out': [name for name in tasks if name not in held_in],
  }
  samples = plan.bootstrap_samples
  gains = {
    agent: {
      name: figures.gains_of(own.scores, scales[name])
      for name, own in by_task.items()
    }
    for agent, by_task in played.items()
  }
  means = {
    agent: {name: sum(g) / len(g) for name, g in by_task.items()}
    for agent, by_task in gains.items()
  }
  ranked = complexity.ranking(list(tasks.values()))
  moving = {
    agent: {
      # Rounding of p_init must not rank tasks on which nothing changed.
      name: 0.0 if abs(gain) <= figures.TIE else gain
      for name, gain in by_task.items()
    }
    for agent, by_task in means.items()
    if agent != contestants.STARTER
  }
  return {
    'settings': {
      'episodes': plan.episodes,
      'max_steps': plan.max_steps,
      'max_seconds': plan.max_seconds,
      'seed': plan.seed,
      'temperature': plan.temperature,
      'sandbox': identity,
      'devices': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
      'dollars_per_accelerator_hour': plan.dollars_per_hour,
      'bootstrap_samples': samples,
      'checkpoint': str(plan.checkpoint) if plan.checkpoint else None,
    },
    'tasks': {
      name: {
        'split': 'held_in' if name in held_in else 'held_out',
        'metric': task.metric,
        'higher_is_better': task.scale.higher_is_better,
        'stands_for': task.stands_for,
        'p_init': task.scale.p_init,
        'p_best': task.scale.p_best,
        'agents': {
          agent: figures.task_figures(by_task[name], task.scale, samples)
          for agent, by_task in played.items()
        },
      }
      for name, task in tasks.items()
    },
    'agents': {
      agent: {
        split: figures.agent_figures(
          {name: by_task[name] for name in names}, scales, samples
        )
        for split, names in splits.items()
        if names
      }
      for agent, by_task in played.items()
    },
    'comparisons': figures.comparisons(gains, samples),
    'complexity': {
      'tasks': ranked,
      'spearman': complexity.study(ranked, moving),
    },
  }


def _read(
  plan: Plan, place, agent: str, scales: Mapping[str, records.Scale]
) -> dict[str, figures.Played]:
  """An agent's episodes, as many as were asked for, by task."""
  if agent == contestants.STARTER:
    return {
      name: figures.Played((scale.p_init,) * plan.episodes)
      for name, scale in scales.items()
    }
  folder = playing.folder_of(place, agent)
  usages = UsageFile(folder).read()
  by_task: dict[str, list] = {name: [] for name in scales}
  for trajectory in trajectories.TrajectoryStore(folder):
    if trajectory.task in by_task and trajectory.seed < plan.episodes:
      by_task[trajectory.task].append(trajectory)
  return {
    name: figures.played(own, scales[name], usages)
    for name, own in by_task.items()
  }


def write(place: pathlib.Path, results: dict) -> None:
  """results.json, .csv, .md, .tex, and the picture of the complexity study."""
  workdir.write_json(place / 'results.json', results)
  for suffix, render in (
    ('csv', tables.to_csv),
    ('md', tables.to_markdown),
    ('tex', tables.to_latex),
  ):
    (place / f'results.{suffix}').write_text(render(results), encoding='utf-8')
  moving = [a for a in results['agents'] if a != contestants.STARTER]
  gains = {
    agent: {
      name: card['agents'][agent]['normalised_gain_mean']
      for name, card in results['tasks'].items()
    }
    for agent in moving
  }
  complexity.draw(
    place / 'complexity.png', results['complexity']['tasks'], gains
  )


def summary(results: Mapping) -> rich.table.Table:
  """The table of scores for a terminal."""
  header, *rows = tables.main_table(results)
  grid = rich.table.Table(title='Final test scores; * is the best mean')
  for name in header:
    grid.add_column(name, justify='left' if name == header[0] else 'right')
  for row in rows:
    if not any(row[1:]):
      grid.add_section()
    grid.add_row(*row)
  grid.add_section()
  grid.add_row(
    'mean normalised gain', '', *_over_tasks(results, 'normalised_gain_mean')
  )
  grid.add_row(
    'wins against the starter', '', *_over_tasks(results, 'win_rate')
  )
  return grid


def _over_tasks(results, name: str) -> Sequence[str]:
  return [f'{by["all"][name]:+.3f}' for by in results['agents'].values()]

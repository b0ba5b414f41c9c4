"""Collect: an expert with diverse ideas works on every training task.

For each task at least 100 ideas, of which the 10 furthest apart are kept; each
trajectory gets 1 to 3 of them. The expert is the scripted one or a chat model,
which then writes the ideas too. Every trajectory is on disk before it counts;
a killed run goes on with those that are missing.
Source: ML-Agent, arXiv 2505.23723, exploration-enriched fine-tuning.
"""

import collections
import concurrent.futures
import itertools

import numpy as np
import rich.table

from mlagent_jax import reward as reward_lib
from mlagent_jax import trajectories
from mlagent_jax.environment import records
from mlagent_jax.exploration import (
  chat_expert,
  chat_ideas,
  diversity,
  embeddings,
  expert,
  ideas,
)
from mlagent_jax.stages import session as session_lib
from mlagent_jax.stages import workdir
from mlagent_jax.stages.session import Session

SEED_STREAM = 1


def choose_ideas(session: Session) -> dict[str, tuple]:
  """The chosen ideas of every training task, written to collect/ideas.json.

  Returns:
    Task -> `ideas.Idea`s for the scripted expert, texts for a chat model.
  """
  config = session.config
  settings = config.collect
  embed = embeddings.make_embedding(
    settings.embedding, settings.embedding_folder
  )
  chosen, report = {}, {}
  for number, name in enumerate(config.tasks.train):
    written = _written_ideas(session, name)
    if len(written) < settings.ideas:
      raise session_lib.ConfigError(
        f'collect.ideas: {settings.ideas} asked for, but there are only'
        f' {len(written)} for {name}'
      )
    texts = [_text(idea) for idea in written]
    vectors = embed(texts)
    picked = diversity.choose(
      vectors,
      settings.diverse_ideas,
      settings.choice,
      seed=config.seed * 1000 + number,
    )
    chosen[name] = tuple(written[index] for index in picked)
    report[name] = {
      'ideas': texts,
      'families': len({getattr(idea, 'family', idea) for idea in written}),
      'chosen': [texts[index] for index in picked],
      'mean_distance_chosen': diversity.mean_distance(vectors[list(picked)]),
      'mean_distance_all': diversity.mean_distance(vectors),
    }
  workdir.write_json(session.workdir.stage('collect') / 'ideas.json', report)
  return chosen


def _text(idea: ideas.Idea | str) -> str:
  return idea if isinstance(idea, str) else idea.text


def _written_ideas(session: Session, name: str) -> list:
  """All ideas of one task; those of a chat model are paid for once."""
  task = session.tasks[name]
  script = session.environment.script(name, session.environment.initial(name))
  settings = session.config.collect
  if settings.expert == 'scripted':
    return ideas.write_ideas(task, script)
  path = session.workdir.stage('collect') / 'ideas' / f'{name}.json'
  known = workdir.read_json(path)
  if known is not None:
    return known
  with session.log.progress(f'ideas for {name}', settings.ideas) as bar:
    written = chat_ideas.write_ideas(
      session.chat_models.get(settings.expert),
      task,
      script,
      settings.ideas,
      max_tokens=session.config.endpoint.max_idea_tokens,
      seed=session.config.seed,
      on_done=lambda new: bar(steps=new),
    )
  path.parent.mkdir(exist_ok=True)
  workdir.write_json(path, written)
  return written


def run(session: Session) -> dict:
  """Collects the trajectories that are still missing; returns a summary.

  Raises:
    EndpointError, CostCeilingError: from a chat model. What was played to its
      end is stored before; the next start goes on with the rest.
  """
  return session.processes.leader_does(_collect, session)


def _collect(session: Session) -> dict:
  config = session.config
  store = trajectories.TrajectoryStore(session.workdir.stage('collect'))
  chosen = choose_ideas(session)
  plan = [
    (name, number)
    for number in range(config.collect.trajectories_per_task)
    for name in config.tasks.train
  ]
  missing = [
    (name, number)
    for name, number in plan
    if trajectory_id(config, name, number) not in store
  ]

  def begin(name, number):
    rng = np.random.default_rng(
      [config.seed, SEED_STREAM, config.tasks.train.index(name), number]
    )
    count = rng.integers(
      config.collect.min_ideas_per_trajectory,
      config.collect.max_ideas_per_trajectory + 1,
    )
    drawn = rng.choice(len(chosen[name]), count, replace=False)
    given = [chosen[name][index] for index in drawn]
    agent = _expert(session, given, chosen[name], int(rng.integers(2**31)))
    return session.pool.play(
      name,
      agent,
      seed=number,
      max_steps=config.collect.max_steps,
      max_seconds=60 * config.environment.max_minutes,
      ideas=tuple(_text(idea) for idea in given),
      trajectory_id=trajectory_id(config, name, number),
    )

  done = len(plan) - len(missing)
  rewards, kinds = [], collections.Counter()
  check = session.processes.check_stopped
  with session.log.progress('collect', len(plan), done) as bar:
    for played in _in_order([(begin, *item) for item in missing], check):
      store.append(played)
      done += 1
      rewards += rewards_of(played, session)
      kinds.update(step.outcome.kind for step in played.steps)
      figures = {'reward': np.mean(rewards), 'steps': sum(kinds.values())}
      text = (
        f'reward {figures["reward"]:.2f}'
        f'  edits {share(kinds, records.OutcomeKind.EDITED):.0%}'
      )
      if config.collect.expert != 'scripted':
        spent = session.chat_models.get(config.collect.expert).ledger.total
        figures['money'] = spent.money
        figures['prompt_tokens'] = spent.prompt_tokens
        figures['completion_tokens'] = spent.completion_tokens
        text += f'  cost {spent.money:.2f}'
      session.log.metrics('collect', done, **figures)
      bar(text)
  found = summary(session, list(store))
  session.log.console.print(table(found))
  return found


def _in_order(calls, check, ahead: int = 64):
  """Results of begin(name, number) futures, in order, some of them ahead.

  After an error nothing more is begun; what runs by then is waited for and
  yielded (episodes are not lost because another one failed), then the error is
  raised. `check` is called every second and may raise.
  """
  calls = iter(calls)
  running: collections.deque[concurrent.futures.Future] = collections.deque(
    begin(*item) for begin, *item in itertools.islice(calls, ahead)
  )
  first_error = None
  while running:
    future = running.popleft()
    while not concurrent.futures.wait([future], timeout=1.0).done:
      check()
    try:
      result = future.result()
    except concurrent.futures.CancelledError:
      continue
    except Exception as error:  # noqa: BLE001 - raised again below
      if first_error is None:
        first_error = error
        for waiting in running:
          waiting.cancel()
      continue
    yield result
    if first_error is None:
      running += [begin(*item) for begin, *item in itertools.islice(calls, 1)]
  if first_error is not None:
    raise first_error


def _expert(session: Session, given, others, seed: int):
  """The agent of one episode."""
  config = session.config
  if config.collect.expert == 'scripted':
    return expert.ScriptedExpert(
      given, others=others, protocol=config.agent.protocol, seed=seed
    )
  return chat_expert.ChatExpert(
    session.chat_models.get(config.collect.expert),
    protocol=config.agent.protocol,
    allowed=session_lib.allowed_actions(config),
    ideas=given,
    budget_tokens=config.endpoint.max_prompt_tokens,
    max_tokens=config.endpoint.max_reply_tokens,
    temperature=config.endpoint.temperature,
    seed=seed,
  )


def trajectory_id(config, task: str, number: int) -> str:
  """The id of the expert's trajectory `number` of a task."""
  return f'{config.collect.expert}-{task}-{number:05d}'


def share(kinds: collections.Counter, kind: records.OutcomeKind) -> float:
  """Share of one kind; 0 of nothing."""
  return kinds[kind] / max(1, sum(kinds.values()))


def rewards_of(trajectory: records.Trajectory, session: Session) -> list[float]:
  """The reward of every step."""
  scale = session.scales[trajectory.task]
  return reward_lib.of_steps(trajectory.steps, scale, **session.config.reward)


def summary(session: Session, collected) -> dict:
  """Per task: how much there is, what became of it, and how diverse it is."""
  result = {}
  for name in session.config.tasks.train:
    own = [t for t in collected if t.task == name]
    steps = [step for t in own for step in t.steps]
    kinds = collections.Counter(step.outcome.kind for step in steps)
    rewards = [value for t in own for value in rewards_of(t, session)]
    edits = {step.after.tree for step in steps if step.outcome.edited}
    scores = [s.outcome.score for s in steps if s.outcome.score is not None]
    scale = session.scales[name]
    best = max if scale.higher_is_better else min
    result[name] = {
      'trajectories': len(own),
      'steps': len(steps),
      'kinds': {str(k): count for k, count in kinds.most_common()},
      'mean_reward': float(np.mean(rewards)) if rewards else None,
      'best_score': best(scores) if scores else None,
      'starter_score': scale.m_init,
      'distinct_edited_trees': len(edits),
      'distinct_scores': len({round(score, 6) for score in scores}),
    }
  return result


def table(found: dict) -> rich.table.Table:
  """A summary as a table, a task a row."""
  grid = rich.table.Table(title='Trajectories of the expert')
  for heading in ('task', 'episodes', 'steps', 'edited', 'failed', 'reward'):
    grid.add_column(heading, justify='left' if heading == 'task' else 'right')
  grid.add_column('best score (starter)', justify='right')
  grid.add_column('different scripts', justify='right')
  for name, row in found.items():
    steps = max(1, row['steps'])
    mistakes = {str(kind) for kind in reward_lib.MISTAKES}
    failed = sum(n for kind, n in row['kinds'].items() if kind in mistakes)
    best, mean = row['best_score'], row['mean_reward']
    grid.add_row(
      name,
      str(row['trajectories']),
      str(row['steps']),
      f'{row["kinds"].get("edited", 0) / steps:.0%}',
      f'{failed / steps:.0%}',
      '-' if mean is None else f'{mean:.3f}',
      f'{"-" if best is None else f"{best:.4g}"} ({row["starter_score"]:.4g})',
      str(row['distinct_edited_trees']),
    )
  return grid

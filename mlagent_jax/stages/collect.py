"""Collect: an expert with diverse ideas works on every training task.

For each task at least 100 ideas, of which the 10 furthest apart are kept; each
trajectory gets 1 to 3 of them. Every trajectory is on disk before the next
one of its worker begins; a killed run goes on with those that are missing.
Source: ML-Agent, arXiv 2505.23723, exploration-enriched fine-tuning.
"""

import collections

import numpy as np

from mlagent_jax import reward as reward_lib
from mlagent_jax import trajectories
from mlagent_jax.environment import records
from mlagent_jax.exploration import diversity, expert, ideas
from mlagent_jax.stages import workdir
from mlagent_jax.stages.session import Session

SEED_STREAM = 1


def choose_ideas(session: Session) -> dict[str, tuple]:
  """The diverse ideas of every training task, written to collect/ideas.json."""
  settings = session.config.collect
  chosen, report = {}, {}
  embed = diversity.ngram_embedding
  for name in session.config.tasks.train:
    task = session.tasks[name]
    written = ideas.write_ideas(
      task, session.environment.script(name, session.environment.initial(name))
    )
    if len(written) < settings.ideas:
      raise ValueError(
        f'{name}: only {len(written)} ideas; collect.ideas asks for'
        f' {settings.ideas}'
      )
    vectors = embed([idea.text for idea in written])
    picked = diversity.furthest_points(vectors, settings.diverse_ideas)
    chosen[name] = tuple(written[index] for index in picked)
    report[name] = {
      'ideas': [idea.text for idea in written],
      'families': len({idea.family for idea in written}),
      'chosen': [idea.text for idea in chosen[name]],
      'mean_distance_chosen': diversity.mean_distance(vectors[list(picked)]),
      'mean_distance_all': diversity.mean_distance(vectors),
    }
  workdir.write_json(session.workdir.stage('collect') / 'ideas.json', report)
  return chosen


def run(session: Session) -> dict:
  """Collects the trajectories that are still missing; returns a summary."""
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
    if trajectory_id(name, number) not in store
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
    agent = expert.ScriptedExpert(
      [chosen[name][index] for index in drawn],
      others=chosen[name],
      protocol=config.agent.protocol,
      seed=int(rng.integers(2**31)),
    )
    return session.pool.play(
      name,
      agent,
      seed=number,
      max_steps=config.collect.max_steps,
      max_seconds=60 * config.environment.max_minutes,
      ideas=tuple(chosen[name][index].text for index in drawn),
      trajectory_id=trajectory_id(name, number),
    )

  with session.log.progress(
    'collect', len(plan), len(plan) - len(missing)
  ) as bar:
    running = [begin(*item) for item in missing]
    rewards, kinds = [], collections.Counter()
    for number, future in enumerate(running):
      played = future.result()
      store.append(played)
      rewards += rewards_of(played, session)
      kinds.update(step.outcome.kind for step in played.steps)
      session.log.metrics(
        'collect',
        len(plan) - len(missing) + number + 1,
        reward=np.mean(rewards),
        steps=sum(kinds.values()),
      )
      bar(
        f'reward {np.mean(rewards):.2f}'
        f'  edits {share(kinds, records.OutcomeKind.EDITED):.0%}'
      )
  return summary(session, list(store))


def trajectory_id(task: str, number: int) -> str:
  """The id of the expert's trajectory `number` of a task."""
  return f'scripted-{task}-{number:05d}'


def share(kinds: collections.Counter, kind: records.OutcomeKind) -> float:
  """Share of one kind; 0 of nothing."""
  return kinds[kind] / max(1, sum(kinds.values()))


def rewards_of(trajectory: records.Trajectory, session: Session) -> list[float]:
  """The reward of every step."""
  scale = session.scales[trajectory.task]
  return [
    reward_lib.reward(step.outcome, scale, alpha=session.config.reward.alpha)
    for step in trajectory.steps
  ]


def summary(session: Session, collected) -> dict:
  """Per task: trajectories, steps, shares of outcome kinds, mean reward."""
  result = {}
  for name in session.config.tasks.train:
    own = [t for t in collected if t.task == name]
    kinds = collections.Counter(s.outcome.kind for t in own for s in t.steps)
    rewards = [value for t in own for value in rewards_of(t, session)]
    edits = {s.after.tree for t in own for s in t.steps if s.outcome.edited}
    result[name] = {
      'trajectories': len(own),
      'steps': sum(kinds.values()),
      'kinds': {str(k): count for k, count in kinds.most_common()},
      'mean_reward': float(np.mean(rewards)),
      'distinct_edited_trees': len(edits),
    }
  return result

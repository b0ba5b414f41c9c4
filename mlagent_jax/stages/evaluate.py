"""Evaluate: whole episodes on held-in and held-out tasks.

Final score of an episode: the test score of its last valid submission, the
starter's if there was none. Per task and agent: mean (avg@8) and best
(best@8) of 8 episodes, relative gain and normalised gain. Source: ML-Agent,
arXiv 2505.23723, section on evaluation; the normalised gain stands beside the
relative one so that one task on a small scale cannot carry a mean.
"""

import numpy as np

from mlagent_jax import rollout, trajectories
from mlagent_jax.stages import learner as learner_lib
from mlagent_jax.stages import sft, split_policy, statistics, workdir
from mlagent_jax.stages.evaluation import figures
from mlagent_jax.stages.session import Session

AGENTS = ('starter', 'base', 'sft', 'rl')
SPLITS = ('held_in', 'held_out')


def run(session: Session, learner: learner_lib.Learner, prompt_ids) -> dict:
  """Plays every agent's missing episodes; returns results.json's part."""
  scores = {'starter': _starter_scores(session)}
  trained = [s for s in ('sft', 'rl') if session.result(s) is not None]
  for agent in ('base', *trained):
    scores[agent] = _agent_scores(session, learner, prompt_ids, agent)
  return summarise(session, scores)


def _starter_scores(session) -> dict[str, list[float]]:
  episodes = session.config.evaluate.episodes
  return {
    name: [scale.p_init] * episodes for name, scale in session.scales.items()
  }


def _agent_scores(session, learner, prompt_ids, agent) -> dict[str, list]:
  """Final test scores of an agent's episodes, by task."""
  config = session.config
  settings = config.evaluate
  folder = session.workdir.stage('evaluate') / agent
  path = folder / 'scores.json'
  leader_does = session.processes.leader_does
  known = leader_does(workdir.read_json, path)
  if known is not None:
    return known
  if agent == 'base':
    params = learner.untrained()
  else:
    params = sft.load_params(session, learner, agent)
  tasks = list(session.tasks)
  policy = learner.policy(
    samples_per_prompt=1,
    batch_size=len(tasks) * settings.episodes,
    temperature=settings.temperature,
  )

  def play():
    total = len(tasks) * settings.episodes * settings.max_steps
    with session.log.progress(f'play {agent}', total) as bar:
      return rollout.play_episodes(
        policy,
        params,
        session.dispatcher(),
        prompt_ids,
        tasks,
        agent=agent,
        episodes=settings.episodes,
        max_steps=settings.max_steps,
        max_seconds=60 * config.environment.max_minutes,
        seed=config.seed,
        on_done=lambda actions: bar(steps=actions),
      )

  played = split_policy.lead(policy, params, play)
  return leader_does(_write_scores, session, folder, played)


def _write_scores(session, folder, played) -> dict[str, list]:
  """Stores the episodes of an agent, and then their scores."""
  store = trajectories.TrajectoryStore(folder)
  for trajectory in played:
    # A run that was killed between two of these appends starts over with
    # the same seeds: what is there already is what it would append.
    if trajectory.trajectory_id not in store:
      store.append(trajectory)
  scores = {name: [] for name in session.tasks}
  for trajectory in played:
    scores[trajectory.task].append(
      rollout.final_test_score(trajectory, session.scales[trajectory.task])
    )
  workdir.write_json(folder / 'scores.json', scores)
  return scores


def summarise(session: Session, scores: dict[str, dict[str, list]]) -> dict:
  """Mean normalised gains of each split, figures of each task, intervals."""
  config = session.config
  splits = {
    'held_in': list(config.tasks.train),
    'held_out': list(config.tasks.held_out),
  }
  gains = {
    agent: {
      name: figures.gains_of(by_task[name], session.scales[name])
      for name in session.tasks
    }
    for agent, by_task in scores.items()
  }
  result = {}
  for split, names in splits.items():
    result[split] = {
      agent: float(np.mean([np.mean(gains[agent][name]) for name in names]))
      for agent in gains
      if names
    }
  result['tasks'] = {
    name: {
      agent: figures.score_figures(scores[agent][name], session.scales[name])
      for agent in scores
    }
    for name in session.tasks
  }
  if 'sft' in gains and 'rl' in gains:
    result['rl_over_sft'] = {
      split: _paired(gains, names, config.evaluate.bootstrap_samples)
      for split, names in splits.items()
      if names
    }
  return result


def _paired(gains, names, samples) -> dict:
  """Difference of RL and SFT, episode by episode, and its interval."""
  differences = [
    np.subtract(gains['rl'][name], gains['sft'][name]) for name in names
  ]
  low, high = statistics.bootstrap_interval(differences, samples=samples)
  return {
    'difference': float(np.mean([d.mean() for d in differences])),
    'interval': [low, high],
    'level': 0.95,
  }

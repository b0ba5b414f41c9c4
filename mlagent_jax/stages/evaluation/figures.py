"""Episodes -> figures: gains, shares, costs; per task, and over tasks.

Source: ML-Agent, arXiv 2505.23723, section on evaluation: avg@8 and best@8 of
8 episodes' final test scores, relative gain over the starter. Beside the
relative gain always the normalised one, so that one task on a small scale
cannot carry a mean.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mlagent_jax import reward as reward_lib
from mlagent_jax import rollout
from mlagent_jax.environment import records
from mlagent_jax.stages import statistics
from mlagent_jax.stages.evaluation.usage import Usage

# A normalised gain below this is none: p_init in task.toml is rounded, so a
# script that was not changed may score a digit beside it.
TIE = 1e-3


@dataclasses.dataclass(frozen=True)
class Played:
  """An agent's episodes of one task.

  Attributes:
    scores: final test score of each.
    trajectories: the episodes; none for the starter, which plays nothing.
    usage: of all of them together.
  """

  scores: tuple[float, ...]
  trajectories: tuple[records.Trajectory, ...] = ()
  usage: Usage = Usage()


def played(
  episodes: Sequence[records.Trajectory],
  scale: records.Scale,
  usages: Mapping[str, Usage],
) -> Played:
  """The episodes of one task and their final scores, by episode number."""
  ordered = tuple(sorted(episodes, key=lambda t: t.seed))
  return Played(
    tuple(rollout.final_test_score(t, scale) for t in ordered),
    ordered,
    sum((usages.get(t.trajectory_id, Usage()) for t in ordered), Usage()),
  )


def score_figures(scores: Sequence[float], scale: records.Scale) -> dict:
  """Mean, best and gains of final test scores of one task."""
  best = max(scores) if scale.higher_is_better else min(scores)
  mean = float(np.mean(scores))
  return {
    'mean': mean,
    'best': best,
    'relative_gain_mean': reward_lib.relative_gain(mean, scale),
    'relative_gain_best': reward_lib.relative_gain(best, scale),
    'normalised_gain_mean': reward_lib.normalised_gain(mean, scale),
    'normalised_gain_best': reward_lib.normalised_gain(best, scale),
    'scores': list(scores),
  }


def gains_of(scores: Sequence[float], scale: records.Scale) -> list[float]:
  """Normalised gain of each score."""
  return [reward_lib.normalised_gain(score, scale) for score in scores]


def task_figures(own: Played, scale: records.Scale, samples: int) -> dict:
  """Everything that is reported of one agent on one task.

  Args:
    own: its episodes.
    scale: the task's.
    samples: bootstrap samples.
  """
  gains = gains_of(own.scores, scale)
  wins = sum(gain > TIE for gain in gains)
  figures = score_figures(own.scores, scale) | {
    'episodes': len(own.scores),
    'mean_interval': list(
      statistics.bootstrap_interval([own.scores], samples=samples)
    ),
    'normalised_gain_interval': list(
      statistics.bootstrap_interval([gains], samples=samples)
    ),
    'win_rate': wins / len(gains),
    'win_rate_interval': list(statistics.wilson_interval(wins, len(gains))),
    'tie_rate': sum(abs(gain) <= TIE for gain in gains) / len(gains),
  }
  return figures | cost_figures([own])


def cost_figures(some: Sequence[Played]) -> dict:
  """Steps, outcome kinds, and means an episode of what they cost."""
  steps = [s for own in some for t in own.trajectories for s in t.steps]
  episodes = max(1, sum(len(own.trajectories) for own in some))
  kinds = collections.Counter(str(step.outcome.kind) for step in steps)
  usage = sum((own.usage for own in some), Usage())
  wall = sum(t.seconds for own in some for t in own.trajectories)
  valid = sum(reward_lib.is_valid(step.outcome) for step in steps)
  return {
    'steps': len(steps),
    'kinds': {kind: count / len(steps) for kind, count in kinds.most_common()},
    'valid_rate': valid / len(steps) if steps else None,
    'per_episode': {
      'steps': len(steps) / episodes,
      # As if nothing had been reused: each run with the time of its first.
      'script_seconds': sum(s.outcome.seconds for s in steps) / episodes,
      'wall_seconds': wall / episodes,
      'prompt_tokens': usage.prompt_tokens / episodes,
      'completion_tokens': usage.completion_tokens / episodes,
      'dollars': usage.dollars / episodes,
      'accelerator_seconds': usage.accelerator_seconds / episodes,
      'refused_prompts': usage.refused_prompts / episodes,
    },
  }


def agent_figures(
  by_task: Mapping[str, Played],
  scales: Mapping[str, records.Scale],
  samples: int,
) -> dict:
  """What is reported of one agent over several tasks, each counting alike."""
  gains = [gains_of(own.scores, scales[t]) for t, own in by_task.items()]
  wins = [[float(gain > TIE) for gain in group] for group in gains]
  of_tasks = [score_figures(o.scores, scales[t]) for t, o in by_task.items()]

  def mean(name):
    return float(np.mean([figures[name] for figures in of_tasks]))

  return {
    'tasks': len(of_tasks),
    'normalised_gain_mean': mean('normalised_gain_mean'),
    'normalised_gain_best': mean('normalised_gain_best'),
    'normalised_gain_median': float(
      np.median([figures['normalised_gain_mean'] for figures in of_tasks])
    ),
    # These tasks, other episodes; and other tasks like these.
    'interval_episodes': list(
      statistics.bootstrap_interval(gains, samples=samples)
    ),
    'interval_tasks': list(
      statistics.two_level_interval(gains, samples=samples)
    ),
    'relative_gain_mean': mean('relative_gain_mean'),
    'relative_gain_best': mean('relative_gain_best'),
    'win_rate': float(np.mean([np.mean(group) for group in wins])),
    'win_rate_interval': list(
      statistics.two_level_interval(wins, samples=samples)
    ),
    **cost_figures(list(by_task.values())),
  }


def comparisons(
  gains: Mapping[str, Mapping[str, Sequence[float]]], samples: int
) -> list[dict]:
  """Every pair of agents: difference, intervals, tests, Holm-adjusted.

  Args:
    gains: agent -> task -> normalised gain of each episode; the same tasks
      for all.
    samples: bootstrap samples and random arrangements.
  """
  agents = list(gains)
  pairs = [(a, b) for i, b in enumerate(agents) for a in agents[i + 1 :]]
  rows = []
  for first, second in pairs:
    names = list(gains[first])
    one = [gains[first][name] for name in names]
    two = [gains[second][name] for name in names]
    differences = [
      float(np.mean(a) - np.mean(b)) for a, b in zip(one, two, strict=True)
    ]
    rows.append(
      {
        'agent': first,
        'against': second,
        'difference': float(np.mean(differences)),
        'tasks_better': sum(d > TIE for d in differences),
        'tasks_worse': sum(d < -TIE for d in differences),
        'interval_episodes': _paired(one, two, samples),
        'p_episodes': statistics.episodes_test(one, two, samples=samples),
        'p_tasks': statistics.tasks_test(differences),
      }
    )
  for name in ('p_episodes', 'p_tasks'):
    adjusted = statistics.holm(
      {str(index): row[name] for index, row in enumerate(rows)}
    )
    for index, row in enumerate(rows):
      row[f'{name}_holm'] = adjusted[str(index)]
  return rows


def _paired(one, two, samples) -> list[float] | None:
  """Interval of the mean difference, episode by episode of the same number."""
  if any(len(a) != len(b) for a, b in zip(one, two, strict=True)):
    return None
  differences = [np.subtract(a, b) for a, b in zip(one, two, strict=True)]
  return list(statistics.bootstrap_interval(differences, samples=samples))

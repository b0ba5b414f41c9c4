"""Does gain depend on how complex a task is?

Four measures that are known before anything is played; a task's complexity is
the mean of its ranks in them, 1 being the simplest:

  bytes     of all that scripts see in ./data
  columns   values of one training row: of the largest table, or arrays
  lines     of the starter script
  headroom  |p_best - p_init| / |p_init|: how far the starter is from the best
            known script, in its own unit

Our own measure, after the question that ML-Agent's section on generalisation
leaves open; deviation: none, there is nothing to deviate from.
"""

import csv
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np

from mlagent_jax.environment import task_folder
from mlagent_jax.stages import statistics

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402

MEASURES = ('bytes', 'columns', 'lines', 'headroom')


@dataclasses.dataclass(frozen=True)
class Complexity:
  """The measures of one task; columns is None where there is no table."""

  bytes: int
  columns: int | None
  lines: int
  headroom: float


def measure(task: task_folder.Task) -> Complexity:
  """Measures a prepared task."""
  files = [path for path in task.data_folder.rglob('*') if path.is_file()]
  script = (task.starter_folder / task.entry).read_text(encoding='utf-8')
  scale = task.scale
  return Complexity(
    bytes=sum(path.stat().st_size for path in files),
    columns=_columns(files),
    lines=sum(bool(line.strip()) for line in script.splitlines()),
    headroom=abs(scale.p_best - scale.p_init) / abs(scale.p_init),
  )


def ranking(tasks: Sequence[task_folder.Task]) -> dict[str, dict]:
  """Task -> its measures and complexity, the simplest first."""
  found = {task.name: measure(task) for task in tasks}
  of_measures = []
  for name in MEASURES:
    known = {
      task: value
      for task, c in found.items()
      if (value := getattr(c, name)) is not None
    }
    places = statistics.ranks(list(known.values())) if known else ()
    of_measures.append(dict(zip(known, map(float, places), strict=True)))
  rows = {
    task: dataclasses.asdict(c)
    | {
      'complexity': float(
        np.mean([places[task] for places in of_measures if task in places])
      )
    }
    for task, c in found.items()
  }
  return dict(sorted(rows.items(), key=lambda item: item[1]['complexity']))


def study(
  rows: Mapping[str, Mapping], gains: Mapping[str, Mapping[str, float]]
) -> dict[str, dict]:
  """Agent -> measure -> Spearman's correlation of gain with it, and p.

  Args:
    rows: from `ranking`.
    gains: agent -> task -> mean normalised gain.

  Returns:
    Nothing for measures that fewer than 3 tasks have.
  """
  result = {}
  for agent, by_task in gains.items():
    result[agent] = {}
    for name in ('complexity', *MEASURES):
      known = [t for t in by_task if rows[t][name] is not None]
      if len(known) < 3:
        continue
      correlation, p_value = statistics.spearman(
        [rows[t][name] for t in known], [by_task[t] for t in known]
      )
      # No variance, no correlation: JSON has no NaN.
      known_value = None if np.isnan(correlation) else correlation
      result[agent][name] = {'spearman': known_value, 'p': p_value}
  return result


def draw(
  path: pathlib.Path,
  rows: Mapping[str, Mapping],
  gains: Mapping[str, Mapping[str, float]],
) -> None:
  """A picture: tasks from simple to complex, each agent's gain on them."""
  names = list(rows)
  height = 1.8 + 0.32 * len(names)
  figure, axis = plt.subplots(figsize=(8.5, height), constrained_layout=True)
  colors = plt.get_cmap('tab10')
  for index, (agent, by_task) in enumerate(gains.items()):
    axis.plot(
      [max(-1.0, by_task[name]) for name in names],
      range(len(names)),
      'o',
      ms=6,
      alpha=0.85,
      color=colors(index),
      label=agent,
    )
  axis.axvline(0, color='0.4', lw=0.8)
  axis.set_yticks(range(len(names)), names, fontsize=9)
  axis.grid(axis='y', color='0.92')
  axis.spines[['top', 'right']].set_visible(False)
  axis.set(
    xlabel='mean normalised gain on test rows (below -1: drawn at -1)',
    title='Gain by task, the simplest task at the bottom',
  )
  axis.legend(frameon=False, fontsize=9)
  figure.savefig(path, dpi=120)
  plt.close(figure)


def _columns(files: Sequence[pathlib.Path]) -> int | None:
  """Values of a row of the largest table or arrays; None without any."""
  tables = [path for path in files if path.suffix in ('.csv', '.npz')]
  train = [path for path in tables if path.stem.startswith('train')]
  if not tables:
    return None
  largest = max(train or tables, key=lambda path: path.stat().st_size)
  if largest.suffix == '.csv':
    with largest.open(encoding='utf-8', newline='') as stream:
      return len(next(csv.reader(stream), ()))
  with np.load(largest) as arrays:
    shapes = [arrays[name].shape for name in arrays.files]
  rows = max((shape[0] for shape in shapes if shape), default=0)
  return sum(int(np.prod(s[1:])) for s in shapes if s and s[0] == rows)

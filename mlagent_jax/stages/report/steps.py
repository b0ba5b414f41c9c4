"""Trajectories of a work directory as compact tables for the page.

Every text (thought, input, observation, script) is stored once and named by
its place in `texts`; a step is a row of numbers. Scripts before and after an
edit are whole, so that the page shows a diff of what was really there.
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from mlagent_jax import reward as reward_lib
from mlagent_jax import trajectories
from mlagent_jax.environment import blobs, records, task_folder, workspace

# Where stages and commands keep trajectories, and how the page calls it.
SOURCES = {
  'collect': 'collected',
  'evaluate': 'end of training',
  'evaluation': 'evaluation',
}


def stores(folder: pathlib.Path) -> Iterator[tuple[str, pathlib.Path]]:
  """(source, folder) of every trajectory store of a work directory."""
  for name, words in SOURCES.items():
    for file in sorted((folder / name).rglob(trajectories.FILE_NAME)):
      yield words, file.parent


class Tables:
  """Collects trajectories; `data` is what the page embeds.

  Args:
    store: blobs of the workspaces; None if the run has none.
    reward: options of `reward.reward`.
    own_tasks: folder of tasks that are in no suite (`mlagent_jax.solve`'s).
  """

  def __init__(
    self,
    store: blobs.BlobStore | None,
    reward: Mapping[str, Any],
    own_tasks: pathlib.Path | None = None,
  ):
    self._own_tasks = own_tasks
    self._store = store
    self._options = reward
    self._texts: dict[str, int] = {'': 0}
    self._scripts: dict[tuple[str, str], int] = {}
    self._tasks: dict[str, task_folder.Task | None] = {}
    self._trajectories: list[list] = []
    self._steps: list[list] = []
    self.rewards: dict[tuple[str, str, str], list[float]] = {}
    self.trees: dict[tuple[str, str, str], set[str]] = {}

  def add(self, source: str, trajectory: records.Trajectory) -> None:
    """Adds the steps of one trajectory."""
    number = len(self._trajectories)
    self._trajectories.append(
      [
        self._text(trajectory.trajectory_id),
        self._text(source),
        self._text(trajectory.agent),
        self._text(trajectory.task),
        self._text(trajectory.ended_by),
        self._text('\n'.join(trajectory.ideas)),
        round(trajectory.seconds, 2),
      ]
    )
    key = (source, trajectory.agent, trajectory.task)
    rewards = self._rewards(trajectory)
    for place, step in enumerate(trajectory.steps):
      reward = rewards[place]
      if reward is not None:
        self.rewards.setdefault(key, []).append(reward)
      trees = self.trees.setdefault(key, set())
      if step.outcome.kind is records.OutcomeKind.EDITED:
        trees.add(step.after.tree)
      self._steps.append(
        self._row(number, place, trajectory.task, step, reward)
      )

  def data(self) -> dict:
    """{'texts', 'trajectories', 'steps'}; numbers name texts."""
    return {
      'texts': list(self._texts),
      'trajectories': self._trajectories,
      'steps': self._steps,
    }

  def _row(self, number, place, task, step, reward) -> list:
    thought, action, text = split_reply(step.reply)
    outcome = step.outcome
    before = self._script(task, step.before.tree)
    # A script that stayed as it was is not shown as a diff.
    after = self._script(task, step.after.tree) if outcome.edited else before
    return [
      number,
      place,
      self._text(thought),
      self._text(action),
      self._text(text),
      self._text(str(outcome.kind)),
      self._text(outcome.observation),
      before,
      after,
      outcome.score_before,
      outcome.score,
      outcome.test_score,
      None if reward is None else round(reward, 4),
      round(outcome.seconds, 2),
      int(outcome.cached),
    ]

  def _text(self, text: str) -> int:
    return self._texts.setdefault(text, len(self._texts))

  def _task(self, name: str) -> task_folder.Task | None:
    """The task; None if it is not here (a run of somebody else's tasks)."""
    if name not in self._tasks:
      own = self._own_tasks and self._own_tasks / name
      try:
        self._tasks[name] = task_folder.load_task(
          own if own and own.is_dir() else name
        )
      except task_folder.TaskError:
        self._tasks[name] = None
    return self._tasks[name]

  def _rewards(self, trajectory: records.Trajectory) -> list[float | None]:
    card = self._task(trajectory.task)
    if card is None:
      return [None] * len(trajectory.steps)
    return reward_lib.of_steps(trajectory.steps, card.scale, **self._options)

  def _script(self, task: str, tree: str) -> int:
    if self._store is None:
      return 0
    if (task, tree) not in self._scripts:
      card = self._task(task)
      entry = 'train.py' if card is None else card.entry
      found = workspace.read_tree(tree, self._store).get(entry)
      text = ''
      if found is not None and found.kind == 'file':
        text = self._store.get(found.content).decode('utf-8', 'replace')
      self._scripts[task, tree] = self._text(text)
    return self._scripts[task, tree]


def split_reply(reply: str) -> tuple[str, str, str]:
  """(thought, action, input) of a reply, as far as it has these parts."""
  head, found, rest = reply.partition('\nAction:')
  if not found:
    return reply, '', ''
  action, _, text = rest.partition('\nAction Input:')
  thought = head.removeprefix('Thought:').strip()
  return thought, action.strip(), text.strip('\n').removeprefix(' ')


def tasks_of(rewards: Mapping[tuple[str, str, str], list[float]]) -> list[str]:
  """Names of the tasks, sorted."""
  return sorted({task for _, _, task in rewards})

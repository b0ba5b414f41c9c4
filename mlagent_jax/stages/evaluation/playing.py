"""Plays the episodes that are still missing, and keeps each as it ends.

DIR/AGENT/ holds a trajectory store, the usages and settings.json: what must
be the same when more episodes are added. A killed run is started again with
the same command and loses no episode that had ended; asking for more episodes
later plays the new ones only.
"""

import concurrent.futures
import pathlib
import urllib.parse
from collections.abc import Callable, Mapping, Sequence

from mlagent_jax import trajectories
from mlagent_jax.environment import records, task_folder
from mlagent_jax.stages import workdir
from mlagent_jax.stages.evaluation import contestants
from mlagent_jax.stages.evaluation.usage import Usage, UsageFile


def folder_of(place: pathlib.Path, agent: str) -> pathlib.Path:
  """Where an agent's episodes are; names may hold any character."""
  return place / urllib.parse.quote(agent, safe=':')


def trajectory_id(agent: str, task: str, number: int) -> str:
  """The id of an agent's episode `number` of a task."""
  return f'{agent}-{task}-{number}'


def check_settings(folder: pathlib.Path, wanted: Mapping[str, object]) -> None:
  """Records the settings of new episodes, or finds that they have changed.

  Raises:
    WorkdirError: lists what differs from the episodes that are there.
  """
  path = folder / 'settings.json'
  found = workdir.read_json(path)
  if found is None:
    folder.mkdir(parents=True, exist_ok=True)
    workdir.write_json(path, dict(wanted))
    return
  changed = [
    f'  {key}: {found.get(key, "(missing)")!r} there,'
    f' {wanted.get(key, "(missing)")!r} now'
    for key in sorted(found.keys() | wanted.keys())
    if found.get(key) != wanted.get(key)
  ]
  if changed:
    raise workdir.WorkdirError(
      f'{folder} has episodes that were played in another way:\n'
      + '\n'.join(changed)
      + '\nUse another --workdir, delete that folder, or ask for the same.'
    )


def play_missing(
  pool,
  contestant: contestants.Contestant,
  tasks: Sequence[task_folder.Task],
  folder: pathlib.Path,
  *,
  episodes: int,
  max_steps: int,
  max_seconds: float,
  at_once: int,
  on_step: Callable[[], None] = lambda: None,
  on_done: Callable[[records.Trajectory], None] = lambda trajectory: None,
) -> None:
  """Plays each task's episodes 0 … episodes-1 that `folder` does not hold.

  Args:
    pool: from `environment.workers`; bounds how many scripts run at once.
    contestant: gives the agents.
    tasks: all rounds of number 0 come before those of number 1, so that a run
      that is stopped early has about as many episodes of each task.
    folder: of this contestant.
    episodes: a task.
    max_steps: of an episode.
    max_seconds: of an episode.
    at_once: episodes in flight; while some wait for their script, others
      think.
    on_step: called in any thread after each step.
    on_done: called with each trajectory once it is on disk.

  Raises:
    SandboxUnavailable: if the sandbox failed; what has ended is kept.
  """
  store = trajectories.TrajectoryStore(folder)
  usages = UsageFile(folder)
  missing = [
    (task, number)
    for number in range(episodes)
    for task in tasks
    if trajectory_id(contestant.name, task.name, number) not in store
  ]

  def step(*request):
    result = pool.submit(*request).result()
    on_step()
    return result

  def play(task, number) -> tuple[records.Trajectory, Usage]:
    seat = contestant.seat(task, number)
    trajectory = pool.environment.play(
      task.name,
      seat.agent,
      seed=number,
      max_steps=max_steps,
      max_seconds=max_seconds,
      ideas=seat.ideas,
      trajectory_id=trajectory_id(contestant.name, task.name, number),
      step=step,
    )
    return trajectory, seat.usage()

  threads = concurrent.futures.ThreadPoolExecutor(
    at_once, thread_name_prefix='episode'
  )
  try:
    running = [threads.submit(play, *item) for item in missing]
    for future in concurrent.futures.as_completed(running):
      trajectory, usage = future.result()
      # In this order: an episode that is recorded has its usage.
      usages.append(trajectory.trajectory_id, usage)
      store.append(trajectory)
      on_done(trajectory)
  finally:
    threads.shutdown(wait=True, cancel_futures=True)

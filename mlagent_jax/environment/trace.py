"""Trajectories as MLAgentBench's trace.json, for tools that read those.

The keys are those of its `Trace` (arXiv 2310.03302, MLAgentBench/schema.py):

  steps             action {name, args}, observation, timestamp; of each step
  low_level_steps   the same, of the steps that its `is_primitive` actions took
  action_infos      by name: name, description, usage, return_value, function,
                    is_primitive
  task_description  what the agent was told

What differs, because a trajectory does not hold it or its protocol has no
place for it: timestamps count the seconds that scripts ran; an edit has no
low-level step, and neither has the run that follows it; a reply that is no
action is a step called 'Invalid' with the reply as its one argument; our two
edit actions, which MLAgentBench does not have, are described like the others.
"""

import json
import os
import pathlib
from typing import Any

from mlagent_jax.environment.actions import ARGUMENTS, ActionError, parse_reply
from mlagent_jax.environment.records import Action, ActionName, Step, Trajectory
from mlagent_jax.environment.task_folder import Task

INVALID = 'Invalid'
# What it calls the end of an episode, in place of an observation.
_END = 'end'
_TICK = 1e-3  # keeps steps in order whose scripts took no time
_FILE = 'a path relative to the workspace'
_LINE = 'a line number, from 1'
_USAGE = {
  'dir_path': 'a folder, relative to the workspace, such as "." or "data"',
  'file_name': _FILE,
  'things_to_look_for': 'what to look for and what to report',
  'script_name': _FILE,
  'start_line_number': _LINE,
  'end_line_number': _LINE,
  'edit_instruction': 'step by step, what to change',
  'save_name': _FILE,
  'search': 'lines that occur once in the script',
  'replace': 'the lines that take their place',
  'replacement': 'the new lines; none deletes the old ones',
  'source': _FILE,
  'destination': _FILE,
  'final_answer': 'what was accomplished',
}
# description, return_value, the function's name there, is_primitive
_ACTIONS: dict[ActionName, tuple[str, str, str, bool]] = {
  ActionName.LIST_FILES: (
    'Shows what a folder holds.',
    'Names and sizes.',
    'list_files',
    True,
  ),
  ActionName.UNDERSTAND_FILE: (
    'Lets a second model read a whole file.',
    'Its description of what was asked for.',
    'understand_file',
    False,
  ),
  ActionName.INSPECT_SCRIPT_LINES: (
    'Shows lines of a file, at most 100.',
    'The lines with their numbers.',
    'inspect_script_lines',
    False,
  ),
  ActionName.EDIT_SCRIPT_AI: (
    'Lets a second model edit a script by an instruction.',
    'The change, what the script then printed, and its score.',
    'edit_script',
    False,
  ),
  ActionName.EDIT_SCRIPT: (
    'Replaces lines of a script that are quoted.',
    'The change, what the script then printed, and its score.',
    'edit_script_by_search',
    False,
  ),
  ActionName.EDIT_SCRIPT_LINES: (
    'Replaces lines of a script by their numbers.',
    'The change, what the script then printed, and its score.',
    'edit_script_by_lines',
    False,
  ),
  ActionName.COPY_FILE: (
    'Copies a file within the workspace.',
    'That it was copied.',
    'copy_file',
    True,
  ),
  ActionName.UNDO_EDIT_SCRIPT: (
    'Takes back the last edit of a script.',
    'That it was taken back, and the score before it.',
    'undo_edit_script',
    True,
  ),
  ActionName.EXECUTE_SCRIPT: (
    'Runs a script.',
    'What it printed, and its score.',
    'execute_script',
    True,
  ),
  ActionName.FINAL_ANSWER: (
    'Ends the work.',
    'Nothing.',
    '<lambda>',
    True,
  ),
}


def to_mlagentbench_trace(
  trajectory: Trajectory, task: Task, *, start: float = 0.0
) -> dict[str, Any]:
  """A trajectory as the object that trace.json holds.

  Args:
    trajectory: of this task.
    task: gives the description.
    start: when the episode began, in seconds since 1970.

  Raises:
    ValueError: if the trajectory is another task's.
  """
  if trajectory.task != task.name:
    raise ValueError(
      f'trajectory {trajectory.trajectory_id} is of task {trajectory.task!r},'
      f' not {task.name!r}'
    )
  steps, low_level = [], []
  now = start
  for step in trajectory.steps:
    now += step.outcome.seconds + 2 * _TICK
    action = _action(step)
    if action is None:
      name, arguments = INVALID, {'reply': step.reply}
    else:
      name, arguments = str(action.name), dict(action.arguments)
    observation = step.outcome.observation
    if name == ActionName.FINAL_ANSWER:
      observation = _END
    taken = {'name': name, 'args': arguments}
    steps.append(
      {'action': taken, 'observation': observation, 'timestamp': now}
    )
    primitive = action is not None and _ACTIONS[action.name][3]
    if primitive and name != ActionName.FINAL_ANSWER:
      low_level.append({**steps[-1], 'timestamp': now - _TICK})
  return {
    'steps': steps,
    'low_level_steps': low_level,
    'action_infos': {str(name): _info(name) for name in ActionName},
    'task_description': task.description,
  }


def write_mlagentbench_trace(
  trajectory: Trajectory,
  task: Task,
  file: str | pathlib.Path,
  *,
  start: float = 0.0,
) -> None:
  """Writes a trajectory as trace.json; arguments as above.

  Args:
    trajectory: of this task.
    task: gives the description.
    file: is replaced whole or not at all; its folder is made.
    start: when the episode began, in seconds since 1970.
  """
  file = pathlib.Path(file)
  file.parent.mkdir(parents=True, exist_ok=True)
  trace = to_mlagentbench_trace(trajectory, task, start=start)
  part = file.with_name(f'.{file.name}.{os.getpid()}')
  part.write_text(json.dumps(trace, indent=4), encoding='utf-8')
  part.replace(file)


def _action(step: Step) -> Action | None:
  """The action of a reply in either protocol; None if it is none."""
  for protocol in ('full', 'compact'):
    try:
      return parse_reply(step.reply, protocol=protocol)
    except ActionError:
      continue
  return None


def _info(name: ActionName) -> dict[str, Any]:
  description, return_value, function, is_primitive = _ACTIONS[name]
  return {
    'name': str(name),
    'description': description,
    'usage': {argument: _USAGE[argument] for argument in ARGUMENTS[name]},
    'return_value': return_value,
    'function': function,
    'is_primitive': is_primitive,
  }

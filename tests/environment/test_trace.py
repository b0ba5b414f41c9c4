"""trace.json as MLAgentBench's schema.py and environment.py make it."""

import json

import pytest

from mlagent_jax.environment import trace
from mlagent_jax.environment.records import (
  ActionName,
  Outcome,
  OutcomeKind,
  Snapshot,
  Step,
  Trajectory,
)

STATE = Snapshot('0' * 64)


def step(reply, kind, observation, seconds=0.0):
  return Step(STATE, reply, Outcome(kind, observation, seconds=seconds), STATE)


STEPS = (
  step(
    'Reflection: r\nResearch Plan and Status: p\nFact Check: f\nThought: t\n'
    'Action: List Files\nAction Input: {"dir_path": "."}',
    OutcomeKind.LOOKED,
    '. holds:\ntrain.py (9 bytes)',
  ),
  step(
    'Thought: t\nAction: Edit Script Lines\nAction Input: train.py 1-1\nx = 1',
    OutcomeKind.EDITED,
    'train.py was edited',
    seconds=1.5,
  ),
  step('I am done!', OutcomeKind.UNPARSED, 'Reply not understood'),
  step(
    'Thought: t\nAction: Execute Script\n'
    'Action Input: {"script_name": "train.py"}',
    OutcomeKind.EXECUTED,
    'The script printed: 1',
    seconds=2.0,
  ),
  step(
    'Thought: t\nAction: Final Answer\nAction Input: {"final_answer": "ok"}',
    OutcomeKind.FINAL_ANSWER,
    'The work has ended.',
  ),
)


def trajectory(task='line'):
  return Trajectory('t1', task, 'scripted', 0, (), STEPS, 'final_answer', 9.0)


def test_steps_have_the_keys_and_values_of_the_schema(line_task):
  found = trace.to_mlagentbench_trace(trajectory(), line_task, start=100.0)
  assert list(found) == [
    'steps',
    'low_level_steps',
    'action_infos',
    'task_description',
  ]
  assert found['task_description'] == line_task.description
  listed = {
    'action': {'name': 'List Files', 'args': {'dir_path': '.'}},
    'observation': '. holds:\ntrain.py (9 bytes)',
    'timestamp': pytest.approx(100.002),
  }
  ran = {
    'action': {'name': 'Execute Script', 'args': {'script_name': 'train.py'}},
    'observation': 'The script printed: 1',
    'timestamp': pytest.approx(103.508),
  }
  assert found['steps'] == [
    listed,
    {
      'action': {
        'name': 'Edit Script Lines',
        'args': {
          'script_name': 'train.py',
          'start_line_number': '1',
          'end_line_number': '1',
          'replacement': 'x = 1',
        },
      },
      'observation': 'train.py was edited',
      'timestamp': pytest.approx(101.504),
    },
    {
      'action': {'name': 'Invalid', 'args': {'reply': 'I am done!'}},
      'observation': 'Reply not understood',
      'timestamp': pytest.approx(101.506),
    },
    ran,
    {
      'action': {'name': 'Final Answer', 'args': {'final_answer': 'ok'}},
      'observation': 'end',
      'timestamp': pytest.approx(103.510),
    },
  ]
  assert found['low_level_steps'] == [
    {**listed, 'timestamp': pytest.approx(100.001)},
    {**ran, 'timestamp': pytest.approx(103.507)},
  ]
  # It resumes from a step with the low-level steps before its time.
  assert found['low_level_steps'][0]['timestamp'] < 100.002


def test_action_infos_describe_every_action(line_task):
  infos = trace.to_mlagentbench_trace(trajectory(), line_task)['action_infos']
  assert set(infos) == {str(name) for name in ActionName}
  for name, info in infos.items():
    assert list(info) == [
      'name',
      'description',
      'usage',
      'return_value',
      'function',
      'is_primitive',
    ]
    assert info['name'] == name
    assert all(info['usage'].values()) and info['usage']
  primitive = {name for name, info in infos.items() if info['is_primitive']}
  assert primitive == {
    'List Files',
    'Copy File',
    'Undo Edit Script',
    'Execute Script',
    'Final Answer',
  }
  assert infos['Edit Script (AI)']['function'] == 'edit_script'
  assert list(infos['Understand File']['usage']) == [
    'file_name',
    'things_to_look_for',
  ]


def test_the_file_holds_the_same(line_task, tmp_path):
  file = tmp_path / 'env_log' / 'trace.json'
  trace.write_mlagentbench_trace(trajectory(), line_task, file, start=5.0)
  assert json.loads(file.read_text()) == trace.to_mlagentbench_trace(
    trajectory(), line_task, start=5.0
  )
  assert [path.name for path in file.parent.iterdir()] == ['trace.json']


def test_a_trajectory_of_another_task_is_refused(line_task):
  with pytest.raises(ValueError, match="of task 'ames', not 'line'"):
    trace.to_mlagentbench_trace(trajectory('ames'), line_task)

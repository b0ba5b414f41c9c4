"""The store is exact and crash-safe; states are every prefix."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from mlagent_jax import trajectories
from mlagent_jax.environment.records import (
  Outcome,
  OutcomeKind,
  Snapshot,
  Step,
  Trajectory,
  Version,
)


def make(name='t0', task='cells', length=3, final=False, salt=''):
  states = [
    Snapshot(
      tree=f'{salt}{i:064d}'[-64:],
      score=None if i == 0 else 0.1 + i / 3,
      test_score=None if i == 0 else 1e-17 * i,
      best_score=None if i == 0 else 0.9,
      undo=(Version('a' * 64, None, None), Version('b' * 64, 0.1, 2.0))[:i],
    )
    for i in range(length + 1)
  ]
  steps = []
  for i in range(length):
    last = final and i == length - 1
    outcome = Outcome(
      OutcomeKind.FINAL_ANSWER if last else OutcomeKind.EDITED,
      f'saw {salt} "{i}"\n\u2028 é \ud800',
      edited=not last,
      score_before=states[i].score,
      score=None if last else 0.1 + 0.2,
      exit_code=-9,
      seconds=1 / 3,
      cached=True,
      sandbox='process',
    )
    steps.append(
      Step(
        states[i],
        f'Thought: {salt}{i}',
        outcome,
        states[i + 1],
        (1, 2, 3),
        (-0.1, -1 / 3, 0.0),
      )
    )
  ended = 'final_answer' if final else 'steps'
  return Trajectory(
    name, task, 'scripted', 7, ('an idea',), tuple(steps), ended, 2.5
  )


def test_dict_round_trip_is_exact_through_json():
  trajectory = make(final=True)
  text = json.dumps(trajectories.to_dict(trajectory))
  again = trajectories.from_dict(json.loads(text))
  assert again == trajectory
  assert isinstance(again.steps[0].outcome.kind, OutcomeKind)
  assert isinstance(again.steps[0].before.undo, tuple)


def test_from_dict_refuses_unknown_fields():
  values = trajectories.to_dict(make())
  values['steps'][0]['outcome']['extra'] = 1
  with pytest.raises(TypeError, match='extra'):
    trajectories.from_dict(values)


def test_store_gives_back_what_was_appended(tmp_path):
  store = trajectories.TrajectoryStore(tmp_path)
  written = [make(f't{i}', length=i) for i in range(4)]
  for trajectory in written:
    store.append(trajectory)
  again = trajectories.TrajectoryStore(tmp_path)
  assert list(again) == written == list(store)
  assert len(again) == 4
  assert 't2' in again and 't9' not in again
  assert again.torn_bytes == 0


def test_store_refuses_a_second_trajectory_of_one_name(tmp_path):
  store = trajectories.TrajectoryStore(tmp_path)
  store.append(make('same'))
  with pytest.raises(ValueError, match="'same' is in .*already"):
    store.append(make('same'))
  assert len(list(store)) == 1


def test_store_refuses_nan(tmp_path):
  store = trajectories.TrajectoryStore(tmp_path)
  bad = dataclasses.replace(make(), seconds=float('nan'))
  with pytest.raises(ValueError):
    store.append(bad)
  assert store.file.stat().st_size == 0


@pytest.mark.parametrize('keep', [1, 100, -2, -1])
def test_a_torn_last_line_is_dropped_and_reported(tmp_path, caplog, keep):
  store = trajectories.TrajectoryStore(tmp_path)
  store.append(make('t0'))
  whole = store.file.read_bytes()
  store.append(make('t1'))
  line = store.file.read_bytes()[len(whole) :]
  torn = line[:keep]
  store.file.write_bytes(whole + torn)
  again = trajectories.TrajectoryStore(tmp_path)
  assert again.torn_bytes == len(torn)
  assert f'torn last line of {len(torn)} bytes' in caplog.text
  assert [t.trajectory_id for t in again] == ['t0']
  again.append(make('t1'))
  assert len(list(trajectories.TrajectoryStore(tmp_path))) == 2


@pytest.mark.parametrize('line', [0, 1, 2])
def test_damage_elsewhere_names_file_and_line(tmp_path, line):
  store = trajectories.TrajectoryStore(tmp_path)
  for i in range(3):
    store.append(make(f't{i}'))
  lines = store.file.read_bytes().splitlines(keepends=True)
  lines[line] = lines[line].replace(b'0.43333', b'0.43334', 1)
  store.file.write_bytes(b''.join(lines))
  where = f'trajectories.jsonl:{line + 1}: damaged'
  with pytest.raises(trajectories.TrajectoryError, match=where):
    trajectories.TrajectoryStore(tmp_path)


@pytest.mark.parametrize('junk', [b'\n', b'{}\n', b'[1]\n', b'\xff\xfe\n'])
def test_a_line_that_is_no_record_is_an_error(tmp_path, junk):
  store = trajectories.TrajectoryStore(tmp_path)
  store.append(make('t0'))
  with open(store.file, 'ab') as stream:
    stream.write(junk)
  with pytest.raises(trajectories.TrajectoryError, match=r'jsonl:2: damaged'):
    trajectories.TrajectoryStore(tmp_path)


WRITER = """
import dataclasses, sys
sys.path[:0] = {paths!r}
import test_trajectories
from mlagent_jax import trajectories

store = trajectories.TrajectoryStore({folder!r})
big = test_trajectories.make(length=40, salt='x' * 20_000)
number = len(store)
while True:
  store.append(dataclasses.replace(big, trajectory_id=f't{{number}}'))
  number += 1
  print(number, flush=True)
"""


def test_kill_9_in_the_middle_of_appends(tmp_path):
  code = textwrap.dedent(WRITER).format(
    paths=[os.path.dirname(__file__)], folder=str(tmp_path)
  )
  acknowledged = 0
  for pause in (0.0, 0.003, 0.011):
    writer = subprocess.Popen(
      [sys.executable, '-c', code], stdout=subprocess.PIPE
    )
    acknowledged = int(writer.stdout.readline())
    time.sleep(pause)
    writer.send_signal(signal.SIGKILL)
    rest = writer.stdout.read().split()
    writer.wait()
    if rest:
      acknowledged = int(rest[-1])
    # What was acknowledged is there, whole; at most one more may be.
    store = trajectories.TrajectoryStore(tmp_path)
    stored = [t.trajectory_id for t in store]
    assert stored == [f't{i}' for i in range(len(stored))]
    assert acknowledged <= len(stored) <= acknowledged + 1


def test_states_are_every_prefix():
  trajectory = make(length=3)
  states = trajectories.states_of(trajectory)
  assert [len(s.history) for s in states] == [0, 1, 2, 3]
  assert states[0].snapshot == trajectory.steps[0].before
  assert states[3].snapshot == trajectory.steps[2].after
  assert all(s.history == trajectory.steps[: s.step_index] for s in states)


def test_nothing_is_drawn_after_a_final_answer():
  trajectory = make(length=3, final=True)
  assert len(trajectories.states_of(trajectory)) == 3
  pairs = trajectories.pairs_of(trajectory)
  assert [step for _, step in pairs] == list(trajectory.steps)
  assert all(state.snapshot == step.before for state, step in pairs)

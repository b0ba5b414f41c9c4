"""The store is exact and crash-safe; the pool's draws are deterministic."""

import collections
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


def pool_of(counts):
  return trajectories.StatePool.of(
    make(f'{task}-{i}', task, length=4, salt=f'{task}{i}.')
    for task, count in counts.items()
    for i in range(count)
  )


def test_draws_depend_on_seed_and_cursor_only():
  pool = pool_of({'a': 2, 'b': 5})
  for balanced in (True, False):
    once, cursor = pool.draw(23, seed=3, balanced=balanced)
    assert cursor == 23
    pieces, cursor = [], 0
    for size in (1, 7, 0, 15):
      drawn, cursor = pool.draw(size, seed=3, cursor=cursor, balanced=balanced)
      pieces += drawn
    assert pieces == once
    again = pool_of({'a': 2, 'b': 5}).draw(23, seed=3, balanced=balanced)[0]
    assert again == once
    assert pool.draw(23, seed=4, balanced=balanced)[0] != once


def test_uniform_draws_visit_every_state_once_an_epoch():
  pool = pool_of({'a': 2, 'b': 5})
  drawn, _ = pool.draw(2 * len(pool), seed=0, balanced=False)
  counts = collections.Counter((s.trajectory_id, s.step_index) for s in drawn)
  assert set(counts.values()) == {2} and len(counts) == len(pool)


def test_balanced_draws_give_tasks_equal_shares():
  pool = pool_of({'a': 1, 'b': 6, 'c': 2})
  drawn, _ = pool.draw(90, seed=0)
  assert collections.Counter(s.task for s in drawn) == dict(a=30, b=30, c=30)
  # Within a task too, no state comes twice before every other has come once.
  of_b = [(s.trajectory_id, s.step_index) for s in drawn if s.task == 'b']
  assert len(set(of_b)) == 30 == len(of_b)


def test_hold_out_is_disjoint_balanced_and_keeps_the_starts():
  copies = [make(f'b-again{i}', 'b', 4, salt='b0.') for i in range(3)]
  pool = trajectories.StatePool(
    [
      *pool_of({'a': 3, 'b': 3}).states,
      *(s for t in copies for s in trajectories.states_of(t)),
    ]
  )
  held, rest = pool.hold_out(8, seed=1)
  keys = {s.key for s in held}
  assert len(keys) == 8
  assert collections.Counter(s.task for s in held) == {'a': 4, 'b': 4}
  assert not keys & {s.key for s in rest.states}
  assert all(s.history for s in held)
  # Copies of a held state leave the pool with it; nothing else does.
  assert len(rest) == sum(s.key not in keys for s in pool.states)
  assert pool.hold_out(8, seed=1)[0] == held
  assert pool.hold_out(8, seed=2)[0] != held


def test_hold_out_by_another_key():
  pool = pool_of({'a': 4})
  held, rest = pool.hold_out(2, seed=0, key=lambda s: s.step_index)
  steps = {s.step_index for s in held}
  assert len(steps) == 2 and 0 not in steps
  assert not steps & {s.step_index for s in rest.states}


def test_too_few_states_is_an_error_with_numbers():
  with pytest.raises(ValueError, match='9 states to hold out, but only 3'):
    pool_of({'a': 1}).hold_out(9, seed=0)
  with pytest.raises(ValueError, match='empty'):
    trajectories.StatePool([])

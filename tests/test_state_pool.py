"""The pool's draws: their shares, their determinism, what they learn from."""

import collections
import dataclasses
import json

import pytest
from test_trajectories import make

from mlagent_jax import state_pool, trajectories
from mlagent_jax.environment import records


def pool_of(counts):
  return state_pool.StatePool.of(
    make(f'{task}-{i}', task, length=4, salt=f'{task}{i}.')
    for task, count in counts.items()
    for i in range(count)
  )


def draws_of(counts, policy, seed=0, **options):
  return state_pool.Draws(pool_of(counts), policy, seed=seed, **options)


def through_json(state):
  return json.loads(json.dumps(state))


@pytest.mark.parametrize('policy', state_pool.POLICIES)
def test_draws_depend_on_seed_and_state_only(policy):
  counts = {'a': 2, 'b': 5}
  whole = draws_of(counts, policy, seed=3)
  once = whole.draw(23)
  assert draws_of(counts, policy, seed=4).draw(23) != once
  # In pieces, each in a process of its own; nothing was observed meanwhile.
  if policy != 'prioritised':
    pieces, state = [], draws_of(counts, policy, seed=3).get_state()
    for size in (1, 7, 0, 15):
      draws = draws_of(counts, policy, seed=3)
      draws.set_state(through_json(state))
      pieces += draws.draw(size)
      state = draws.get_state()
    assert pieces == once
  # One that goes on from a saved state draws what the first one draws.
  again = draws_of(counts, policy, seed=3)
  for number, state in enumerate(once):
    whole.observe(state.name, [0.5, number / 23])
  again.set_state(through_json(whole.get_state()))
  assert again.draw(9) == whole.draw(9)


def test_uniform_draws_visit_every_state_once_an_epoch():
  draws = draws_of({'a': 2, 'b': 5}, 'uniform')
  size = len(pool_of({'a': 2, 'b': 5}))
  counts = collections.Counter(s.name for s in draws.draw(2 * size))
  assert set(counts.values()) == {2} and len(counts) == size


def test_balanced_draws_give_tasks_equal_shares():
  drawn = draws_of({'a': 1, 'b': 6, 'c': 2}, 'balanced').draw(90)
  assert collections.Counter(s.task for s in drawn) == dict(a=30, b=30, c=30)
  # Within a task too, no state comes twice before every other has come once.
  of_b = [s.name for s in drawn if s.task == 'b']
  assert len(set(of_b)) == 30 == len(of_b)


def test_balanced_steps_give_step_indices_equal_shares():
  # Of task b, five trajectories of one step and one of four.
  long, *short = [make(f'b-{i}', 'b', 1, salt=f'b{i}.') for i in range(6)]
  long = make('b-long', 'b', 4, salt='long.')
  pool = state_pool.StatePool.of([make('a', 'a', 4), long, *short])
  drawn = state_pool.Draws(pool, 'balanced-steps', seed=0).draw(120)
  counts = collections.Counter((s.task, s.step_index) for s in drawn)
  assert counts == {(t, i): 12 for t in 'ab' for i in range(5)}
  firsts = collections.Counter(
    s.name for s in drawn if s.task == 'b' and s.step_index == 0
  )
  assert len(firsts) == 6 and set(firsts.values()) == {2}


def test_prioritised_draws_follow_the_spread_of_rewards():
  draws = draws_of({'a': 4, 'b': 2}, 'prioritised', uniform_share=0.25)
  pool = pool_of({'a': 4, 'b': 2})
  of_a = [s for s in pool.states if s.task == 'a']
  for state in of_a:
    draws.observe(state.name, [0.5, 0.5, 0.5])
  draws.observe(of_a[3].name, [0.0, 1.0])  # std 0.5
  draws.observe(of_a[7].name, [0.25, 0.75])  # std 0.25
  drawn = [s for _ in range(1500) for s in draws.draw(2)]
  counts = collections.Counter(s.name for s in drawn if s.task == 'a')
  assert sum(counts.values()) == 1500
  even = 0.25 / len(of_a)
  expected = {s.name: even for s in of_a}
  expected[of_a[3].name] += 0.75 * 2 / 3
  expected[of_a[7].name] += 0.75 / 3
  for name, share in expected.items():
    # Five standard deviations of a binomial count.
    slack = 5 * (share * (1 - share) / 1500) ** 0.5
    assert abs(counts[name] / 1500 - share) < slack


def test_prioritised_draws_of_one_batch_differ():
  draws = draws_of({'a': 2}, 'prioritised', uniform_share=0.0)
  draws.observe('a-0/1', [0.0, 1.0])
  names = [state.name for state in draws.draw(10)]
  assert sorted(names) == sorted(s.name for s in pool_of({'a': 2}).states)


def visit(draws, name, salt, kind=records.OutcomeKind.EDITED):
  outcome = records.Outcome(kind, f'saw {salt}')
  before = records.Snapshot('b' * 64)
  after = records.Snapshot(salt * 64, score=0.5)
  step = records.Step(before, salt, outcome, after, (1,), (-0.5,))
  draws.visit(name, f'policy-{salt}', step)
  return step


def test_visited_states_are_drawn_and_saved():
  options = {'visited_share': 0.5, 'visited_most': 2}
  draws = draws_of({'a': 1}, 'balanced', **options)
  assert all(s.trajectory_id == 'a-0' for s in draws.draw(4))
  parent = pool_of({'a': 1}).states[2]
  steps = [visit(draws, parent.name, salt) for salt in 'xyz']
  drawn = draws.draw(4)
  mine = [s for s in drawn if s.trajectory_id.startswith('policy')]
  # The two latest of three; half a batch.
  assert {s.name for s in mine} == {'policy-y/3', 'policy-z/3'}
  newest = next(s for s in mine if s.name == 'policy-z/3')
  plain = dataclasses.replace(steps[2], token_ids=(), logps=())
  assert newest.history == (*parent.history, plain)
  assert newest.snapshot == steps[2].after and newest.task == 'a'
  # From a visited state on to the next one, and through a checkpoint.
  visit(draws, newest.name, 'w')
  again = draws_of({'a': 1}, 'balanced', **options)
  again.set_state(through_json(draws.get_state()))
  for _ in range(3):
    drawn = again.draw(6)
    assert drawn == draws.draw(6)
  deepest = next(s for s in drawn if s.name == 'policy-w/4')
  assert len(deepest.history) == 4


def test_what_is_not_added_to_the_visited_states():
  def count(draws):
    return len(draws.get_state()['visited'])

  draws = draws_of({'a': 1}, 'balanced')
  visit(draws, 'a-0/1', 'x')
  assert count(draws) == 0  # off by default
  draws = draws_of(
    {'a': 1},
    'balanced',
    visited_share=0.5,
    admits=lambda state: state.snapshot.tree[0] != 'h',
  )
  visit(draws, 'a-0/1', 'h')  # held out
  visit(draws, 'nowhere/1', 'x')
  visit(draws, 'a-0/1', 'x', records.OutcomeKind.FINAL_ANSWER)
  assert count(draws) == 0
  visit(draws, 'a-0/1', 'x')
  visit(draws, 'a-0/1', 'x')  # the same again
  assert count(draws) == 1


def test_an_unknown_policy():
  with pytest.raises(ValueError, match="'newest'; there are"):
    draws_of({'a': 1}, 'newest')


def test_hold_out_is_disjoint_balanced_and_keeps_the_starts():
  copies = [make(f'b-again{i}', 'b', 4, salt='b0.') for i in range(3)]
  pool = state_pool.StatePool(
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


def test_distinct_keeps_the_first_state_of_each_key():
  pool = pool_of({'a': 3, 'b': 2})
  kept = pool.distinct(lambda s: (s.task, s.step_index)).states
  assert [(s.task, s.step_index) for s in kept] == [
    (task, step) for task in 'ab' for step in range(5)
  ]
  assert {s.trajectory_id for s in kept} == {'a-0', 'b-0'}


def test_too_few_states_is_an_error_with_numbers():
  with pytest.raises(ValueError, match='9 states to hold out, but only 3'):
    pool_of({'a': 1}).hold_out(9, seed=0)
  with pytest.raises(ValueError, match='empty'):
    state_pool.StatePool([])

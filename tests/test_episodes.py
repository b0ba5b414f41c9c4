"""Whole episodes of a policy, with a real environment and real prompts."""

import pathlib
import sys
import types

import pytest

from configs import base
from mlagent_jax import dispatch, rollout, trajectories
from mlagent_jax.agent import history, prompts
from mlagent_jax.environment import (
  blobs,
  episode,
  prepared,
  records,
  sandbox,
  task_folder,
  workers,
)
from mlagent_jax.environment.records import OutcomeKind
from mlagent_jax.stages import session as session_lib
from mlagent_jax.stages import states as states_lib
from mlagent_jax.stages import workdir

sys.path.append(str(pathlib.Path(__file__).parent / 'environment'))
from line_task import write_task  # noqa: E402

BUDGET = 520  # characters, which are the tokens here
LONG = (
  'Thought: t\nAction: Edit Script Lines\nAction Input: train.py 1-0\n# '
  + ('x' * 200)
)
LOOK = 'Thought: t\nAction: List Files\nAction Input: {"dir_path": "."}'


class Writer:
  """A policy that has its replies from a list, one for each step."""

  def __init__(self, *replies):
    self.replies = replies
    self.prompts = []

  def sample_replies(self, params, asked, seeds, temperature=None):
    assert len(asked) == len(seeds)
    reply = self.replies[len(self.prompts)]
    self.prompts.append(asked)
    return [
      [rollout.Reply(text, (1,), (-0.1,), finished=True)]
      for text in (reply if isinstance(reply, tuple) else (reply,))
    ]


@pytest.fixture
def pool(tmp_path, monkeypatch):
  monkeypatch.setenv('MLAGENT_CACHE', str(tmp_path / 'cache'))
  task = task_folder.load_task(write_task(tmp_path / 'tasks'))
  prepared.prepare_task(task)
  with sandbox.make_sandbox('process') as box:
    environment = episode.Environment(
      {'line': task}, box, blobs.BlobStore(tmp_path / 'blobs')
    )
    with workers.make_pool(environment, workers=1) as pool:
      yield pool


def prompt_ids(pool, budget=BUDGET):
  environment = pool.environment

  def ids(task, snapshot, steps):
    messages = prompts.build_prompt(
      environment.tasks[task],
      steps,
      snapshot,
      environment.script(task, snapshot),
      protocol='compact',
      budget_tokens=budget,
      count_tokens=lambda found: len(found[0]['content']),
      allowed=environment.allowed,
    )
    return messages[0]['content'].encode()

  return ids


def play(pool, policy, ids, **options):
  return rollout.play_episodes(
    policy,
    None,
    dispatch.Dispatcher(pool, max_outage_seconds=5.0),
    ids,
    ['line'],
    agent='writer',
    max_steps=3,
    max_seconds=60.0,
    seed=0,
    **options,
  )


def test_an_episode_ends_where_its_script_has_become_too_long(pool):
  policy = Writer((LONG, LOOK), LOOK, LOOK)
  long, short = play(pool, policy, prompt_ids(pool), episodes=2)
  assert [s.outcome.kind for s in long.steps] == [OutcomeKind.EDITED]
  assert long.ended_by == 'prompt'
  assert [s.outcome.kind for s in short.steps] == [OutcomeKind.LOOKED] * 3
  assert short.ended_by == 'steps'
  assert [len(asked) for asked in policy.prompts] == [2, 1, 1]
  # It scores like any other: by its last valid submission.
  scale = pool.environment.tasks['line'].scale
  assert rollout.final_test_score(long, scale) == pytest.approx(30.0)


def test_a_task_that_cannot_be_read_at_all_is_an_error(pool):
  with pytest.raises(history.PromptTooLong, match='line.*only 50 are'):
    play(pool, Writer(LOOK), prompt_ids(pool, budget=50), episodes=1)


def test_every_state_of_the_experts_fits_the_prompts_of_training(
  pool, tmp_path
):
  place = workdir.Workdir(tmp_path / 'run')
  store = trajectories.TrajectoryStore(place.stage('collect'))
  everything = prompt_ids(pool, budget=10**6)
  (played,) = play(pool, Writer(LOOK, LOOK, LOOK), everything, episodes=1)
  store.append(played)
  config = base.get_config()
  config.fixed_set.states = 1
  above = set()
  for config.seed in range(8):
    session = types.SimpleNamespace(
      config=config,
      workdir=place,
      prompt_ids=lambda tokenizer: everything,
      processes=types.SimpleNamespace(leader_does=lambda do, *a: do(*a)),
    )
    found = states_lib.load_states(session, None)
    longest = max(len(found.ids_of(state)) for state, _ in found.pairs)
    drawn = max(len(found.ids_of(state)) for state in found.pool.states)
    above.add(longest - drawn)
    assert longest <= found.prompt_length < longest + 16
  assert max(above) > 16  # the longest one was held out


def test_what_earned_too_little_is_not_imitated(pool, tmp_path):
  said = []
  place = workdir.Workdir(tmp_path / 'run')
  store = trajectories.TrajectoryStore(place.stage('collect'))
  everything = prompt_ids(pool, budget=10**6)
  (played,) = play(pool, Writer('Hm.', LOOK, LOOK), everything, episodes=1)
  store.append(played)
  config = base.get_config()
  config.fixed_set.states = 1
  session = types.SimpleNamespace(
    config=config,
    workdir=place,
    prompt_ids=lambda tokenizer: everything,
    processes=types.SimpleNamespace(leader_does=lambda do, *a: do(*a)),
    scales={'line': pool.environment.tasks['line'].scale},
    log=types.SimpleNamespace(say=said.append),
  )

  def imitated(least):
    config.sft.min_reward = least
    pairs = states_lib.load_states(session, None).pairs
    return [(len(state.history), reply) for state, reply in pairs]

  assert imitated(0.0) == [(0, 'Hm.'), (1, LOOK), (2, LOOK)]
  assert not said
  # What was done after the mistake is.
  assert imitated(0.5) == [(1, LOOK), (2, LOOK)]
  assert said == [
    'sft.min_reward = 0.5: 2 of 3 actions of the experts are imitated'
  ]
  with pytest.raises(session_lib.ConfigError, match='min_reward is 0.6'):
    imitated(0.6)


def test_what_the_policy_cannot_read_is_no_state(pool, tmp_path):
  said = []
  place = workdir.Workdir(tmp_path / 'run')
  store = trajectories.TrajectoryStore(place.stage('collect'))
  everything = prompt_ids(pool, budget=10**6)
  for number, replies in enumerate(((LOOK, LOOK, LOOK), (LOOK, LONG, LOOK))):
    (played,) = play(pool, Writer(*replies), everything, episodes=1)
    store.append(
      trajectories.from_dict(
        trajectories.to_dict(played) | {'trajectory_id': f'expert-{number}'}
      )
    )
  config = base.get_config()
  config.fixed_set.states = 1
  config.rl.visited_share = 0.5
  session = types.SimpleNamespace(
    config=config,
    workdir=place,
    prompt_ids=lambda tokenizer: prompt_ids(pool),
    log=types.SimpleNamespace(say=said.append),
    processes=types.SimpleNamespace(leader_does=lambda do, *a: do(*a)),
  )
  found = states_lib.load_states(session, None)
  # After LONG there are two states: before and after the last look.
  assert said == [
    '2 of 8 states of the experts are left out: their prompts are longer than'
    f' agent.max_prompt_tokens = {config.agent.max_prompt_tokens}'
  ]
  kept = [*found.pool.states, *found.fixed]
  assert all('x' * 200 not in s.history[-1].reply for s in kept if s.history)
  assert len(found.pairs) == 5
  assert all(len(found.ids_of(state)) <= BUDGET for state in kept)
  # Nor is one that RL comes to.
  draws = found.draws(config)
  start = next(s for s in found.pool.states if not s.history)
  for reply, count in (
    (LONG, 0),
    (LOOK.replace('Thought: t', 'Thought: u'), 1),
  ):
    outcome, after = pool.environment.step('line', start.snapshot, reply)
    step = records.Step(start.snapshot, reply, outcome, after)
    draws.visit(start.name, 'policy-0', step)
    assert len(draws.get_state()['visited']) == count

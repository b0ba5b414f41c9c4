"""Batches in a real session: real states, a real pool, real scripts.

Only the policy is not a model: it writes what a test tells it to, and into its
thought which parameters and seed it was given.
"""

import collections
import contextlib
import dataclasses
import json
import pathlib
import shutil
import sys

import numpy as np
import pytest

from mlagent_jax import rollout
from mlagent_jax.stages import (
  collect,
  episodes,
  journal,
  rollouts,
  session,
  states,
  timeline,
  vocabulary,
  workdir,
)

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from configs import base  # noqa: E402

pytestmark = pytest.mark.timeout(600)

LOOK = 'Action: List Files\nAction Input: {"dir_path": "."}'
FINAL = 'Action: Final Answer\nAction Input: {"final_answer": "done"}'
# Not the same script twice: nothing of it is in the cache.
SLOW = (
  'Action: Edit Script Lines\nAction Input: {"script_name": "train.py",'
  ' "start_line_number": "1", "end_line_number": "1", "replacement":'
  ' "import time; time.sleep(%s)  # %s"}'
)


@dataclasses.dataclass
class Writer:
  """Stands where the learner does: `sleeps` (step, row, slot) are slow."""

  sleeps: dict
  calls: int = 0
  temperatures: dict = dataclasses.field(default_factory=dict)

  def policy(self, **_):
    return self

  def sample_replies(self, params, prompts, seeds, temperature=None):
    self.calls += 1
    step = self.step_of[int(seeds[0, 0])]
    self.temperatures[step] = temperature
    return [
      [self._reply(params, step, row, slot) for slot in range(seeds.shape[1])]
      for row in range(len(prompts))
    ]

  def _reply(self, params, step, row, slot):
    place = step, row, slot
    text = LOOK
    if place in self.sleeps:
      text = SLOW % (self.sleeps[place], place)
    text = f'Thought: version {params}\n{text}'
    return rollout.Reply(text, (3, 4, 2), (-0.5, -0.25, -0.125), True)

  @property
  def step_of(self):
    return {
      int(
        rollout.seeds_for(
          seed=0, stream=rollouts.SEED_STREAM, step=step, shape=(2, 3)
        )[0, 0]
      ): step
      for step in range(1, 20)
    }


def config_of(**rl):
  config = base.get_config()
  config.tasks.train = ('cells',)
  config.tasks.held_out = ()
  config.stages = ('collect',)
  config.environment.sandbox = 'process'
  config.environment.executions = ''
  config.tokenizer.vocab_size = 900
  config.collect.trajectories_per_task = 3
  config.collect.max_steps = 2
  config.fixed_set.states = 1
  config.rl.states_per_batch = 2
  config.rl.samples_per_state = 3
  config.rl.steps = 6
  config.rl.update(rl)
  return config


@pytest.fixture(scope='module')
def collected(tmp_path_factory):
  """A folder with trajectories, and a tokenizer of their prompts."""
  folder = tmp_path_factory.mktemp('collected')
  with session.open_session(config_of(), folder, 1) as live:
    live.workdir.finish('collect', collect.run(live))
    return folder, vocabulary.load_or_train(live)


@pytest.fixture
def opened(collected, tmp_path):
  """A function that opens a session with other settings of RL."""
  folder, tokenizer = collected
  stack = contextlib.ExitStack()

  def open_one(name='run', **rl):
    here = tmp_path / name
    if not here.exists():
      shutil.copytree(folder, here)
      (here / 'config.json').unlink()
      config = config_of(**rl)
      workdir.write_json(here / 'config.json', workdir.flatten(config))
    live = stack.enter_context(session.open_session(config_of(**rl), here, 1))
    return live, states.load_states(live, tokenizer)

  with stack:
    yield open_one


class Player:
  """A policy for episodes: looks, and in its third action answers."""

  calls = 0

  def __init__(self, tokenizer):
    self.tokenizer = tokenizer

  def policy(self, **_):
    return self

  def sample_replies(self, params, prompts, seeds, temperature=None):
    self.calls += 1
    text = f'Thought: version {params}\n'
    text += FINAL if self.calls % 3 == 0 else LOOK
    ids = [(int(seed) % 5 + 3, 2) for seed in seeds[:, 0]]
    return [[rollout.Reply(text, pair, (-0.5, -0.25), True)] for pair in ids]


def source_of(live, known, writer):
  spans = timeline.Timeline(0)
  return rollouts.StepRollouts(live, writer, known, live.dispatcher(), spans)


def loop(live, source, done=0, until=None):
  """The loop of `stages.rl`, with the number of updates as parameters."""
  settings = live.config.rl
  ahead = 1 + settings.max_staleness
  for number in range(done + 1, min(done + ahead, settings.steps) + 1):
    source.begin(number, done, version=done)
  batches, saved = {}, {}
  for number in range(done + 1, (until or settings.steps) + 1):
    batches[number] = source.collect(number)
    saved[number] = json.loads(json.dumps(source.state()))
    if number + ahead <= settings.steps:
      source.begin(number + ahead, number, version=number)
  return batches, saved


def accounts(folder, steps):
  """How often each sample was trained on or dropped."""
  counts = collections.Counter()
  found = journal.Journal(folder / 'rl' / 'rollouts')
  for number in range(1, steps + 1):
    trained = found.trained(number)
    counts.update([*trained.results, *trained.dropped])
  return counts


def every_sample(steps):
  return {
    journal.SampleId(batch, row, slot)
    for batch in range(1, steps + 1)
    for row in range(2)
    for slot in range(3)
  }


def test_a_distinct_pool_has_each_prompt_once(opened):
  _, every = opened('every')
  _, known = opened('distinct', pool_distinct=True)

  def prompts(states):
    return [tuple(states.ids_of(state)) for state in states.pool.states]

  assert len(prompts(every)) > len(set(prompts(every)))
  assert sorted(prompts(known)) == sorted(set(prompts(every)))


@pytest.mark.parametrize('staleness', [0, 1, 3])
def test_staleness_is_what_was_asked_for(opened, staleness):
  live, known = opened(max_staleness=staleness)
  batches, _ = loop(live, source_of(live, known, Writer({})))
  for number, batch in batches.items():
    version = max(0, number - 1 - staleness)
    assert set(batch.staleness) == {number - 1 - version}
    texts = {done.reply.text.split('\n')[0] for done in batch.executed}
    assert texts == {f'Thought: version {version}'}
    assert batch.valid.all()
    assert batch.owners.tolist() == [[0, 1, 2], [3, 4, 5]]
  assert accounts(live.workdir.folder, 6) == dict.fromkeys(every_sample(6), 1)


@pytest.mark.parametrize('staleness', [0, 2])
def test_a_batch_is_sampled_at_the_temperature_of_its_step(opened, staleness):
  live, known = opened(
    temperature=0.5, temperature_last=1.0, max_staleness=staleness
  )
  writer = Writer({})
  loop(live, source_of(live, known, writer))
  assert writer.temperatures == pytest.approx(
    {1: 0.5, 2: 0.6, 3: 0.7, 4: 0.8, 5: 0.9, 6: 1.0}
  )


def test_the_states_do_not_depend_on_the_staleness(opened):
  drawn = []
  for name, staleness in (('a', 0), ('b', 2)):
    live, known = opened(name, max_staleness=staleness)
    batches, _ = loop(live, source_of(live, known, Writer({})))
    drawn.append([batch.rows for batch in batches.values()])
  for before, after in zip(*drawn, strict=True):
    assert [r.snapshot for r in before] == [r.snapshot for r in after]
    assert [r.prompt_ids for r in before] == [r.prompt_ids for r in after]


def test_what_is_late_is_trained_later(opened):
  live, known = opened(
    max_staleness=1, deadline_seconds=0.2, max_late_staleness=5
  )
  # One slot of step 2 takes seconds; slow ones later keep the steps going.
  slow = {(2, 1, 2): 2.0} | {(step, 0, 0): 0.7 for step in (3, 4, 5, 6)}
  batches, _ = loop(live, source_of(live, known, Writer(slow)))
  assert batches[2].slots[1][2] is None
  assert batches[2].valid[1].tolist() == [1, 1, 0]
  late = {n: batch for n, batch in batches.items() if batch.late}
  assert late
  found = 0
  for batch in late.values():
    assert len(batch.rows) == 2 + rollouts.late_rows(live.config)
    for row, slots, valid in zip(
      batch.rows[2:], batch.slots[2:], batch.valid[2:], strict=True
    ):
      done = [item for item in slots if item is not None]
      assert (row is None) == (not done)
      if len(done) == 1 and 'sleep(2.0)' in done[0].reply.text:
        # It is compared with its mates, which are not trained again.
        assert valid.tolist() == [1, 1, 1]
        found += 1
  counts = accounts(live.workdir.folder, 6)
  assert counts == dict.fromkeys(every_sample(6), 1)
  trained = [s for b in batches.values() for s in b.staleness]
  assert max(trained) <= 5
  assert found == 1


def test_what_is_late_is_dropped_and_counted(opened):
  live, known = opened(max_staleness=0, deadline_seconds=0.2)
  slow = {(2, 0, 0): 6.0}
  batches, _ = loop(live, source_of(live, known, Writer(slow)))
  assert [batch.dropped for batch in batches.values()] == [0, 1, 0, 0, 0, 0]
  assert batches[2].valid[0].tolist() == [0, 1, 1]
  assert batches[2].rewards[0].tolist() == [0.0, 0.5, 0.5]
  assert accounts(live.workdir.folder, 6) == dict.fromkeys(every_sample(6), 1)


@pytest.mark.parametrize('staleness', [0, 2])
@pytest.mark.parametrize('done', [0, 2])
def test_a_stopped_run_goes_on_with_the_same_batches(opened, staleness, done):
  whole, known = opened('whole', max_staleness=staleness)
  expected, _ = loop(whole, source_of(whole, known, Writer({})))
  live, known = opened('stopped', max_staleness=staleness)
  _, saved = loop(live, source_of(live, known, Writer({})), until=4)
  # What it had begun is lost; the checkpoint is of step `done`.
  writer = Writer({})
  source = source_of(live, known, writer)
  if done:
    source.restore(saved[done], done)
  batches, _ = loop(live, source, done=done)
  assert writer.calls == 6 - min(6, 5 + staleness)
  for number, batch in batches.items():
    assert batch.rows == expected[number].rows
    assert batch.slots == expected[number].slots
    assert batch.staleness == expected[number].staleness
    np.testing.assert_array_equal(batch.rewards, expected[number].rewards)
  counts = accounts(live.workdir.folder, 6)
  assert counts == dict.fromkeys(every_sample(6), 1)


def test_what_the_draws_learned_survives_a_restart(opened):
  options = {
    'max_staleness': 1,
    'pool': 'prioritised',
    'visited_share': 0.5,
  }
  whole, known = opened('whole', **options)
  expected, _ = loop(whole, source_of(whole, known, Writer({})))
  live, known = opened('stopped', **options)
  _, saved = loop(live, source_of(live, known, Writer({})), until=4)
  assert saved[2]['pool']['spreads'] and saved[2]['pool']['visited']
  source = source_of(live, known, Writer({}))
  source.restore(saved[2], 2)
  batches, _ = loop(live, source, done=2)
  for number, batch in batches.items():
    assert batch.rows == expected[number].rows
  # The policy's own states are among them, with how idle they were.
  visited = [
    row
    for batch in expected.values()
    for row in batch.rows
    if row.trajectory_id.startswith('policy-')
  ]
  assert visited and all(row.neutral_before for row in visited)


def test_late_samples_survive_a_restart(opened):
  live, known = opened(
    max_staleness=0, deadline_seconds=0.2, max_late_staleness=9
  )
  slow = {(2, 1, 0): 1.5}
  _, saved = loop(live, source_of(live, known, Writer(slow)), until=3)
  source = source_of(live, known, Writer({(6, 0, 0): 3.0, (6, 0, 1): 0.1}))
  source.restore(saved[2], 2)
  batches, _ = loop(live, source, done=2)
  counts = accounts(live.workdir.folder, 6)
  assert counts == dict.fromkeys(every_sample(6), 1)
  trained = [
    done.reply.text
    for batch in batches.values()
    for slots in batch.slots[2:]
    for done in slots
    if done is not None
  ]
  assert any('sleep(1.5)' in text for text in trained)


def test_whole_episodes_are_played_once(opened, collected):
  live, known = opened(mode='episode', steps=2, episode_steps=5)
  dispatcher, spans = live.dispatcher(), timeline.Timeline(0)
  player = Player(collected[1])
  source = episodes.EpisodeRollouts(live, player, known, dispatcher, spans)
  batches, _ = loop(live, source)
  assert player.calls == 6  # three actions, and it has answered
  for number, batch in batches.items():
    assert len(batch.rows) == 2 * 3 * 5
    assert len(batch.executed) == 2 * 3 * 3
    np.testing.assert_allclose(batch.rewards, np.full((2, 3), 1.5))
    texts = {done.reply.text.split('\n')[0] for done in batch.executed}
    assert texts == {f'Thought: version {number - 1}'}
    # Prompts grow, and the second is not the first.
    first, second, third = (row.prompt_ids for row in batch.rows[:3])
    assert first != second != third
  # After a restart they are read, not played.
  source = episodes.EpisodeRollouts(live, player, known, dispatcher, spans)
  again, _ = loop(live, source)
  assert player.calls == 6
  for number, batch in again.items():
    assert batch.rows == batches[number].rows
    assert batch.slots == batches[number].slots

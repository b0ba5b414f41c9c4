"""The expert plays a real task in the real environment, failures included."""

import dataclasses

import pytest

from mlagent_jax.environment import (
  actions,
  cache,
  episode,
  prepared,
  sandbox,
  task_folder,
)
from mlagent_jax.environment.blobs import BlobStore
from mlagent_jax.environment.records import (
  ActionName,
  Outcome,
  OutcomeKind,
  Snapshot,
  Step,
)
from mlagent_jax.exploration import diversity, expert, ideas, slots
from mlagent_jax.exploration.library import Slot

FAILED = (OutcomeKind.SCRIPT_FAILED, OutcomeKind.REFUSED_SUBMISSION)


@pytest.fixture(scope='module')
def task():
  loaded = task_folder.load_task('cells')
  prepared.prepare_task(loaded)
  return loaded


@pytest.fixture(scope='module')
def script(task):
  return (task.starter_folder / task.entry).read_text()


@pytest.fixture(scope='module')
def chosen(task, script):
  """The ten that a run would use, and one that always crashes."""
  written = ideas.write_ideas(task, script)
  vectors = diversity.ngram_embedding([idea.text for idea in written])
  ten = [written[i] for i in diversity.furthest_points(vectors, 10)]
  crash = next(i for i in written if 'natural logarithms' in i.text)
  return [*ten, crash]


@pytest.fixture(scope='module')
def environment(task, tmp_path_factory):
  folder = tmp_path_factory.mktemp('expert')
  with sandbox.make_sandbox('process') as box:
    yield episode.Environment(
      {'cells': task},
      box,
      BlobStore(folder / 'blobs'),
      cache=cache.ExecutionCache(folder / 'executions'),
    )


@pytest.fixture(scope='module')
def played(environment, chosen):
  agent = expert.ScriptedExpert(chosen, seed=3)
  return environment.play('cells', agent, max_steps=40)


def name_of(step, protocol='compact'):
  return actions.parse_reply(step.reply, protocol=protocol).name


def is_edit(step):
  return name_of(step) is ActionName.EDIT_SCRIPT_LINES


def test_every_reply_is_an_action_and_the_episode_ends_itself(played):
  for step in played.steps:
    name_of(step)  # raises if it is none
    assert step.outcome.kind not in (
      OutcomeKind.UNPARSED,
      OutcomeKind.BAD_ARGUMENTS,
      OutcomeKind.EDIT_FAILED,
    )
  assert played.ended_by == 'final_answer'


def test_edits_are_real_many_and_some_fail(played):
  edits = [step for step in played.steps if is_edit(step)]
  assert len({step.reply for step in edits}) >= 10
  kinds = [step.outcome.kind for step in edits]
  assert kinds.count(OutcomeKind.EDITED) >= 6
  assert any(kind in FAILED for kind in kinds)
  scores = {step.outcome.score for step in edits if step.outcome.score}
  assert len(scores) >= 6


def test_what_helps_stays_and_what_does_not_is_taken_back(played, task):
  best = task.scale.m_init
  for step, following in zip(played.steps, played.steps[1:], strict=False):
    if not is_edit(step):
      continue
    if step.outcome.kind is OutcomeKind.EDITED and step.outcome.score > best:
      best = step.outcome.score
      assert name_of(following) is not ActionName.UNDO_EDIT_SCRIPT
    else:
      # Undone, repaired, or another idea takes its place.
      assert name_of(following) in (
        ActionName.UNDO_EDIT_SCRIPT,
        ActionName.EDIT_SCRIPT_LINES,
      )
  assert played.steps[-1].after.score == pytest.approx(best)
  assert best > task.scale.m_init


def test_replies_depend_on_seed_and_outcomes_only(
  environment, task, chosen, played
):
  agent = expert.ScriptedExpert(chosen, seed=3)
  for i, step in enumerate(played.steps):
    text = environment.script('cells', step.before)
    reply = agent.reply(task, step.before, text, played.steps[:i])
    assert reply == step.reply


def test_it_speaks_the_full_protocol_too(task, script, chosen):
  agent = expert.ScriptedExpert(chosen[:2], protocol='full')
  for outcome in (None, edited(0.9), failed()):
    steps = () if outcome is None else (step_of(outcome),)
    reply = agent.reply(task, Snapshot('t'), script, steps)
    action = actions.parse_reply(reply, protocol='full')
    assert action.thought


def edited(score):
  return Outcome(OutcomeKind.EDITED, 'it ran', edited=True, score=score)


def failed():
  return Outcome(
    OutcomeKind.SCRIPT_FAILED, 'ValueError: no', edited=True, exit_code=1
  )


def step_of(outcome):
  return Step(Snapshot('t'), '', outcome, Snapshot('t'))


def idea(slot, line, fix=()):
  return ideas.Idea('family', f'Idea: {line}', slot, (line,), fix)


def act(agent, task, script, outcome=None):
  steps = () if outcome is None else (step_of(outcome),)
  return agent.reply(task, Snapshot('t'), script, steps)


def quiet_seed():
  """A seed with which the expert does not begin with a look."""
  import random

  return next(
    seed
    for seed in range(100)
    if random.Random(seed).random() >= expert.LOOK_RATE
  )


def test_a_failure_is_repaired_once_then_undone(task, script):
  broken = idea(Slot.MODEL, 'model = broken()', ('model = mended()',))
  agent = expert.ScriptedExpert([broken], seed=quiet_seed())
  assert 'model = broken()' in act(agent, task, script)
  repair = act(agent, task, script, failed())
  assert 'model = mended()' in repair and 'Thought: Repair: ' in repair
  assert 'Undo Edit Script' in act(agent, task, script, failed())
  undone = Outcome(OutcomeKind.UNDONE, 'undone', edited=True)
  assert 'Undo Edit Script' in act(agent, task, script, undone)
  assert 'Final Answer' in act(agent, task, script, undone)


def test_another_idea_for_the_slot_takes_the_place_of_a_bad_one(task, script):
  two = [idea(Slot.MODEL, f'model = m{i}()') for i in (1, 2)]
  other = idea(Slot.TARGET, 'y = 2')
  agent = expert.ScriptedExpert([two[0], other, two[1]], seed=quiet_seed())
  assert 'm1()' in act(agent, task, script)
  assert 'm2()' in act(agent, task, script, edited(0.1))
  # Two bad edits are on top of the starter now, and both are undone.
  undone = Outcome(OutcomeKind.UNDONE, 'undone', edited=True)
  assert 'Undo' in act(agent, task, script, edited(0.2))
  assert 'Undo' in act(agent, task, script, undone)
  assert 'y = 2' in act(agent, task, script, undone)


def test_it_judges_in_the_direction_of_the_metric(task, script):
  lower = dataclasses.replace(task.scale, higher_is_better=False)
  card = dataclasses.replace(task, scale=lower)
  pair = [idea(Slot.MODEL, 'model = m()'), idea(Slot.TARGET, 'y = 2')]
  agent = expert.ScriptedExpert(pair, seed=quiet_seed())
  act(agent, card, script)
  assert 'y = 2' in act(agent, card, script, edited(lower.m_init - 0.1))


def test_edits_point_at_the_slot_as_the_script_is_now(task, script):
  longer = script.replace('y = ', '# a comment\n# another\ny = ')
  target = idea(Slot.TARGET, 'y = 2')
  seed = quiet_seed()
  for text in (script, longer):
    reply = act(expert.ScriptedExpert([target], seed=seed), task, text)
    first, last = slots.find(text, Slot.TARGET)
    assert f'Action Input: train.py {first}-{last}\ny = 2' in reply


def test_an_idea_that_is_in_place_already_is_skipped(task, script):
  there = ideas.Idea(
    'f', 'Idea: the same.', Slot.MODEL, slots.content(script, Slot.MODEL)
  )
  agent = expert.ScriptedExpert([there], seed=quiet_seed())
  assert 'Final Answer' in act(agent, task, script)


def test_some_episodes_begin_with_a_look(task, script, chosen):
  first = [
    act(expert.ScriptedExpert(chosen, seed=seed), task, script)
    for seed in range(200)
  ]
  looks = [reply for reply in first if reply.startswith('Thought: Look')]
  assert 0.05 < len(looks) / len(first) < 0.3
  assert len({actions.parse_reply(reply).name for reply in looks}) == 3

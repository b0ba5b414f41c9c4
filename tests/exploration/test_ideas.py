"""Ideas are many, of many families, and few differ only in numbers."""

import collections
import re

import pytest

from mlagent_jax.environment import task_folder
from mlagent_jax.exploration import ideas, library, slots
from mlagent_jax.exploration.library import Slot

TASKS = ('mnist5k', 'cells', 'ames', 'tweet-affect')


def starter(name):
  task = task_folder.load_task(name)
  return task, (task.starter_folder / task.entry).read_text()


@pytest.mark.parametrize('name', TASKS)
def test_at_least_100_ideas_of_30_families(name):
  found = ideas.write_ideas(*starter(name))
  assert len(found) >= 100
  assert len({idea.text for idea in found}) == len(found)
  assert len({idea.family for idea in found}) >= 30


@pytest.mark.parametrize('name', TASKS)
def test_at_most_30_percent_differ_only_in_numbers(name):
  found = ideas.write_ideas(*starter(name))

  def without_numbers(text):
    return re.sub(r'[\d.]+(e-?\d+)?', '#', text)

  for form in (
    [without_numbers(idea.text) for idea in found],
    [without_numbers('\n'.join((idea.slot, *idea.lines))) for idea in found],
  ):
    counts = collections.Counter(form)
    alike = sum(count for count in counts.values() if count > 1)
    assert alike / len(found) <= 0.3


@pytest.mark.parametrize('name', TASKS)
def test_every_idea_is_an_edit_that_changes_the_starter(name):
  task, script = starter(name)
  for idea in ideas.write_ideas(task, script):
    assert not re.search(r'\{(y|target|prepare|text|rows)\}', str(idea))
    edited = put(script, idea)
    assert edited != script
    compile(edited, 'train.py', 'exec')
    # The slot is found again, and holds just this idea.
    assert slots.content(edited, idea.slot) == idea.lines
    if idea.fix:
      compile(put(script, idea, idea.fix), 'train.py', 'exec')
      assert idea.fix != idea.lines


def put(script, idea, lines=None):
  first, last = slots.find(script, idea.slot)
  text = slots.split(script)
  text[first - 1 : last] = idea.lines if lines is None else lines
  return '\n'.join(text) + '\n'


@pytest.mark.parametrize('name', TASKS)
def test_ideas_of_different_slots_commute(name):
  task, script = starter(name)
  by_slot = collections.defaultdict(list)
  for idea in ideas.write_ideas(task, script):
    by_slot[idea.slot].append(idea)
  assert len(by_slot) >= 6
  for a in by_slot:
    for b in by_slot:
      if a is b:
        continue
      for one, other in zip(by_slot[a], by_slot[b], strict=False):
        assert put(put(script, one), other) == put(put(script, other), one)


def test_an_idea_replaces_another_of_its_slot():
  task, script = starter('cells')
  models = [
    idea for idea in ideas.write_ideas(task, script) if idea.slot is Slot.MODEL
  ]
  for one in models[:10]:
    for other in models[:10]:
      assert put(put(script, one), other) == put(script, other)


def test_problems_are_read_from_card_and_starter():
  expected = {
    'mnist5k': {'image', 'probabilities', 'classes', 'one', 'dense', '28x28'},
    'cells': {'tabular', 'labels', 'columns', 'table', 'dense'},
    'ames': {'tabular', 'values', 'one', 'columns', 'table', 'dense'},
    'tweet-affect': {'text', 'values', 'many', 'table'},
  }
  for name, tags in expected.items():
    assert tags <= ideas.problem_of(*starter(name))
  assert 'dense' not in ideas.problem_of(*starter('tweet-affect'))


def test_slots_that_a_script_lacks_are_none():
  for slot in library.Slot:
    assert slots.find('print(1)\n', slot) is None
    assert slots.find('', slot) is None
    assert slots.content('print(1)\n', slot) == ()

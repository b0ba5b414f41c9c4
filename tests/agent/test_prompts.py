"""Prompts hold the state, fit their budget, and never show a test score."""

import types

import pytest

from mlagent_jax.agent import history, prompts
from mlagent_jax.environment import actions
from mlagent_jax.environment.records import (
  ActionName,
  Outcome,
  OutcomeKind,
  Scale,
  Snapshot,
  Step,
)

TASK = types.SimpleNamespace(
  name='cells',
  description='Tell good cells from poor ones.',
  metric='accuracy',
  entry='train.py',
  scale=Scale(True, 0.7, 0.8, 0.71, 0.83),
)
SCRIPT = 'import numpy\n\nx = 1\fy = 2\nmodel = LogisticRegression()\n'
SNAPSHOT = Snapshot('t', score=0.75, test_score=0.123456, best_score=0.78)


def step(number, kind=OutcomeKind.EDITED, score=0.75, observation=None, **more):
  outcome = Outcome(
    kind,
    observation or f'observation {number} ' + 'word ' * 30,
    score_before=0.74,
    score=score if kind is OutcomeKind.EDITED else None,
    test_score=0.123456,
    **more,
  )
  reply = (
    f'Thought: Model: idea {number}.\nAction: Edit Script Lines\n'
    f'Action Input: train.py {number}-{number}\nmodel = M{number}()'
  )
  return Step(SNAPSHOT, reply, outcome, SNAPSHOT)


def count_words(messages):
  return sum(len(m['content'].split()) for m in messages)


def build(steps, budget, protocol='full', **more):
  return prompts.build_prompt(
    TASK,
    steps,
    SNAPSHOT,
    SCRIPT,
    protocol=protocol,
    budget_tokens=budget,
    count_tokens=count_words,
    **more,
  )


def text_of(messages):
  return '\n'.join(m['content'] for m in messages)


@pytest.mark.parametrize('protocol', ['full', 'compact'])
def test_no_test_score_is_ever_shown(protocol):
  shown = text_of(build([step(1), step(2)], 10_000, protocol))
  assert '0.1234' not in shown and '0.71' not in shown and '0.83' not in shown
  for part in ('accuracy', 'higher', '0.7', '0.75', '0.78', 'train.py'):
    assert part in shown


@pytest.mark.parametrize('protocol', ['full', 'compact'])
def test_the_listing_counts_lines_as_edits_do(protocol):
  shown = text_of(build([], 10_000, protocol))
  assert shown.endswith(
    '1 import numpy\n2\n3 x = 1\fy = 2\n4 model = LogisticRegression()'
  )


def test_full_prompt_offers_the_allowed_tools_only():
  allowed = {ActionName.LIST_FILES, ActionName.FINAL_ANSWER}
  shown = text_of(build([], 10_000, allowed=allowed))
  assert '- List Files' in shown and '- Final Answer' in shown
  assert '- Copy File' not in shown and '- Edit Script' not in shown
  everything = text_of(build([], 10_000))
  assert all(f'- {name}: ' in everything for name in ActionName)


def test_every_tools_example_parses():
  for name, (_, example) in prompts.TOOLS.items():
    parts = [f'{section}: x' for section in actions.SECTIONS['full'][:-2]]
    reply = '\n'.join([*parts, f'Action: {name}', f'Action Input: {example}'])
    assert actions.parse_reply(reply, protocol='full').name is name


def test_the_format_names_the_sections_of_the_parser_in_order():
  shown = text_of(build([], 10_000))
  shown = shown[shown.index('Every reply has') :]
  places = [shown.index(f'\n{s}: ') for s in actions.SECTIONS['full']]
  assert places == sorted(places)


def test_roles_alternate_and_end_with_the_user():
  roles = [m['role'] for m in build([step(i) for i in range(3)], 10_000)]
  assert roles == ['system'] + ['user', 'assistant'] * 3 + ['user']


def test_ideas_are_in_the_first_message():
  messages = build([step(1)], 10_000, ideas=['grow a forest'])
  assert '- grow a forest' in messages[1]['content']


def test_oldest_observations_go_first_then_oldest_steps():
  steps = [step(i) for i in range(1, 5)]
  everything = count_words(build(steps, 10_000))
  minimum = count_words(build([], 10_000))
  seen = []
  for budget in range(everything, minimum + 10, -1):
    messages = build(steps, budget)
    assert count_words(messages) <= budget
    shown = text_of(messages)
    observations = [i for i in range(1, 5) if f'observation {i} ' in shown]
    replies = [i for i in range(1, 5) if f'idea {i}.' in shown]
    if not seen or seen[-1] != (replies, observations):
      seen.append((replies, observations))
  every = [1, 2, 3, 4]
  assert seen == [(every, every[i:]) for i in range(5)] + [
    (every[i:], []) for i in range(1, 5)
  ]
  assert 'first 4 steps are left out' in shown


def test_no_more_is_dropped_than_needed():
  steps = [step(i) for i in range(1, 5)]
  everything = count_words(build(steps, 10_000))
  shown = text_of(build(steps, everything - 1))
  assert 'observation 1 ' not in shown and 'observation 2 ' in shown


@pytest.mark.parametrize('protocol', ['full', 'compact'])
def test_too_small_a_budget_is_an_error_with_numbers(protocol):
  least = count_words(build([], 10_000, protocol))
  assert build([], least, protocol)
  with pytest.raises(history.PromptTooLong) as error:
    build([], least - 1, protocol)
  for part in ("'cells'", f' {least - 1} ', 'tokens'):
    assert part in str(error.value)


def test_a_long_observation_is_cut_in_its_middle():
  long = 'start ' + 'x' * 50_000 + ' end'
  shown = text_of(build([step(1, observation=long)], 100_000))
  assert 'start' in shown and ' end' in shown
  assert len(shown) < 20_000 and 'characters cut' in shown


def test_compact_prompt_shows_the_last_two_steps_in_a_line_each():
  steps = [step(i, score=0.74 + i / 100) for i in (1, 2, 3)]
  (message,) = build(steps, 10_000, 'compact')
  lines = message['content'].split('\n')
  assert lines[0] == 'cells: accuracy, higher is better'
  assert lines[1] == 'init 0.7 now 0.75 best 0.78'
  assert lines[2:4] == [
    f'Edit Script Lines train.py {i}-{i}: Model: idea {i}. -> better {score}'
    for i, score in ((2, 0.76), (3, 0.77))
  ]
  assert lines[4] == 'train.py'
  (fewer,) = build(steps, count_words([message]) - 1, 'compact')
  assert 'idea 2' not in fewer['content'] and 'idea 3' in fewer['content']


@pytest.mark.parametrize(
  'outcome, words',
  [
    (step(1, score=0.5).outcome, 'worse 0.5'),
    (step(1, score=0.74).outcome, 'equal 0.74'),
    (step(1, OutcomeKind.EDIT_FAILED).outcome, 'edit failed'),
    (step(1, OutcomeKind.TIME_LIMIT).outcome, 'time limit'),
    (
      step(
        1,
        OutcomeKind.SCRIPT_FAILED,
        observation='Traceback\nnumpy.linalg.LinAlgError: no\nIt failed.',
      ).outcome,
      'failed LinAlgError',
    ),
    (
      step(
        1, OutcomeKind.SCRIPT_FAILED, observation='killed', exit_code=-9
      ).outcome,
      'failed exit -9',
    ),
  ],
)
def test_outcomes_in_a_few_words(outcome, words):
  assert history.outcome_words(outcome, sign=1, m_init=0.7) == words


def test_an_unreadable_reply_is_named_so():
  assert history.shortened('no idea what to say') == 'unreadable reply'


def test_unknown_protocol_is_an_error():
  with pytest.raises(ValueError, match="'verbose' is none of"):
    build([], 100, 'verbose')

import dataclasses
import json
import os

import pytest
from line_task import SLOPE_LINE, STARTER

from mlagent_jax.environment import cache, episode, workspace
from mlagent_jax.environment.records import ActionName, OutcomeKind

Kind = OutcomeKind
DONE = {'final_answer': 'done'}


def reply(name, text):
  text = json.dumps(text) if isinstance(text, dict) else text
  return f'Thought: t\nAction: {name}\nAction Input: {text}'


def slope(value):
  """An edit of the starter; the validation MAE is |2 - value| * 10."""
  return reply(
    'Edit Script Lines',
    f'train.py {SLOPE_LINE}-{SLOPE_LINE}\nSLOPE = {value}',
  )


@pytest.fixture
def environment(line_task, process_sandbox, store, tmp_path):
  return episode.Environment(
    {'line': line_task},
    process_sandbox,
    store,
    cache=cache.ExecutionCache(tmp_path / 'executions'),
  )


@pytest.fixture
def play(environment):
  """Takes steps one after another; all outcomes and the last state."""

  def play(*replies, start=None):
    snapshot = start or environment.initial('line')
    outcomes = []
    for text in replies:
      outcome, snapshot = environment.step('line', snapshot, text)
      outcomes.append(outcome)
    return outcomes, snapshot

  return play


def test_edits_are_run_and_scored(environment, play):
  (first, second), state = play(slope(1.5), slope(1.9))
  assert (first.kind, second.kind) == (Kind.EDITED, Kind.EDITED)
  assert first.edited and not first.cached
  assert first.score_before is None and second.score_before == first.score
  assert first.score == pytest.approx(5.0)
  assert second.score == state.score == pytest.approx(1.0)
  assert second.test_score == state.test_score == pytest.approx(3.0)
  assert 'Validation mae: 5.0000 (before 10.0000, lower is better)' in (
    first.observation
  )
  assert '(before 5.0000' in second.observation
  assert '- 3 SLOPE = 1.0\n+ 3 SLOPE = 1.5\n' in first.observation
  assert 'The script printed:\ndone' in first.observation
  assert 'SLOPE = 1.9' in environment.script('line', state)
  assert first.sandbox.startswith('process')


def test_no_observation_has_a_test_score(play):
  outcomes, _ = play(
    slope(1.5),
    slope(0.25),
    reply('Undo Edit Script', {'script_name': 'train.py'}),
    reply('Execute Script', {'script_name': 'train.py'}),
    reply('Final Answer', DONE),
  )
  for outcome in outcomes:
    if outcome.test_score is not None:
      assert f'{outcome.test_score:.4f}' not in outcome.observation
  assert outcomes[0].test_score == pytest.approx(15.0)


def test_undo_restores_tree_and_score(environment, play):
  start = environment.initial('line')
  undo = reply('Undo Edit Script', {'script_name': 'train.py'})
  (_, worse, undone), state = play(slope(1.9), slope(1.0), undo)
  assert worse.score == pytest.approx(10.0)
  assert undone.kind is Kind.UNDONE
  assert undone.score is None
  assert state.score == pytest.approx(1.0)
  assert state.best_score == pytest.approx(1.0)
  assert 'SLOPE = 1.9' in environment.script('line', state)
  (again,), state = play(undo, start=state)
  assert (state.tree, state.score) == (start.tree, None)
  assert again.kind is Kind.UNDONE
  (nothing,), _ = play(undo, start=state)
  assert nothing.kind is Kind.EDIT_FAILED
  assert 'no edit to take back' in nothing.observation


def test_the_score_of_a_state_is_the_last_valid_one(play):
  broken = reply('Edit Script Lines', 'train.py 1-1\nimport nothing_there')
  (good, failed, after), state = play(slope(1.5), broken, slope(1.75))
  assert failed.kind is Kind.SCRIPT_FAILED
  assert failed.edited and failed.score is None
  assert 'ModuleNotFoundError' in failed.observation
  assert after.kind is Kind.SCRIPT_FAILED
  assert after.score_before == good.score == state.score


REPAIR = 'with open("submission.csv", "w") as f: f.write("id,y\\n")'
CASES = [
  ('no reply', Kind.UNPARSED, '"Thought:" is missing'),
  (reply('Dance', {}), Kind.UNKNOWN_ACTION, "'Dance'"),
  (
    reply('Edit Script (AI)', {}),
    Kind.UNKNOWN_ACTION,
    'may not use the action',
  ),
  (reply('List Files', {}), Kind.BAD_ARGUMENTS, 'dir_path is missing'),
  (reply('List Files', {'dir_path': '..'}), Kind.BAD_ARGUMENTS, 'outside'),
  (reply('List Files', {'dir_path': 'no'}), Kind.BAD_ARGUMENTS, "no 'no'"),
  (
    reply('Edit Script Lines', 'train.py 90-91\nx'),
    Kind.EDIT_FAILED,
    'has 12 lines',
  ),
  (slope('1.0'), Kind.EDIT_FAILED, 'changes nothing'),
  (
    reply('Edit Script Lines', 'train.py 1-12\n1 / 0'),
    Kind.SCRIPT_FAILED,
    'ZeroDivisionError',
  ),
  (
    reply('Edit Script Lines', 'train.py 1-12\nprint(1)'),
    Kind.MISSING_SUBMISSION,
    'did not write submission.csv',
  ),
  (
    reply('Edit Script Lines', f'train.py 1-12\n{REPAIR}'),
    Kind.REFUSED_SUBMISSION,
    '40 of 40 ids are missing',
  ),
  (slope('float("nan")'), Kind.REFUSED_SUBMISSION, 'no NaN'),
  (reply('List Files', {'dir_path': '.'}), Kind.LOOKED, 'train.py ('),
  (
    reply(
      'Edit Script',
      'train.py\n<<<<<<< SEARCH\nSLOPE = 1.0\n=======\nSLOPE = 2.0\n'
      '>>>>>>> REPLACE',
    ),
    Kind.EDITED,
    'Validation mae: 0.0000',
  ),
  (
    reply('Copy File', {'source': 'train.py', 'destination': 'old/a.py'}),
    Kind.COPIED,
    'was copied',
  ),
  (
    reply('Execute Script', {'script_name': 'train.py'}),
    Kind.EXECUTED,
    'Validation mae: 10.0000',
  ),
  (reply('Final Answer', DONE), Kind.FINAL_ANSWER, 'ended'),
  (
    reply(
      'Edit Script Lines',
      'train.py 1-12\nprint("on", flush=True)\nwhile True: pass',
    ),
    Kind.TIME_LIMIT,
    'stopped after 1 seconds',
  ),
  (
    reply(
      'Edit Script Lines',
      'train.py 1-12\nx = []\nwhile True: x.append(bytearray(10**7))',
    ),
    Kind.MEMORY_LIMIT,
    'more than 256 MiB',
  ),
]


@pytest.mark.parametrize('text, kind, words', CASES)
def test_every_kind_of_outcome(
  line_task, process_sandbox, store, text, kind, words
):
  limits = line_task.limits
  if kind is Kind.TIME_LIMIT:
    limits = dataclasses.replace(limits, seconds=1)
  if kind is Kind.MEMORY_LIMIT:
    limits = dataclasses.replace(limits, memory_mb=256)
  task = dataclasses.replace(line_task, limits=limits)
  environment = episode.Environment({'line': task}, process_sandbox, store)
  start = environment.initial('line')
  outcome, after = environment.step('line', start, text)
  assert outcome.kind is kind, outcome.observation
  assert words in outcome.observation
  assert outcome.edited == (after.tree != start.tree)
  ran = outcome.exit_code is not None
  assert bool(outcome.sandbox) == ran == (outcome.seconds > 0)


def test_the_other_kinds_are_tested_too(play):
  copied = reply(
    'Copy File',
    {'source': 'data/train.csv', 'destination': 'submission.csv'},
  )
  silent = reply('Edit Script Lines', 'train.py 1-12\nprint(1)')
  outcomes, _ = play(copied, silent)
  assert outcomes[1].kind is Kind.STALE_SUBMISSION
  seen = {kind for _, kind, _ in CASES} | {Kind.STALE_SUBMISSION, Kind.UNDONE}
  assert seen == set(Kind)


HOSTILE = [
  '../../etc/passwd',
  '/etc/passwd',
  'data/../../private/labels.csv',
  'data/../../../line/private/labels.csv',
  './data/../data/../../private/labels.csv',
  'away/passwd',
  'away',
  'hard',
]


@pytest.mark.parametrize('path', HOSTILE)
def test_hostile_paths_are_bad_arguments(environment, store, path):
  start = environment.initial('line')
  tree = workspace.read_tree(start.tree, store)
  tree['away'] = workspace.Entry('link', 0, '/etc')
  tree['hard'] = workspace.Entry('link', 0, '/proc/self/environ')
  start = dataclasses.replace(start, tree=workspace.write_tree(tree, store))
  inspect = {'start_line_number': 1, 'end_line_number': 9}
  for text in (
    reply('List Files', {'dir_path': path}),
    reply('Inspect Script Lines', {'script_name': path, **inspect}),
    reply('Copy File', {'source': path, 'destination': 'x'}),
    reply('Copy File', {'source': 'train.py', 'destination': path + '/x'}),
    reply('Execute Script', {'script_name': path}),
    reply('Edit Script Lines', f'{path} 1-1\nx'),
  ):
    outcome, after = environment.step('line', start, text)
    assert outcome.kind is Kind.BAD_ARGUMENTS, (text, outcome)
    assert after == start
    for secret in ('root:', 'validation,'):
      assert secret not in outcome.observation


@pytest.mark.parametrize('path', ['data/train.csv', './data/new', 'data'])
def test_data_is_read_only_however_it_is_written(play, path):
  (edit, copy), _ = play(
    reply('Edit Script Lines', f'{path} 1-1\nx'),
    reply('Copy File', {'source': 'train.py', 'destination': path}),
  )
  assert edit.kind is copy.kind is Kind.BAD_ARGUMENTS
  assert 'read-only' in edit.observation and 'read-only' in copy.observation


def test_looking_at_files(play):
  def inspect(name, first, last):
    return reply(
      'Inspect Script Lines',
      {
        'script_name': name,
        'start_line_number': first,
        'end_line_number': last,
      },
    )

  outcomes, state = play(
    reply('List Files', {'dir_path': 'data'}),
    inspect('train.py', 3, 4),
    inspect('data/test.csv', 2, 3),
    inspect('train.py', 10, 99),
    inspect('train.py', 50, 60),
    inspect('train.py', 1, 101),
    inspect('train.py', 4, 3),
    reply('List Files', {'dir_path': '.'}),
  )
  texts = [outcome.observation for outcome in outcomes]
  assert texts[0].startswith('data holds:\ntest.csv (')
  assert 'labels' not in texts[0]
  assert texts[1] == 'train.py, lines 3-4 of 12:\n3 SLOPE = 1.0\n4'
  assert texts[2] == 'data/test.csv, lines 2-3:\n2 r1,1\n3 r2,2'
  assert texts[3].startswith('train.py, lines 10-12 of 12:')
  assert 'ends before line 50' in texts[4]
  assert 'at most 100' in texts[5]
  assert 'no lines 4-3' in texts[6]
  assert texts[7] == f'. holds:\ndata/\ntrain.py ({len(STARTER)} bytes)'


def test_observations_are_bounded(play):
  noisy = 'print("x" * 10**5)\nprint("y\\n" * 10**5)\nraise ValueError("end")'
  (noise,), _ = play(reply('Edit Script Lines', f'train.py 1-12\n{noisy}'))
  assert len(noise.observation) < 8000
  assert 'ValueError: end' in noise.observation
  many = '\n'.join(f'x{i} = {i}' for i in range(3000))
  (large,), _ = play(reply('Edit Script Lines', f'train.py 1-12\n{many}'))
  assert len(large.observation) < 8000
  (long,), _ = play(reply('Edit Script Lines', f'train.py 1-0\n{"x" * 2**21}'))
  assert long.kind is Kind.EDIT_FAILED


def test_undo_names_what_it_would_undo(play):
  copy = reply('Copy File', {'source': 'train.py', 'destination': 'b.py'})
  (_, _, other), _ = play(
    slope(1.5), copy, reply('Undo Edit Script', {'script_name': 'train.py'})
  )
  assert other.kind is Kind.EDIT_FAILED
  assert "did not change 'train.py', but b.py" in other.observation


def test_a_script_beside_the_entry_may_write_no_submission(play):
  copy = reply('Copy File', {'source': 'train.py', 'destination': 'b.py'})
  edit = reply('Edit Script Lines', 'b.py 1-12\nopen("made", "w").write("x")')
  (_, edited, ran), state = play(
    copy, edit, reply('Execute Script', {'script_name': 'b.py'})
  )
  assert edited.kind is Kind.EDITED  # the entry script ran, and scored
  assert ran.kind is Kind.EXECUTED and ran.score is None
  (listed,), _ = play(reply('List Files', {'dir_path': '.'}), start=state)
  assert 'made (1 bytes)' in listed.observation


def test_names_that_are_no_text_can_be_shown(play):
  odd = 'import os\nopen(os.fsencode("b") + bytes([255]), "w").close()'
  (_, listed), _ = play(
    reply('Edit Script Lines', f'train.py 1-0\n{odd}'),
    reply('List Files', {'dir_path': '.'}),
  )
  assert 'b? (0 bytes)' in listed.observation
  listed.observation.encode('utf-8')


class Scripted:
  """An agent that says what it was given to say."""

  name = 'scripted'

  def __init__(self, *replies):
    self._replies = list(replies)
    self.seen = []

  def reply(self, task, snapshot, script, steps):
    self.seen.append((task.name, script, len(steps)))
    return self._replies[min(len(steps), len(self._replies) - 1)]


def test_an_episode_ends_by_answer_steps_or_time(environment):
  look = reply('List Files', {'dir_path': '.'})
  agent = Scripted(slope(1.5), look, reply('Final Answer', DONE), look)
  played = environment.play('line', agent, seed=7, ideas=('slope',))
  assert (played.ended_by, len(played.steps)) == ('final_answer', 3)
  assert played.trajectory_id == 'scripted-line-7'
  assert played.ideas == ('slope',)
  assert agent.seen[0] == ('line', STARTER, 0)
  assert 'SLOPE = 1.5' in agent.seen[1][1]
  for step, following in zip(played.steps, played.steps[1:]):
    assert step.after == following.before
  played = environment.play('line', Scripted(look))
  assert (played.ended_by, len(played.steps)) == ('steps', 15)
  ticks = iter(range(0, 10**5, 600))
  played = environment.play('line', Scripted(look), clock=lambda: next(ticks))
  assert (played.ended_by, len(played.steps)) == ('time', 2)


class ReplacingEditor:
  """An editor without a model."""

  def understand(self, text, question):
    return f'{question} {len(text)} characters'

  def edit(self, text, instruction):
    return text.replace('SLOPE = 1.0', instruction)


def test_actions_that_need_an_editor(line_task, process_sandbox, store):
  tasks = {'line': line_task}
  with pytest.raises(ValueError, match=r'Understand File.*agent\.editor'):
    episode.Environment(
      tasks, process_sandbox, store, allowed=frozenset(ActionName)
    )
  environment = episode.Environment(
    tasks,
    process_sandbox,
    store,
    allowed=frozenset(ActionName),
    editor=ReplacingEditor(),
  )
  start = environment.initial('line')
  arguments = {'file_name': 'train.py', 'things_to_look_for': 'How long?'}
  looked, _ = environment.step(
    'line', start, reply('Understand File', arguments)
  )
  assert looked.observation == f'How long? {len(STARTER)} characters'
  arguments = {
    'script_name': 'train.py',
    'edit_instruction': 'SLOPE = 2.0',
    'save_name': 'train.py',
  }
  edited, after = environment.step(
    'line', start, reply('Edit Script (AI)', arguments)
  )
  assert (edited.kind, edited.score) == (Kind.EDITED, 0.0)
  again, _ = environment.step(
    'line', after, reply('Edit Script (AI)', arguments)
  )
  assert again.kind is Kind.EDIT_FAILED


def test_start_up_errors(line_task, process_sandbox, store):
  with pytest.raises(ValueError, match=r'agent\.protocol'):
    episode.Environment({}, process_sandbox, store, protocol='brief')
  os.unlink(line_task.labels_file)
  with pytest.raises(ValueError, match='tasks prepare --task line'):
    episode.Environment({'line': line_task}, process_sandbox, store)

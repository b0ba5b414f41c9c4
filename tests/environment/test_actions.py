import random

import pytest

from mlagent_jax.environment import actions
from mlagent_jax.environment.records import ActionName, OutcomeKind

FULL = """Reflection: it ran
Research Plan and Status: more trees
Fact Check: yes
Thought: try it
Action: {name}
Action Input: {text}"""
COMPACT = 'Thought: try it\nAction: {name}\nAction Input: {text}'
GOOD = {
  ActionName.LIST_FILES: ('{"dir_path": "."}', {'dir_path': '.'}),
  ActionName.UNDERSTAND_FILE: (
    '{"file_name": "a.py", "things_to_look_for": "the model"}',
    {'file_name': 'a.py', 'things_to_look_for': 'the model'},
  ),
  ActionName.INSPECT_SCRIPT_LINES: (
    '{"script_name": " a.py ", "start_line_number": 1,'
    ' "end_line_number": "07"}',
    {'script_name': 'a.py', 'start_line_number': '1', 'end_line_number': '7'},
  ),
  ActionName.EDIT_SCRIPT_AI: (
    '{"script_name": "a.py", "edit_instruction": "x", "save_name": "b.py"}',
    {'script_name': 'a.py', 'edit_instruction': 'x', 'save_name': 'b.py'},
  ),
  ActionName.EDIT_SCRIPT: (
    'a.py\n<<<<<<< SEARCH\n  x = 1\n\n=======\n  x = 2\n>>>>>>> REPLACE\n',
    {'script_name': 'a.py', 'search': '  x = 1\n', 'replace': '  x = 2'},
  ),
  ActionName.EDIT_SCRIPT_LINES: (
    'a.py 12-13\n  x = 1\n\n  Action:y\n\n',
    {
      'script_name': 'a.py',
      'start_line_number': '12',
      'end_line_number': '13',
      'replacement': '  x = 1\n\n  Action:y',
    },
  ),
  ActionName.COPY_FILE: (
    '{"source": "a", "destination": "b"}',
    {'source': 'a', 'destination': 'b'},
  ),
  ActionName.UNDO_EDIT_SCRIPT: (
    '{"script_name": "a.py"}',
    {'script_name': 'a.py'},
  ),
  ActionName.EXECUTE_SCRIPT: (
    '{"script_name": "a.py"}',
    {'script_name': 'a.py'},
  ),
  ActionName.FINAL_ANSWER: ('{"final_answer": ""}', {'final_answer': ''}),
}


def test_every_action_has_an_example_here():
  assert set(GOOD) == set(ActionName) == set(actions.ARGUMENTS)


@pytest.mark.parametrize('name', list(ActionName))
@pytest.mark.parametrize('protocol', ['full', 'compact'])
def test_good_replies_parse_and_white_space_is_of_no_account(protocol, name):
  text, expected = GOOD[name]
  template = FULL if protocol == 'full' else COMPACT
  reply = template.format(name=name, text=text)
  for variant in (
    reply,
    f'\n  {reply}\n\n',
    reply.replace('Action: ', 'Action:  '),
  ):
    action = actions.parse_reply(variant, protocol=protocol)
    assert (action.name, action.arguments) == (name, expected)
    assert action.thought == 'try it'


@pytest.mark.parametrize('text', ['a.py 3-4', 'a.py 3-4\n', 'a.py  3 - 4\n\n'])
def test_no_new_lines_delete(text):
  reply = COMPACT.format(name='Edit Script Lines', text=text)
  assert actions.parse_reply(reply).arguments['replacement'] == ''


def test_edit_actions_take_json_too():
  reply = COMPACT.format(
    name='Edit Script',
    text='{"script_name": "a.py", "search": "x\\n", "replace": ""}',
  )
  assert actions.parse_reply(reply).arguments['search'] == 'x\n'


UNPARSED, UNKNOWN, BAD = (
  OutcomeKind.UNPARSED,
  OutcomeKind.UNKNOWN_ACTION,
  OutcomeKind.BAD_ARGUMENTS,
)
MISTAKES = [
  ('', UNPARSED, 'empty'),
  (' \n', UNPARSED, 'empty'),
  ('I would rather talk.', UNPARSED, '"Thought:" is missing'),
  ('Thought: x\nAction: List Files', UNPARSED, '"Action Input:" is missing'),
  ('Thought: x Action: List Files', UNPARSED, '"Action:" is missing'),
  (
    'Action: List Files\nThought: x\nAction Input: {}',
    UNPARSED,
    '"Action:" is not in its place',
  ),
  ('Sure!\n' + COMPACT.format(name='x', text='y'), UNPARSED, 'text before'),
  (
    'Thought: a\nThought: b\nAction: x\nAction Input: y',
    UNPARSED,
    '"Thought:" occurs twice',
  ),
  (COMPACT.format(name=' ', text='{}'), UNPARSED, '"Action:" is empty'),
  (COMPACT.format(name='list files', text='{}'), UNKNOWN, "'list files'"),
  (COMPACT.format(name='Python REPL', text='{}'), UNKNOWN, 'List Files'),
  (COMPACT.format(name='List Files', text=''), BAD, 'is empty'),
  (COMPACT.format(name='List Files', text='.'), BAD, 'not valid JSON'),
  (COMPACT.format(name='List Files', text='{"dir_path": '), BAD, 'JSON'),
  (COMPACT.format(name='List Files', text='[' * 100000), BAD, 'JSON'),
  (COMPACT.format(name='List Files', text='["."]'), BAD, 'JSON object'),
  (COMPACT.format(name='List Files', text='{}'), BAD, 'dir_path is missing'),
  (
    COMPACT.format(name='List Files', text='{"dir_path": ".", "all": "1"}'),
    BAD,
    "no argument 'all'",
  ),
  (
    COMPACT.format(
      name='List Files', text='{"dir_path": "a", "dir_path": "b"}'
    ),
    BAD,
    'occurs twice',
  ),
  (COMPACT.format(name='List Files', text='{"dir_path": 3}'), BAD, 'a text'),
  (COMPACT.format(name='List Files', text='{"dir_path": " "}'), BAD, 'empty'),
  (
    COMPACT.format(name='List Files', text='{"dir_path": "a\\u0000b"}'),
    BAD,
    'no file can hold',
  ),
  (
    COMPACT.format(name='List Files', text='{"dir_path": "\\ud800"}'),
    BAD,
    'no file can hold',
  ),
  (
    COMPACT.format(
      name='Inspect Script Lines',
      text='{"script_name": "a", "start_line_number": true,'
      ' "end_line_number": 1}',
    ),
    BAD,
    'start_line_number must be a line number',
  ),
  (
    COMPACT.format(
      name='Inspect Script Lines',
      text='{"script_name": "a", "start_line_number": -1,'
      ' "end_line_number": 1}',
    ),
    BAD,
    'line number',
  ),
  (COMPACT.format(name='Edit Script Lines', text='a.py'), BAD, '12-13'),
  (COMPACT.format(name='Edit Script Lines', text='3-4\nx'), BAD, '12-13'),
  (COMPACT.format(name='Edit Script Lines', text='a.py 3\nx'), BAD, '12-13'),
  (
    COMPACT.format(name='Edit Script', text='a.py\nx\n=======\ny'),
    BAD,
    '"<<<<<<< SEARCH" is missing',
  ),
  (
    COMPACT.format(
      name='Edit Script',
      text='a\n<<<<<<< SEARCH\nx\n=======\n=======\n>>>>>>> REPLACE',
    ),
    BAD,
    'more than once',
  ),
  (
    COMPACT.format(
      name='Edit Script',
      text='a\n=======\n<<<<<<< SEARCH\nx\n>>>>>>> REPLACE',
    ),
    BAD,
    'not in order',
  ),
]


@pytest.mark.parametrize('reply, kind, words', MISTAKES)
def test_each_mistake_is_named(reply, kind, words):
  with pytest.raises(actions.ActionError) as caught:
    actions.parse_reply(reply)
  assert caught.value.kind is kind
  assert words in str(caught.value)


def test_full_protocol_wants_its_six_sections():
  with pytest.raises(actions.ActionError, match='"Reflection:" is missing'):
    actions.parse_reply(
      COMPACT.format(name='List Files', text='{"dir_path": "."}'),
      protocol='full',
    )


def test_what_is_not_allowed_is_unknown_and_not_offered():
  reply = COMPACT.format(name='Copy File', text='{}')
  with pytest.raises(actions.ActionError) as caught:
    actions.parse_reply(reply, allowed={ActionName.LIST_FILES})
  assert caught.value.kind is OutcomeKind.UNKNOWN_ACTION
  assert str(caught.value).endswith('the actions are List Files.')


def test_damaged_replies_raise_nothing_else():
  draw = random.Random(0)
  replies = [
    COMPACT.format(name=name, text=text) for name, (text, _) in GOOD.items()
  ]
  pieces = ['\n', '{', '}', '"', '-', ':', 'Action', '=======', 'é', '\\u']
  mistakes = []
  for _ in range(3000):
    reply = list(draw.choice(replies))
    for _ in range(draw.randrange(1, 6)):
      at = draw.randrange(len(reply))
      if draw.random() < 0.5:
        del reply[at : at + draw.randrange(8)]
      else:
        reply.insert(at, draw.choice(pieces))
      reply = reply or ['x']
    try:
      action = actions.parse_reply(''.join(reply))
    except actions.ActionError as error:
      mistakes.append(str(error))
    else:
      assert tuple(action.arguments) == actions.ARGUMENTS[action.name]
  assert max(map(len, mistakes)) < 700

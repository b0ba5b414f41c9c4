"""Chat models as experts and as editors, over HTTP, in a real environment."""

import sys
import types
from pathlib import Path

import pytest

from mlagent_jax.environment import cache, episode
from mlagent_jax.environment.records import ActionName, OutcomeKind
from mlagent_jax.exploration import chat, chat_editor, chat_expert, llm

sys.path.append(str(Path(__file__).parents[1] / 'exploration'))
import endpoint_server  # noqa: E402

Kind = OutcomeKind
ACTIONS = frozenset(ActionName)
EDIT = (
  'Reflection: r\nResearch Plan and Status: p\nFact Check: f\nThought: t\n'
  'Action: Edit Script (AI)\n'
  'Action Input: {"script_name": "train.py",'
  ' "edit_instruction": "make the slope 1.9", "save_name": "train.py"}'
)
DONE = EDIT.replace('Edit Script (AI)', 'Final Answer').partition('{')[0] + (
  '{"final_answer": "done"}'
)


@pytest.fixture
def served(monkeypatch):
  monkeypatch.setenv('OPENAI_API_KEY', 'good')
  with endpoint_server.serve() as served:
    yield served


@pytest.fixture
def model(served):
  return llm.Endpoint(llm.EndpointConfig('toy', served.url, timeout=5))


@pytest.fixture
def environment(line_task, process_sandbox, store, tmp_path, model):
  return episode.Environment(
    {'line': line_task},
    process_sandbox,
    store,
    cache=cache.ExecutionCache(tmp_path / 'executions'),
    editor=chat_editor.ChatEditor(model, max_tokens=500),
    allowed=ACTIONS,
    protocol='full',
  )


def expert(model, **options):
  return chat_expert.ChatExpert(
    model,
    protocol='full',
    allowed=ACTIONS,
    budget_tokens=6000,
    max_tokens=300,
    **options,
  )


def answer(body):
  """Plays the expert and the editor: edits once, then ends."""
  content = body['messages'][-1]['content']
  if content.startswith('Edit the script below'):
    script = content.partition('```python\n')[2].rpartition('\n```')[0]
    return f'```python\n{script.replace("SLOPE = 1.0", "SLOPE = 1.9")}\n```'
  edited = any('Observation: ' in m['content'] for m in body['messages'])
  return DONE if edited else EDIT


def test_an_endpoint_plays_an_episode_with_an_ai_edit(
  environment, served, model
):
  served.answer = answer
  agent = expert(model, ideas=('Try a steeper line.',), seed=40)
  played = environment.play('line', agent, max_steps=4)
  first, last = (step.outcome for step in played.steps)
  assert (first.kind, last.kind) == (Kind.EDITED, Kind.FINAL_ANSWER)
  assert first.score == pytest.approx(1.0)
  assert '- 3 SLOPE = 1.0\n+ 3 SLOPE = 1.9\n' in first.observation
  assert played.agent == 'toy'
  asked, edited, after = served.requests
  assert 'Try a steeper line.' in asked['messages'][1]['content']
  assert asked['stop'] == ['\nObservation:']
  assert (asked['seed'], after['seed']) == (40, 41)
  assert edited['temperature'] == 0
  # The beginning stays the same, so that the server's cache of it holds.
  head = asked['messages'][1]['content'].partition('Validation mae')[0]
  assert after['messages'][0] == asked['messages'][0]
  assert after['messages'][1]['content'].startswith(head.rstrip())
  assert agent.usage.requests == 2
  assert agent.usage.completion_tokens > 0


@pytest.mark.parametrize(
  'text, finish_reason, message',
  [
    ('I would rather not.', 'stop', 'answered with 0 blocks'),
    ('```\na\n```\nor\n```\nb\n```', 'stop', 'answered with 2 blocks'),
    ('```python\nSLOPE', 'length', 'needed more than 500 tokens'),
  ],
)
def test_an_editor_that_fails_is_a_failed_edit(
  environment, served, text, finish_reason, message
):
  served.answer = lambda body: text
  served.finish_reason = finish_reason
  outcome, after = environment.step('line', environment.initial('line'), EDIT)
  assert outcome.kind is Kind.EDIT_FAILED
  assert message in outcome.observation
  assert after == environment.initial('line')


def test_understand_file_asks_the_editor(environment, served):
  served.answer = lambda body: 'It fits a line.'
  reply = EDIT.replace('Edit Script (AI)', 'Understand File').partition('{')[0]
  reply += '{"file_name": "train.py", "things_to_look_for": "the model"}'
  outcome, _ = environment.step('line', environment.initial('line'), reply)
  assert (outcome.kind, outcome.observation) == (Kind.LOOKED, 'It fits a line.')
  (request,) = served.requests
  assert 'Question: the model' in request['messages'][0]['content']
  assert 'SLOPE = 1.0' in request['messages'][0]['content']


def test_an_agent_that_never_stops_ends_by_the_limits(
  environment, served, model
):
  served.answer = lambda body: 'la ' * 200
  served.finish_reason = 'length'
  played = environment.play('line', expert(model), max_steps=3)
  assert [s.outcome.kind for s in played.steps] == [Kind.UNPARSED] * 3
  assert played.ended_by == 'steps'


def test_an_endpoint_that_dies_is_an_error_and_no_outcome(
  environment, served, model
):
  served.faults = [(403, {'error': {'message': 'account closed'}}, {})]
  with pytest.raises(llm.EndpointError, match='account closed'):
    environment.play('line', expert(model), max_steps=3)


def test_a_server_that_counts_more_tokens_ends_the_episode_only(
  environment, served, model
):
  served.answer = answer
  too_long = (400, {'error': {'code': 'context_length_exceeded'}}, {})
  player = expert(model)
  steps = []

  def reply_and_fail(task, snapshot, script, seen):
    if seen:
      served.faults = [too_long]
    steps.append(player.reply(task, snapshot, script, seen))
    return steps[-1]

  watched = types.SimpleNamespace(name='watched', reply=reply_and_fail)
  played = environment.play('line', watched, max_steps=2)
  assert played.steps[0].outcome.kind is Kind.EDITED
  assert steps[1:] == [''] * (len(steps) - 1)
  assert player.refused_prompts == len(steps) - 1 > 0
  served.faults = [too_long]
  with pytest.raises(chat.TooLongError):
    environment.play('line', expert(model), max_steps=1)

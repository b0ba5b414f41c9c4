"""Collecting with a chat model over real HTTP: ideas, episodes, brakes."""

import json
import re
import sys
from pathlib import Path

import pytest

from configs import base
from mlagent_jax.exploration import accounting, llm
from mlagent_jax.stages import collect, errors, session

sys.path.append(str(Path(__file__).parent / 'exploration'))
import endpoint_server  # noqa: E402

LINES = 'Model: fit {} on {}, please.'
MODELS = 'ridge lasso forest boosting neighbours kernels splines trees'.split()
PLACES = 'log ranks squares ratios clusters bins medians differences'.split()
IDEAS = [LINES.format(m, p) for m in MODELS for p in PLACES]


def answer(body):
  """Lists ideas that were not said yet; as an agent, edits a line or stops."""
  content = body['messages'][-1]['content']
  if 'different ideas' in content:
    left = [idea for idea in IDEAS if idea not in content][:25]
    return '\n'.join(f'{i}. {idea}' for i, idea in enumerate(left, 1))
  lines = re.findall(r'^(\d+) (.*)$', content, re.MULTILINE)
  number = next(n for n, line in lines if line.startswith('import'))
  if '-> ' in content:
    return (
      'Thought: enough.\nAction: Final Answer\nAction Input: '
      + json.dumps({'final_answer': 'done'})
    )
  return (
    f'Thought: a comment.{" so" * 150}\nAction: Edit Script Lines\n'
    f'Action Input: train.py {number}-{int(number) - 1}\n# edit {body["seed"]}'
  )


def config_of(served, **llm_options):
  config = base.get_config()
  config.tasks.train = ('cells',)
  config.tasks.held_out = ()
  config.stages = ('collect',)
  config.environment.sandbox = 'process'
  config.environment.workers = 1
  config.collect.expert = 'endpoint'
  config.collect.ideas = 60
  config.collect.trajectories_per_task = 4
  config.collect.max_steps = 2
  config.endpoint.model = 'toy'
  config.endpoint.base_url = served.url
  config.endpoint.max_retries = 0
  config.endpoint.completion_price = 1.0
  config.endpoint.update(llm_options)
  return config


@pytest.fixture
def served(monkeypatch):
  monkeypatch.setenv('OPENAI_API_KEY', 'good')
  with endpoint_server.serve(answer=answer) as served:
    yield served


def test_a_chat_model_collects_stops_at_its_ceiling_and_goes_on(
  served, tmp_path
):
  # Enough for the ideas and some replies: a word written costs a millionth,
  # and what a reply may cost at most is held back.
  config = config_of(served, max_cost=2.5e-3, max_reply_tokens=1500)
  with (
    session.open_session(config, tmp_path / 'run', 1) as live,
    pytest.raises(accounting.CostCeilingError, match='Raise the ceiling'),
  ):
    collect.run(live)
  asked = len(served.requests)
  kept = (tmp_path / 'run' / 'collect' / 'trajectories.jsonl').read_text()
  assert 1 <= kept.count('\n') < 4
  assert accounting.CostCeilingError in errors.EXPECTED

  config = config_of(served, max_cost=1.0, max_reply_tokens=1500)
  with session.open_session(config, tmp_path / 'run', 1) as live:
    result = collect.run(live)['cells']
    spent = live.chat_models.get('endpoint').ledger.total
  assert result['trajectories'] == 4
  assert result['kinds'] == {'edited': 4, 'final_answer': 4}
  assert result['best_score'] == pytest.approx(result['starter_score'], 1e-5)
  # The ideas were not paid for twice, nor were episodes that had been stored.
  again = [b for b in served.requests[asked:] if 'different ideas' in str(b)]
  assert again == []
  now = (tmp_path / 'run' / 'collect' / 'trajectories.jsonl').read_text()
  assert now.startswith(kept)
  assert spent.requests == len(served.requests)
  report = json.loads((tmp_path / 'run' / 'collect' / 'ideas.json').read_text())
  assert set(report['cells']['chosen']) <= set(IDEAS)
  assert len(report['cells']['ideas']) == 60
  assert (
    report['cells']['mean_distance_chosen']
    > report['cells']['mean_distance_all']
  )


def test_an_endpoint_that_fails_midway_loses_no_episode(served, tmp_path):
  def failing(body):
    text = answer(body)
    if 'Final Answer\nAction' in text:
      served.faults = [(403, {'error': {'message': 'account closed'}}, {})] * 99
    return text

  served.answer = failing
  with (
    session.open_session(config_of(served), tmp_path / 'run', 1) as live,
    pytest.raises(llm.EndpointError, match='account closed'),
  ):
    collect.run(live)
  file = tmp_path / 'run' / 'collect' / 'trajectories.jsonl'
  kept = file.read_text()
  assert 1 <= kept.count('\n') < 4
  served.answer, served.faults = answer, []
  with session.open_session(config_of(served), tmp_path / 'run', 1) as live:
    assert collect.run(live)['cells']['trajectories'] == 4
  now = file.read_text()
  assert now.startswith(kept)
  ids = [
    json.loads(line)['trajectory']['trajectory_id'] for line in now.splitlines()
  ]
  assert sorted(ids) == [f'endpoint-cells-{n:05d}' for n in range(4)]


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'model': ''}, 'endpoint.model is empty'),
    ({'max_cost': 1.0, 'completion_price': 0.0}, 'prices of tokens are 0'),
    ({'model': 'other'}, "no model 'other'"),
    ({'api_key_variable': 'NO_SUCH_KEY'}, r'set \$NO_SUCH_KEY'),
  ],
)
def test_a_wrong_endpoint_stops_at_start_up(served, tmp_path, changes, message):
  with (
    pytest.raises((session.ConfigError, llm.EndpointError), match=message),
    session.open_session(config_of(served, **changes), tmp_path / 'run', 1),
  ):
    pass
  assert served.requests == []


@pytest.mark.parametrize(
  'key', ['collect.expert', 'collect.choice', 'collect.embedding']
)
def test_unknown_choices_stop_at_start_up(served, tmp_path, key):
  config = config_of(served)
  config.update_from_flattened_dict({key: 'nonsense'})
  with (
    pytest.raises(session.ConfigError, match=f"{key}: 'nonsense' is none of"),
    session.open_session(config, tmp_path / 'run', 1),
  ):
    pass

"""The policy itself as expert and editor of a collect stage, in process."""

import json

import pytest

from configs import base
from mlagent_jax.environment.records import ActionName
from mlagent_jax.exploration import chat_ideas
from mlagent_jax.serving import policy_chat
from mlagent_jax.stages import collect, errors, session, workdir

AI_EDIT = (
  'Thought: t\nAction: Edit Script (AI)\nAction Input: {"script_name":'
  ' "train.py", "edit_instruction": "use more trees", "save_name": "train.py"}'
)


def config_of(run_folder, **policy):
  config = base.get_config()
  config.tasks.train = ('cells',)
  config.tasks.held_out = ()
  config.stages = ('collect',)
  config.environment.sandbox = 'process'
  config.environment.workers = 2
  config.agent.editor = config.collect.expert = 'policy'
  config.agent.actions = tuple(map(str, ActionName))
  config.collect.ideas = config.collect.diverse_ideas = 10
  config.collect.trajectories_per_task = 3
  config.collect.max_steps = 2
  config.endpoint.max_prompt_tokens = 4000
  config.endpoint.max_reply_tokens = 20
  config.endpoint.max_edit_tokens = 50
  config.endpoint.max_idea_tokens = 40
  config.policy.checkpoint = str(run_folder)
  config.policy.slots = 4
  config.policy.update(policy)
  return config


def opened(config, folder):
  return session.open_session(
    config, folder, 1, open_policy=policy_chat.open_policy
  )


def test_a_policy_collects_and_edits_whatever_it_writes(run_folder, tmp_path):
  folder = tmp_path / 'run'
  with opened(config_of(run_folder), folder) as live:
    # A model that was not trained has no ideas: an error that says so.
    with pytest.raises(chat_ideas.TooFewIdeasError, match='of 10 wanted'):
      collect.run(live)
  ideas = folder / 'collect' / 'ideas'
  ideas.mkdir()
  workdir.write_json(ideas / 'cells.json', [f'idea {n}' * n for n in range(10)])
  with opened(config_of(run_folder), folder) as live:
    result = collect.run(live)['cells']
    ledger = live.chat_models.get('policy').ledger.total
    environment = live.environment
    outcome, _ = environment.step(
      'cells', environment.initial('cells'), AI_EDIT
    )
  assert result['kinds'] == {'unparsed': 6} and result['trajectories'] == 3
  assert outcome.kind == 'edit_failed'
  assert 'editor' in outcome.observation
  lines = (folder / 'policy.jsonl').read_text().splitlines()
  assert ledger.requests == len(lines) - 1 == 4 + 6
  assert ledger.completion_tokens <= 4 * 40 + 6 * 20
  spent = [json.loads(line) for line in lines]
  assert all(each['seconds'] > 0 and each['money'] == 0 for each in spent)
  agents = (folder / 'collect' / 'trajectories.jsonl').read_text()
  assert agents.count('tiny-untrained') >= 3


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'checkpoint': ''}, 'policy.checkpoint is empty'),
    ({'checkpoint': '/nowhere'}, '/nowhere is no folder'),
    ({'stage': 'rl'}, "no checkpoint of stage 'rl'"),
  ],
)
def test_a_wrong_policy_stops_at_start_up(
  run_folder, tmp_path, changes, message
):
  config = config_of(run_folder, **changes)
  with (
    pytest.raises(errors.EXPECTED, match=message),
    opened(config, tmp_path / 'run'),
  ):
    pass


def test_several_processes_cannot_ask_it(run_folder):
  config = config_of(run_folder)
  config.mesh.data = 2
  with pytest.raises(session.ConfigError, match="serve it .* use 'endpoint'"):
    session.check_config(config, 2, 1)

"""Commands that ask a real model, SmolLM2-135M, behind our own server."""

import contextlib
import json
import os
import re
import subprocess
import sys
import types

import pytest
from server_process import KEY, Server

from mlagent_jax import trajectories, weights
from mlagent_jax.environment import blobs, episode, records, task_folder
from mlagent_jax.environment.sandbox import make_sandbox
from mlagent_jax.exploration import chat_editor, llm

pytestmark = [
  pytest.mark.slow,
  pytest.mark.gguf,
  pytest.mark.timeout(3600),
]
EDIT = (
  'Reflection: none\nResearch Plan and Status: none\nFact Check: none\n'
  'Thought: a larger model.\nAction: Edit Script (AI)\nAction Input: {}'
)


@pytest.fixture(scope='module')
def smollm2(tmp_path_factory):
  folder = tmp_path_factory.mktemp('smollm2')
  gguf, ours = folder / 'gguf', folder / 'smollm2'
  assert weights.main(['smollm2', f'--out={gguf}']) == 0
  assert weights.main(['import', f'--hf={gguf}', f'--out={ours}']) == 0
  return ours


@contextlib.contextmanager
def serving(folder, *flags):
  server = Server(folder, '--chunk=16', *flags)
  try:
    yield server.wait()
  finally:
    server.process.kill()
    server.process.wait()


@pytest.fixture(scope='module')
def served(smollm2):
  flags = ('--max_prompt_tokens=2048', '--max_new_tokens=600')
  with serving(smollm2, *flags) as server:
    yield server


def test_constrained_it_names_an_action(smollm2):
  """Shown another word five times, it writes that, or an action of ours."""
  shown = 'Thought: I go on.\nAction: Dance\nAction Input: {}\n'
  replies = {}
  for flag in ('', '--constrain_actions'):
    flags = ('--max_prompt_tokens=256', '--max_new_tokens=32', flag)
    with serving(smollm2, *filter(None, flags)) as server:
      (choice,) = server.client.completions.create(
        model='smollm2',
        prompt=f'{5 * shown}Thought:',
        max_tokens=32,
        temperature=0,
      ).choices
      replies[flag] = choice.text
  named = {
    flag: re.search(r'Action: (.*)\nAction Input:', reply)[1]
    for flag, reply in replies.items()
  }
  assert named[''] == 'Dance'
  assert named['--constrain_actions'] in set(records.ActionName)


def test_it_writes_ideas_and_trajectories(served, tmp_path):
  """Ideas, then episodes; the ledger holds what the server counted."""
  folder = tmp_path / 'run'
  flags = {
    'tasks.train': "('cells',)",
    'tasks.held_out': '()',
    'environment.sandbox': 'process',
    'collect.expert': 'endpoint',
    'agent.editor': 'endpoint',
    'agent.actions': "('Edit Script (AI)', 'Execute Script', 'Final Answer')",
    'collect.ideas': 4,
    'collect.diverse_ideas': 2,
    'collect.trajectories_per_task': 4,
    'collect.max_steps': 3,
    'endpoint.model': 'smollm2',
    'endpoint.base_url': f'{served.url}/v1',
    'endpoint.api_key_variable': 'THE_KEY',
    'endpoint.timeout_seconds': 900,
    'endpoint.max_prompt_tokens': 1800,
    'endpoint.max_reply_tokens': 96,
    'endpoint.max_edit_tokens': 600,
    'endpoint.max_idea_tokens': 300,
    'endpoint.prompt_price': 0.15,
    'endpoint.completion_price': 0.6,
    'endpoint.max_cost': 1.0,
  }
  subprocess.run(
    [
      *(sys.executable, '-m', 'mlagent_jax.collect'),
      *('--config=configs/toy.py', f'--workdir={folder}'),
      *(f'--config.{key}={value}' for key, value in flags.items()),
    ],
    env=os.environ | {'THE_KEY': KEY, 'XLA_FLAGS': ''},
    check=True,
  )
  found = list(trajectories.TrajectoryStore(folder / 'collect'))
  assert len(found) == 4
  assert all(1 <= len(t.steps) <= 3 for t in found)
  ideas = json.loads((folder / 'collect' / 'ideas.json').read_text())['cells']
  chosen = {idea for t in found for idea in t.ideas}
  assert chosen <= set(ideas['ideas']) and len(set(ideas['ideas'])) >= 4
  entries = [
    json.loads(line)
    for line in (folder / 'endpoint.jsonl').read_text().splitlines()
  ]
  # Each step is one request, or two if the editor was asked as well.
  steps = sum(len(t.steps) for t in found)
  assert sum(entry['requests'] for entry in entries) > steps
  for entry in entries:
    price = 0.15 * entry['prompt_tokens'] + 0.6 * entry['completion_tokens']
    assert entry['money'] == pytest.approx(price / 1e6)


def test_it_edits_a_script(served, tmp_path, monkeypatch):
  """Whatever it writes is an outcome of the episode, and never an error."""
  monkeypatch.setenv('THE_KEY', KEY)
  model = llm.Endpoint(
    llm.EndpointConfig(
      'smollm2',
      f'{served.url}/v1',
      api_key_variable='THE_KEY',
      timeout=900,
    )
  )
  task = task_folder.load_task('indian-pines')
  asked = {
    'script_name': task.entry,
    'edit_instruction': 'Set random_state to 1.',
    'save_name': task.entry,
  }
  reply = EDIT.replace('{}', json.dumps(asked))
  with make_sandbox('process') as box:
    environment = episode.Environment(
      {task.name: task},
      box,
      blobs.BlobStore(tmp_path / 'blobs'),
      editor=chat_editor.ChatEditor(model, max_tokens=600),
      allowed=frozenset(records.ActionName),
      protocol='full',
    )
    player = types.SimpleNamespace(name='asks', reply=lambda *seen: reply)
    played = environment.play(task.name, player, max_steps=2)
  kinds = [step.outcome.kind for step in played.steps]
  assert len(kinds) == 2
  assert set(kinds) <= {
    records.OutcomeKind.EDITED,
    records.OutcomeKind.EDIT_FAILED,
    records.OutcomeKind.SCRIPT_FAILED,
  }

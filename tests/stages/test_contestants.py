"""Agents of an evaluation: an endpoint over HTTP, and policies of a run."""

import concurrent.futures
import json
import pathlib

import endpoint_server
import jax
import numpy as np
import pytest
import rich.console

from mlagent_jax import checkpoint, paths, train_state
from mlagent_jax.agent import tokenizer as tokenizer_lib
from mlagent_jax.exploration import accounting
from mlagent_jax.stages import learner as learner_lib
from mlagent_jax.stages import session, trained, workdir
from mlagent_jax.stages.evaluation import contestants, policies, run

EDIT = (
  'Thought: twice as steep.\nAction: Edit Script Lines\n'
  'Action Input: train.py 3-3\nSLOPE = 2.0'
)


def plan(suite, folder, served, **spending):
  return run.Plan(
    workdir=folder,
    checkpoint=None,
    agents=('starter', 'endpoint:toy'),
    tasks=run.suite_tasks(str(suite)),
    episodes=2,
    max_steps=1,
    sandbox='process',
    bootstrap_samples=100,
    spending=contestants.Spending(base_url=served.url, **spending),
  )


def evaluate(*arguments, **spending):
  console = rich.console.Console(quiet=True)
  return run.evaluate(plan(*arguments, **spending), console)


@pytest.fixture
def key(monkeypatch):
  monkeypatch.setenv('OPENAI_API_KEY', 'good')


def test_an_endpoint_plays_and_is_paid(suite, cache_home, tmp_path, key):
  with endpoint_server.serve(answer=lambda body: EDIT) as served:
    found = evaluate(
      suite, tmp_path, served, prompt_price=1.0, completion_price=2.0
    )
    assert len(served.requests) == 4
    # Nobody is asked again for what is on disk.
    evaluate(suite, tmp_path, served, prompt_price=1.0, completion_price=2.0)
    assert len(served.requests) == 4
  figures = found['tasks']['line']['agents']['endpoint:toy']
  assert figures['scores'] == [0.0, 0.0]
  assert figures['win_rate'] == 1.0
  costs = found['agents']['endpoint:toy']['all']['per_episode']
  lines = (tmp_path / 'evaluation' / 'endpoint.jsonl').read_text().splitlines()
  spent = sum(json.loads(line)['money'] for line in lines)
  assert costs['dollars'] * 4 == pytest.approx(spent)
  assert costs['prompt_tokens'] > 0


def test_a_ceiling_stops_before_it_is_passed(suite, cache_home, tmp_path, key):
  with endpoint_server.serve(answer=lambda body: EDIT) as served:
    with pytest.raises(accounting.CostCeilingError):
      evaluate(
        suite,
        tmp_path,
        served,
        prompt_price=1.0,
        completion_price=2.0,
        max_cost=1e-9,
      )
    assert not served.requests
    with pytest.raises(session.ConfigError, match='--prompt_price'):
      evaluate(suite, tmp_path, served, max_cost=1.0)


@pytest.fixture(scope='module')
def training(tmp_path_factory):
  """A work directory with a tokenizer and one checkpoint of SFT."""
  folder = tmp_path_factory.mktemp('training')
  config, _ = _small(folder)
  texts = [path.read_text() for path in _starters()]
  tokenizer = tokenizer_lib.ToyTokenizer.train(texts, vocab_size=400)
  (folder / 'tokenizer').mkdir()
  tokenizer.save(folder / 'tokenizer')
  learner = learner_lib.make_learner(config, tokenizer)
  params = jax.tree.map(lambda x: x * 1.5, learner.untrained())
  tx = learner.optimizer(config.sft, 10)
  state = train_state.make_train_state(params, tx, learner.mesh)
  with checkpoint.Checkpointer(
    folder / 'sft' / 'checkpoints', fingerprint=workdir.fingerprint(config)
  ) as checkpoints:
    checkpoints.save(7, state, {})
  return folder


def _starters():
  return sorted(paths.top_folder('tasks').glob('offline/*/starter/train.py'))


def _small(folder: pathlib.Path):
  """Writes config.json of a small model; what reading it gives."""
  workdir.write_json(
    folder / 'config.json',
    {
      'model.num_layers': 1,
      'model.embed_dim': 32,
      'model.num_heads': 2,
      'model.num_kv_heads': 2,
      'model.head_dim': 16,
      'model.ffn_dim': 32,
      'tasks.train': ['cells'],
      'agent.max_action_tokens': 6,
      'mesh.fsdp': jax.device_count(),
    },
  )
  return trained.read_config(folder)


def test_a_training_run_is_opened_as_it_was_left(training):
  found = trained.open_trained(training)
  assert found.config.model.embed_dim == 32
  assert found.config.tasks.train == ('cells',)
  assert found.step('sft') == 7
  ours = jax.tree.leaves(found.params('sft'))
  before = jax.tree.leaves(found.params('untrained'))
  for leaf, start in zip(ours, before, strict=True):
    np.testing.assert_array_equal(leaf, start * 1.5)
  with pytest.raises(session.ConfigError, match="no checkpoint of stage 'rl'"):
    found.params('rl')


def test_a_reply_does_not_depend_on_who_is_in_the_batch(training):
  found = trained.open_trained(training)
  size = jax.device_count()
  policy = found.learner.policy(
    samples_per_prompt=1, batch_size=size, temperature=1.0
  )
  prompts = [[5 + i, 6, 7 + i] for i in range(6)]
  params = found.params('sft')
  alone = [
    policy.sample_replies(params, [p], np.array([[i]], np.uint32))[0][0]
    for i, p in enumerate(prompts)
  ]
  with (
    policies.PolicyServer(policy, params, batch_size=size, devices=3) as server,
    concurrent.futures.ThreadPoolExecutor(6) as threads,
  ):
    together = list(threads.map(server.sample, prompts, range(6)))
  assert [t.reply.token_ids for t in together] == [a.token_ids for a in alone]
  assert all(t.accelerator_seconds > 0 for t in together)


def test_what_is_no_training_run_is_refused(tmp_path):
  with pytest.raises(session.ConfigError, match='no work directory'):
    trained.open_trained(tmp_path)
  _small(tmp_path)
  with pytest.raises(session.ConfigError, match='no tokenizer'):
    trained.open_trained(tmp_path)
  workdir.write_json(tmp_path / 'config.json', {'rl.magic': 1})
  with pytest.raises(session.ConfigError, match="the key 'rl.magic'"):
    trained.open_trained(tmp_path)

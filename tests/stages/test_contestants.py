"""Policies of a training run, opened by an evaluation."""

import concurrent.futures
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from mlagent_jax import checkpoint, paths, train_state
from mlagent_jax.agent import tokenizer as tokenizer_lib
from mlagent_jax.stages import learner as learner_lib
from mlagent_jax.stages import session, trained, workdir
from mlagent_jax.stages.evaluation import policies


@pytest.fixture(scope='module')
def training(tmp_path_factory):
  """A work directory with a tokenizer and one checkpoint of SFT."""
  folder = tmp_path_factory.mktemp('training')
  config, fingerprint = _small(folder)
  texts = [path.read_text() for path in _starters()]
  tokenizer = tokenizer_lib.ToyTokenizer.train(texts, vocab_size=400)
  (folder / 'tokenizer').mkdir()
  tokenizer.save(folder / 'tokenizer')
  learner = learner_lib.make_learner(config, tokenizer)
  params = jax.tree.map(lambda x: x * 1.5, learner.untrained())
  tx = learner.optimizer(config.sft, config.sft.steps)
  state = train_state.make_train_state(params, tx, learner.mesh)
  with checkpoint.Checkpointer(
    folder / 'sft' / 'checkpoints', fingerprint=fingerprint
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


def test_a_sampler_of_another_machine_is_fitted_to_this_one(training):
  path = training / 'config.json'
  config = json.loads(path.read_text())
  config |= {'sampler_mesh.fsdp': 3, 'sampler_mesh.model': 2}
  config['sampler_mesh.data'] = 1
  path.write_text(json.dumps(config))
  found = trained.open_trained(training)
  policy = found.learner.policy(
    samples_per_prompt=1, batch_size=8, temperature=1.0
  )
  seeds = np.array([[1]], np.uint32)
  ((reply,),) = policy.sample_replies(found.params('sft'), [[5, 6]], seeds)
  assert reply.token_ids


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


def test_a_run_half_written_is_refused(training, tmp_path):
  torn = shutil.copytree(training, tmp_path / 'torn')
  config = torn / 'config.json'
  config.write_bytes(config.read_bytes()[:50])
  with pytest.raises(workdir.WorkdirError, match='config.json'):
    trained.open_trained(torn)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
  'entry',
  [
    ('evaluate', '--agents=sft', '--suite=offline', '--workdir=out'),
    ('serve', '--stage=sft', '--port=0'),
  ],
  ids=lambda entry: entry[0],
)
def test_weights_of_another_architecture_are_one_clear_line(
  training, tmp_path, entry
):
  other = shutil.copytree(training, tmp_path / 'other')
  config = json.loads((other / 'config.json').read_text())
  workdir.write_json(other / 'config.json', config | {'model.embed_dim': 48})
  name, *options = entry
  done = subprocess.run(
    [
      *(sys.executable, '-m', f'mlagent_jax.{name}'),
      *(f'--checkpoint={other}', *options),
    ],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    timeout=500,
  )
  assert done.returncode == 1
  assert 'Traceback' not in done.stderr
  assert 'CheckpointError' in done.stderr
  assert 'another config' in done.stderr

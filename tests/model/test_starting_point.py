"""Training starts from imported weights, or says what does not fit."""

import jax
import numpy as np
import pytest
from hf_folders import write_model

from configs import base
from mlagent_jax import checkpoint, train_state
from mlagent_jax import weights as weights_command
from mlagent_jax.agent import tokenizer as tokenizer_lib
from mlagent_jax.model import hf_source, hf_weights, lora, weights_folder
from mlagent_jax.model.safetensors_files import SafetensorsFolder
from mlagent_jax.stages import learner as learner_lib
from mlagent_jax.stages import session, workdir


@pytest.fixture(scope='module')
def tokenizer():
  texts = [f'{i} model = Forest({i})\nprint(score)' for i in range(60)]
  return tokenizer_lib.ToyTokenizer.train(texts, vocab_size=330)


@pytest.fixture
def config(tmp_path):
  tensors, _ = write_model(tmp_path / 'hf', vocab_size=352)
  source = hf_source.open_source(tmp_path / 'hf')
  imported = weights_folder.import_source(source, str(tmp_path / 'ours'))
  config = base.get_config()
  config.model.init_from = str(tmp_path / 'ours')
  config.model.update(weights_folder.shape_of(imported.shape))
  return config


def test_training_starts_from_imported_weights(config, tokenizer, tmp_path):
  source = hf_source.open_source(tmp_path / 'hf')
  expected = hf_weights.from_hf(source.tensors, source.model_config())
  learner = learner_lib.make_learner(config, tokenizer)
  assert learner.model.vocab_size == 352 > tokenizer.vocab_size
  jax.tree.map(np.testing.assert_array_equal, learner.untrained(), expected)

  config.model.lora_rank = 2
  learner = learner_lib.make_learner(config, tokenizer)
  adapters, frozen = lora.split(learner.untrained())
  jax.tree.map(np.testing.assert_array_equal, frozen, expected)
  assert len(jax.tree.leaves(adapters)) == 14
  shapes = jax.tree.map(lambda x: x.shape, learner.untrained())
  assert shapes == jax.tree.map(lambda x: x.shape, learner.shapes)


@pytest.mark.parametrize(
  'changes, message',
  [
    (
      {'ffn_dim': 40, 'rope_theta': 1.0},
      r'(?s)model.ffn_dim, model.rope_theta differ.*config.model.ffn_dim = 48',
    ),
    ({'vocab_size': 300}, "vocab_size 300 is below the tokenizer's 3"),
    ({'init_from': '/nowhere'}, 'init_from: /nowhere holds no imported'),
    ({'lora_rank': 4, 'lora_targets': ('x',)}, "lora_targets .'x'"),
    ({'num_kv_heads': 3}, 'not a multiple of num_kv_heads 3'),
  ],
)
def test_what_does_not_fit_is_said(config, tokenizer, changes, message):
  config.model.update(changes)
  with pytest.raises(session.ConfigError, match=message):
    learner_lib.make_learner(config, tokenizer)


def test_a_tokenizer_must_come_from_somewhere():
  config = base.get_config()
  config.tokenizer.kind = 'huggingface'
  with pytest.raises(session.ConfigError, match='tokenizer.path is empty'):
    session.check_config(config, 1)
  config.model.init_from = '/some/folder'
  session.check_config(config, 1)
  config.model.lora_rank, config.rl.advantage = 8, 'gae'
  with pytest.raises(session.ConfigError, match='lora_rank 8 .* critic'):
    session.check_config(config, 1)


def test_what_a_run_trained_goes_out_with_its_adapters_merged(
  config, tokenizer, tmp_path
):
  config.model.lora_rank, config.model.lora_targets = 2, ('up',)
  run, out = tmp_path / 'run', tmp_path / 'out'
  place = workdir.open_workdir(run, config)
  tokenizer.save(place.stage('tokenizer'))
  learner = learner_lib.make_learner(config, tokenizer)
  params = learner.untrained()
  up_b = params['blocks']['mlp']['up_b']
  up_b.set_value(up_b.get_value() + 0.5)
  tx = learner.optimizer(config.sft, config.sft.steps)
  folder = place.stage('sft') / 'checkpoints'
  with checkpoint.Checkpointer(
    folder, fingerprint=workdir.fingerprint(config)
  ) as checkpoints:
    checkpoints.save(3, train_state.make_train_state(params, tx), {})
  command = ['export', f'--workdir={run}', f'--out={out}']
  assert weights_command.main([*command, '--stage=rl']) == 2
  assert weights_command.main([*command, '--stage=sft']) == 0

  before = SafetensorsFolder(tmp_path / 'hf')
  after = SafetensorsFolder(out)
  assert after.headers == before.headers
  assert (out / 'config.json').exists()
  a = np.asarray(params['blocks']['mlp']['up_a'].get_value())
  for layer in range(3):
    name = f'model.layers.{layer}.mlp.up_proj.weight'
    added = 16.0 / 2 * a[layer] @ np.full((2, 48), 0.5, np.float32)
    np.testing.assert_allclose(
      after[name], before[name] + added.T, atol=1e-5, rtol=0
    )
    name = f'model.layers.{layer}.mlp.down_proj.weight'
    np.testing.assert_array_equal(after[name], before[name])

"""Training starts from imported weights, or says what does not fit."""

import jax
import numpy as np
import pytest
from hf_folders import write_model

from configs import base
from mlagent_jax.agent import tokenizer as tokenizer_lib
from mlagent_jax.model import hf_source, hf_weights, lora, weights_folder
from mlagent_jax.stages import learner as learner_lib
from mlagent_jax.stages import session


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

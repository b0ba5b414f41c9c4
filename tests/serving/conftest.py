"""A tiny model to serve."""

import pytest

from configs import base
from mlagent_jax.agent import tokenizer as tokenizer_lib
from mlagent_jax.stages import workdir


@pytest.fixture(scope='session')
def run_folder(tmp_path_factory):
  """A work directory whose model is tiny, and untrained."""
  folder = tmp_path_factory.mktemp('run') / 'tiny'
  config = base.get_config()
  config.model.num_layers, config.model.embed_dim = 1, 32
  config.model.num_heads = config.model.num_kv_heads = 2
  config.model.head_dim, config.model.ffn_dim = 16, 64
  config.agent.max_prompt_tokens = 60
  workdir.open_workdir(folder, config)
  texts = [
    'You act.\n\n',
    'Thought: look\nAction: List Files\nAction Input: {}',
  ]
  tokenizer_lib.ToyTokenizer.train(texts).save(folder / 'tokenizer')
  return folder

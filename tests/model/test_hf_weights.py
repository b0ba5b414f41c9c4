"""The decoder and its weights against Hugging Face's torch models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mlagent_jax.model import hf_weights
from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.decoder import abstract_model
from mlagent_jax.model.layout import right_padded
from mlagent_jax.model.sharding import logical_sharding, make_mesh

SHAPE = {
  'vocab_size': 61,
  'hidden_size': 32,
  'intermediate_size': 48,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'rms_norm_eps': 1e-5,
}
LLAMA = {'model_type': 'llama', 'rope_theta': 1e4, **SHAPE}
QWEN2 = {'model_type': 'qwen2', 'rope_theta': 1e6, **SHAPE}


def _torch_model(family, tied):
  import torch
  import transformers

  torch.manual_seed(0)
  config_class, model_class = {
    'qwen2': (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    'llama': (transformers.LlamaConfig, transformers.LlamaForCausalLM),
  }[family]
  config = config_class(
    **SHAPE,
    tie_word_embeddings=tied,
    rope_parameters={'rope_type': 'default', 'rope_theta': 5e3},
    attn_implementation='eager',
  )
  model = model_class(config).float().eval()
  with torch.no_grad():
    for parameter in model.parameters():  # biases, norms: nothing trivial
      parameter.add_(0.2 * torch.randn_like(parameter))
  return config, model


@pytest.mark.torch
@pytest.mark.parametrize(
  'family, tied', [('qwen2', True), ('qwen2', False), ('llama', False)]
)
def test_logits_and_gradients_equal_torch(family, tied):
  import torch

  hf_config, reference = _torch_model(family, tied)
  tensors = {k: v.numpy().copy() for k, v in reference.state_dict().items()}
  config = hf_weights.config_from_hf(hf_config.to_dict())
  assert config.qkv_bias == (family == 'qwen2')
  assert config.tied_embeddings == tied
  assert config.rope_theta == 5e3
  tokens = np.random.default_rng(0).integers(0, 61, (3, 12)).astype(np.int32)

  out = reference(torch.tensor(tokens, dtype=torch.long))
  loss = torch.nn.functional.cross_entropy(
    out.logits[:, :-1].reshape(-1, 61),
    torch.tensor(tokens[:, 1:].reshape(-1), dtype=torch.long),
  )
  loss.backward()

  params = hf_weights.from_hf(tensors, config)
  graphdef, _ = abstract_model(config)

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def loss_and_grads(params):
    model = nnx.merge(graphdef, params)
    logits = model.logits(model(tokens, right_padded(jnp.full(3, 12), 12)))
    logps = jax.nn.log_softmax(logits[:, :-1])
    taken = jnp.take_along_axis(logps, tokens[:, 1:, None], axis=-1)
    return -taken.mean(), logits

  (our_loss, logits), grads = loss_and_grads(params)
  np.testing.assert_allclose(logits, out.logits.detach(), atol=1e-4, rtol=0)
  np.testing.assert_allclose(our_loss, loss.item(), atol=1e-4, rtol=0)
  ours = hf_weights.to_hf(grads, config)
  theirs = {k: p.grad.numpy() for k, p in reference.named_parameters()}
  assert ours.keys() == theirs.keys()
  for name, grad in theirs.items():
    assert np.abs(grad).max() > 1e-3, f'{name} has no gradient to compare'
    np.testing.assert_allclose(ours[name], grad, atol=1e-4, rtol=0)


@pytest.mark.parametrize('hf_config', [QWEN2, LLAMA], ids=['qwen2', 'llama'])
def test_round_trip_is_exact(hf_config):
  config = hf_weights.config_from_hf(hf_config)
  params = _params(config)
  tensors = hf_weights.to_hf(params, config)
  back = hf_weights.from_hf(tensors, config)
  jax.tree.map(np.testing.assert_array_equal, params, back)


def test_a_mesh_gets_the_same_weights_in_their_places():
  mesh = make_mesh(2, 2, 2)
  config = hf_weights.config_from_hf(QWEN2 | {'vocab_size': 64})
  whole = _params(config)
  placed = hf_weights.from_hf(hf_weights.to_hf(whole, config), config, mesh)
  jax.tree.map(np.testing.assert_array_equal, whole, placed)
  down = placed['blocks']['mlp']['down'].get_value()
  axes = ('layers', 'ffn', 'embed')
  assert down.sharding == logical_sharding(mesh, axes)
  assert down.addressable_shards[0].data.shape == (2, 24, 16)


def test_overrides_and_defaults():
  config = hf_weights.config_from_hf(LLAMA, dtype='bfloat16', remat='full')
  assert config == ModelConfig(
    2,
    32,
    4,
    2,
    8,
    48,
    61,
    qkv_bias=False,
    rope_theta=1e4,
    rms_norm_eps=1e-5,
    dtype='bfloat16',
    remat='full',
  )


@pytest.mark.parametrize(
  'change, message',
  [
    ({'model_type': 'gpt2'}, "model_type 'gpt2'"),
    ({'hidden_act': 'gelu'}, "hidden_act='gelu'"),
    ({'use_sliding_window': True}, 'use_sliding_window=True'),
    ({'attention_bias': True}, 'attention_bias=True'),
    ({'mlp_bias': True}, 'mlp_bias=True'),
    ({'rope_parameters': {'rope_type': 'llama3'}}, "rope_type='llama3'"),
    ({'rope_scaling': {'type': 'yarn', 'factor': 4}}, "rope_type='yarn'"),
  ],
)
def test_what_is_not_computed_is_refused(change, message):
  with pytest.raises(ValueError, match=message):
    hf_weights.config_from_hf(LLAMA | change)


def test_errors_name_the_tensor():
  config = hf_weights.config_from_hf(QWEN2)
  tensors = hf_weights.to_hf(_params(config), config)
  bias = 'model.layers.1.self_attn.q_proj.bias'
  with pytest.raises(KeyError, match=f'{bias} is missing'):
    hf_weights.from_hf({k: v for k, v in tensors.items() if k != bias}, config)
  up = 'model.layers.0.mlp.up_proj.weight'
  with pytest.raises(ValueError, match=f'{up} has shape .32, 48.*.48, 32.'):
    hf_weights.from_hf(tensors | {up: tensors[up].T}, config)
  llama = hf_weights.config_from_hf(LLAMA)
  with pytest.raises(ValueError, match='k_proj.bias has no counterpart'):
    hf_weights.from_hf(tensors, llama)
  tied = hf_weights.config_from_hf(QWEN2 | {'tie_word_embeddings': True})
  with pytest.raises(ValueError, match='lm_head.weight differs from'):
    hf_weights.from_hf(tensors, tied)
  same = tensors | {'lm_head.weight': tensors['model.embed_tokens.weight']}
  hf_weights.from_hf(same, tied)


def _params(config):
  """Parameters that are all different, without compiling random numbers."""
  _, shapes = abstract_model(config)
  generator = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: jnp.asarray(generator.normal(size=x.shape), x.dtype), shapes
  )

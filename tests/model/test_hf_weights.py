"""The decoder and its weights against Hugging Face's torch models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mlagent_jax.model import hf_config, hf_weights
from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.decoder import abstract_model
from mlagent_jax.model.layout import right_padded
from mlagent_jax.model.safetensors_files import WeightsError
from mlagent_jax.model.sharding import logical_sharding, make_mesh, on_mesh

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


def _torch_model(family, tied, noise=0.2, **shape):
  import torch
  import transformers

  torch.manual_seed(0)
  config_class, model_class = {
    'qwen2': (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    'llama': (transformers.LlamaConfig, transformers.LlamaForCausalLM),
  }[family]
  config = config_class(
    **(SHAPE | shape),
    tie_word_embeddings=tied,
    rope_parameters={'rope_type': 'default', 'rope_theta': 5e3},
    attn_implementation='eager',
  )
  model = model_class(config).float().eval()
  with torch.no_grad():
    for parameter in model.parameters():  # biases, norms: nothing trivial
      parameter.add_(noise * torch.randn_like(parameter))
      # Values of a bfloat16 checkpoint, as most are.
      parameter.copy_(parameter.bfloat16().float())
  return config, model


@pytest.mark.torch
@pytest.mark.parametrize(
  'family, tied', [('qwen2', True), ('qwen2', False), ('llama', False)]
)
def test_logits_and_gradients_equal_torch(family, tied):
  import torch

  theirs, reference = _torch_model(family, tied)
  tensors = {k: v.numpy().copy() for k, v in reference.state_dict().items()}
  config = hf_config.config_from_hf(theirs.to_dict())
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


@pytest.mark.parametrize('fields', [QWEN2, LLAMA], ids=['qwen2', 'llama'])
def test_round_trip_is_exact(fields):
  config = hf_config.config_from_hf(fields)
  params = _params(config)
  tensors = hf_weights.to_hf(params, config)
  back = hf_weights.from_hf(tensors, config)
  jax.tree.map(np.testing.assert_array_equal, params, back)


def test_a_mesh_gets_the_same_weights_in_their_places():
  mesh = make_mesh(2, 2, 2)
  config = hf_config.config_from_hf(QWEN2 | {'vocab_size': 64})
  whole = _params(config)
  placed = hf_weights.from_hf(hf_weights.to_hf(whole, config), config, mesh)
  jax.tree.map(np.testing.assert_array_equal, whole, placed)
  down = placed['blocks']['mlp']['down'].get_value()
  axes = ('layers', 'ffn', 'embed')
  assert down.sharding == logical_sharding(mesh, axes)
  assert down.addressable_shards[0].data.shape == (2, 24, 16)


@pytest.mark.torch
@pytest.mark.parametrize(
  'family, tied, mesh',
  [('llama', True, (2, 2, 2)), ('qwen2', False, (1, 2, 4))],
  ids=str,
)
def test_heads_that_do_not_divide_by_the_mesh_equal_torch(family, tied, mesh):
  import torch

  # As SmolLM2: 9 query heads for 3 of keys and values.
  odd = {'hidden_size': 36, 'num_attention_heads': 9, 'num_key_value_heads': 3}
  theirs, reference = _torch_model(family, tied, vocab_size=64, **odd)
  tokens = np.random.default_rng(0).integers(0, 64, (4, 8)).astype(np.int32)
  with torch.no_grad():
    expected = reference(torch.tensor(tokens, dtype=torch.long)).logits
  tensors = {k: v.numpy() for k, v in reference.state_dict().items()}
  mesh = make_mesh(*mesh)
  for dtype, tolerance in (('float32', 1e-4), ('bfloat16', 2e-2)):
    config = hf_config.config_from_hf(theirs.to_dict(), dtype=dtype)
    graphdef, _ = abstract_model(config)

    @jax.jit
    def logits(params, graphdef=graphdef):
      with on_mesh(mesh):
        model = nnx.merge(graphdef, params)
        return model.logits(model(tokens, right_padded(jnp.full(4, 8), 8)))

    ours = logits(hf_weights.from_hf(tensors, config, mesh))
    assert _difference(ours, expected) <= tolerance


def _difference(ours, theirs) -> float:
  """The largest difference of logits, over the largest logit (1 at least)."""
  theirs = np.asarray(theirs)
  return np.abs(np.asarray(ours) - theirs).max() / max(1, np.abs(theirs).max())


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.timeout(1800)
def test_two_layers_of_the_7b_equal_torch():
  """The real shape of Qwen2.5-7B's layers, with a vocabulary of 1,024."""
  import torch

  theirs, reference = _torch_model(
    'qwen2',
    False,
    vocab_size=1024,
    hidden_size=3584,
    intermediate_size=18944,
    num_attention_heads=28,
    num_key_value_heads=4,
    noise=0.0,
  )
  tokens = np.random.default_rng(0).integers(0, 1024, (1, 64))
  with torch.no_grad():
    for name, parameter in reference.named_parameters():
      if name.endswith('bias'):
        parameter.copy_(torch.randn_like(parameter).bfloat16().float())
    expected = reference(torch.tensor(tokens)).logits.numpy()
  tensors = {k: v.numpy() for k, v in reference.state_dict().items()}
  for dtype, tolerance in (('float32', 1e-4), ('bfloat16', 2e-2)):
    config = hf_config.config_from_hf(theirs.to_dict(), dtype=dtype)
    graphdef, _ = abstract_model(config)

    @jax.jit
    def logits(params, graphdef=graphdef):
      model = nnx.merge(graphdef, params)
      return model.logits(model(tokens, right_padded(jnp.full(1, 64), 64)))

    ours = logits(hf_weights.from_hf(tensors, config))
    assert _difference(ours, expected) <= tolerance


def test_overrides_and_defaults():
  config = hf_config.config_from_hf(LLAMA, dtype='bfloat16', remat='full')
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
    ({'architectures': ['LlamaModel']}, r"architectures=\['LlamaModel'\]"),
    ({'layer_types': ['sliding_attention']}, 'sliding_attention'),
    ({'quantization_config': {'bits': 4}}, 'quantization_config='),
    ({'rope_parameters': {'partial_rotary_factor': 0.5}}, 'partial_rotary'),
    ({'vocab_size': None}, 'has no vocab_size'),
  ],
)
def test_what_is_not_computed_is_refused(change, message):
  with pytest.raises(WeightsError, match=message):
    hf_config.config_from_hf(LLAMA | change)


def test_errors_name_the_tensor():
  config = hf_config.config_from_hf(QWEN2)
  tensors = hf_weights.to_hf(_params(config), config)
  bias = 'model.layers.1.self_attn.q_proj.bias'
  with pytest.raises(WeightsError, match=f'{bias} is missing'):
    hf_weights.from_hf({k: v for k, v in tensors.items() if k != bias}, config)
  up = 'model.layers.0.mlp.up_proj.weight'
  with pytest.raises(WeightsError, match=f'{up} has shape .32, 48.*.48, 32.'):
    hf_weights.from_hf(tensors | {up: tensors[up].T}, config)
  llama = hf_config.config_from_hf(LLAMA)
  with pytest.raises(WeightsError, match='k_proj.bias has no counterpart'):
    hf_weights.from_hf(tensors, llama)
  tied = hf_config.config_from_hf(QWEN2 | {'tie_word_embeddings': True})
  with pytest.raises(WeightsError, match='lm_head.weight differs from'):
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

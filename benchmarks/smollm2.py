"""SmolLM2-135M's shape with random weights: ours, Hugging Face's, tunix's.

Each is imported where it is made: contestants are processes of their own, and
tunix has its own virtual environment (benchmarks/setup_tunix.sh).
"""

SHAPE = {
  'hidden_size': 576,
  'intermediate_size': 1536,
  'num_attention_heads': 9,
  'num_key_value_heads': 3,
  'vocab_size': 49152,
  'rms_norm_eps': 1e-5,
  'tie_word_embeddings': True,
  'max_position_embeddings': 8192,
}
LAYERS = 30


def our_config(layers: int, **overrides):
  """The `ModelConfig`; `overrides` are its other fields, such as remat."""
  import dataclasses

  from mlagent_jax.model import hf_config

  config = hf_config.config_from_hf(
    {
      'model_type': 'llama',
      'num_hidden_layers': layers,
      'rope_theta': 1e5,
      **SHAPE,
    }
  )
  return dataclasses.replace(config, **overrides)


def hf_model(layers: int, **options):
  """Hugging Face's torch model; `options` are of its config."""
  import torch
  import transformers

  config = transformers.LlamaConfig(
    **SHAPE,
    num_hidden_layers=layers,
    rope_parameters={'rope_type': 'default', 'rope_theta': 1e5},
    **options,
  )
  torch.manual_seed(0)
  return transformers.LlamaForCausalLM(config)


def tunix_model(layers: int):
  """tunix's nnx module, in float32."""
  import jax
  import jax.numpy as jnp
  from flax import nnx
  from tunix.models.llama3 import model as llama

  config = llama.ModelConfig(
    num_layers=layers,
    vocab_size=SHAPE['vocab_size'],
    embed_dim=SHAPE['hidden_size'],
    hidden_dim=SHAPE['intermediate_size'],
    num_heads=SHAPE['num_attention_heads'],
    head_dim=64,
    num_kv_heads=SHAPE['num_key_value_heads'],
    rope_theta=100_000,
    norm_eps=SHAPE['rms_norm_eps'],
    weight_tying=True,
  )
  graphdef, state = nnx.split(llama.Llama3(config, rngs=nnx.Rngs(0)))
  state = jax.tree.map(lambda x: x.astype(jnp.float32), state)
  return nnx.merge(graphdef, state)

"""GGUF files against the torch model that they were made from."""

import numpy as np
import pytest

from mlagent_jax import weights as weights_command
from mlagent_jax.agent import tokenizer as tokenizer_lib
from mlagent_jax.model import hf_source, hf_weights, weights_folder
from mlagent_jax.model.hf_forward import Forward
from mlagent_jax.model.safetensors_files import WeightsError

NAMES = {  # written out from llama.cpp's table, gguf-py/gguf/constants.py
  'model.embed_tokens.weight': 'token_embd.weight',
  'model.norm.weight': 'output_norm.weight',
  'lm_head.weight': 'output.weight',
  'input_layernorm': 'attn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'post_attention_layernorm': 'ffn_norm',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
}
PROMPTS = (
  'The capital of France is',
  'def fibonacci(n):\n',
  'To train a classifier on a small data set, first',
  '1 2 3 4 5 6',
  'Thought: the script scales its features, so',
)


def gguf_name(name):
  if name in NAMES:
    return NAMES[name]
  _, _, layer, rest = name.split('.', 3)
  module, _, kind = rest.rpartition('.')
  return f'blk.{layer}.{NAMES[module]}.{kind}'


def permute(weights, heads):
  """Verbatim the formula of llama.cpp, convert_hf_to_gguf.py."""
  return (
    weights.reshape(heads, 2, weights.shape[0] // heads // 2, -1)
    .swapaxes(1, 2)
    .reshape(weights.shape)
  )


def write_gguf(path, model, **extra):
  import gguf

  config = model.config
  writer = gguf.GGUFWriter(path, 'llama')
  writer.add_block_count(config.num_hidden_layers)
  writer.add_context_length(64)
  writer.add_embedding_length(config.hidden_size)
  writer.add_feed_forward_length(config.intermediate_size)
  writer.add_head_count(config.num_attention_heads)
  writer.add_head_count_kv(config.num_key_value_heads)
  writer.add_layer_norm_rms_eps(config.rms_norm_eps)
  writer.add_rope_freq_base(5e3)
  writer.add_token_list([f'token{i}' for i in range(config.vocab_size)])
  for key, value in extra.items():
    writer.add_string(key.replace('__', '.'), value)
  for name, tensor in model.state_dict().items():
    values = tensor.numpy()
    if 'q_proj' in name:
      values = permute(values, config.num_attention_heads)
    if 'k_proj' in name:
      values = permute(values, config.num_key_value_heads)
    writer.add_tensor(gguf_name(name), np.ascontiguousarray(values))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


@pytest.mark.gguf
@pytest.mark.torch
def test_logits_are_those_of_the_model_it_was_made_from(tmp_path):
  import torch
  import transformers

  torch.manual_seed(0)
  config = transformers.LlamaConfig(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    rms_norm_eps=1e-5,
    rope_parameters={'rope_type': 'default', 'rope_theta': 5e3},
  )
  model = transformers.LlamaForCausalLM(config).eval()
  write_gguf(tmp_path / 'model.gguf', model)
  source = hf_source.open_source(tmp_path)
  assert source.hf_config['rms_norm_eps'] == 1e-5
  tokens = np.random.default_rng(0).integers(0, 61, (2, 12))
  logits = model(torch.tensor(tokens)).logits.detach()
  ours = Forward(source).logits(tokens)
  np.testing.assert_allclose(ours, logits, atol=1e-4, rtol=0)

  write_gguf(tmp_path / 'yarn.gguf', model, llama__rope__scaling__type='yarn')
  with pytest.raises(WeightsError, match="rope.scaling.type='yarn'"):
    hf_source.open_source(tmp_path / 'yarn.gguf')
  with pytest.raises(WeightsError, match='2 GGUF files'):
    hf_source.open_source(tmp_path)


@pytest.mark.slow
@pytest.mark.gguf
@pytest.mark.torch
@pytest.mark.timeout(1800)
def test_smollm2_continues_as_transformers_does(tmp_path):
  """Real weights: GGUF in, safetensors out, and 64 greedy tokens alike."""
  import torch
  import transformers

  gguf, ours, out = tmp_path / 'gguf', tmp_path / 'ours', tmp_path / 'out'
  assert weights_command.main(['smollm2', f'--out={gguf}']) == 0
  assert weights_command.main(['import', f'--hf={gguf}', f'--out={ours}']) == 0
  command = ['export', f'--weights={ours}', f'--out={out}']
  assert weights_command.main(command) == 0
  source = hf_source.open_source(gguf)
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    **source.transformers_path(), dtype=torch.float32
  ).eval()
  exported = transformers.AutoModelForCausalLM.from_pretrained(out)
  for name, tensor in theirs.state_dict().items():
    assert torch.equal(tensor, exported.state_dict()[name]), name
  del exported

  chat = tokenizer_lib.load(ours)
  assert chat.tokenizer.convert_tokens_to_ids('<|im_end|>') == chat.end_id
  forward = Forward(hf_source.open_source(out))
  for prompt in PROMPTS:
    ids = chat.encode_prompt([{'role': 'user', 'content': prompt}])
    with torch.no_grad():
      text = theirs.generate(
        torch.tensor([ids]), do_sample=False, max_new_tokens=64
      ).numpy()
    # Given the same text so far, each choice is the same: so is the whole.
    # Padded, for one program; a token does not see what is behind it.
    padded = np.pad(text, ((0, 0), (0, 160 - text.shape[1])))
    choices = forward.logits(padded)[0, len(ids) - 1 : text.shape[1] - 1]
    np.testing.assert_array_equal(choices.argmax(-1), text[0, len(ids) :])

  imported = weights_folder.open_folder(str(ours))
  tied = hf_weights.to_hf(imported.load(), imported.shape)
  assert 'lm_head.weight' not in tied

"""Import, load and export against transformers' own files and models."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hf_folders import write_model, write_tensors

from mlagent_jax import weights as weights_command
from mlagent_jax.model import hf_source, hf_weights, weights_folder
from mlagent_jax.model.safetensors_files import (
  SafetensorsFolder,
  WeightsError,
)
from mlagent_jax.model.sharding import logical_sharding, make_mesh

SHAPE = {
  'vocab_size': 64,
  'hidden_size': 32,
  'intermediate_size': 48,
  'num_hidden_layers': 3,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'max_position_embeddings': 64,
}


def hugging_face(folder, family, dtype, tied, shard='4KB'):
  """A folder that transformers itself wrote, with random weights."""
  import torch
  import transformers

  torch.manual_seed(0)
  config_class, model_class = {
    'qwen2': (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    'llama': (transformers.LlamaConfig, transformers.LlamaForCausalLM),
  }[family]
  model = model_class(config_class(**SHAPE, tie_word_embeddings=tied))
  with torch.no_grad():
    for parameter in model.parameters():  # biases, norms: nothing trivial
      parameter.add_(0.2 * torch.randn_like(parameter))
  model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard)
  (folder / 'LICENSE').write_text('free')
  return folder


def files_of(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.torch
@pytest.mark.parametrize(
  'family, dtype, tied, shard',
  [('qwen2', 'bfloat16', False, '4KB'), ('llama', 'float16', True, '1GB')],
)
def test_what_comes_in_goes_out_byte_for_byte(
  family, dtype, tied, shard, tmp_path
):
  theirs = hugging_face(tmp_path / 'hf', family, dtype, tied, shard)
  ours, out = str(tmp_path / 'ours'), tmp_path / 'out'
  assert len(list(theirs.glob('*.safetensors'))) > 1 or shard == '1GB'
  command = ['import', f'--hf={theirs}', f'--out={ours}']
  assert weights_command.main(command) == 0
  command = ['export', f'--weights={ours}', f'--out={out}']
  assert weights_command.main(command) == 0
  assert files_of(out) == files_of(theirs)

  # float32 masters of a mesh go back to the same bytes too.
  imported = weights_folder.open_folder(ours, remat='full')
  params = imported.load(make_mesh(2, 2, 2))
  gate = params['blocks']['mlp']['gate'].get_value()
  assert gate.dtype == np.float32
  axes = ('layers', 'embed', 'ffn')
  assert gate.sharding == logical_sharding(make_mesh(2, 2, 2), axes)
  again = tmp_path / 'again'
  weights_folder.export(
    str(again),
    hf_weights.reader_of(params),
    imported.shape,
    origin=imported,
  )
  assert files_of(again) == files_of(theirs)

  # In another dtype, transformers loads the same values.
  import torch
  import transformers

  wide = tmp_path / 'wide'
  command = ['export', f'--weights={ours}', f'--out={wide}', '--dtype=float32']
  assert weights_command.main(command) == 0
  load = transformers.AutoModelForCausalLM.from_pretrained
  before, after = load(theirs).state_dict(), load(wide).state_dict()
  assert before.keys() == after.keys()
  for name, tensor in before.items():
    assert torch.equal(tensor.float(), after[name].float()), name
    assert after[name].dtype == torch.float32


@pytest.mark.torch
def test_logits_and_check_are_those_of_transformers(tmp_path, capsys):
  import torch
  import transformers

  theirs = hugging_face(tmp_path / 'hf', 'qwen2', 'float32', True)
  tokens = np.random.default_rng(0).integers(0, 64, (3, 10))
  np.save(tmp_path / 'in.npy', tokens)
  out = tmp_path / 'out.npy'
  command = [f'--hf={theirs}', f'--tokens={tmp_path / "in.npy"}']
  assert weights_command.main(['logits', *command, f'--out={out}']) == 0
  model = transformers.AutoModelForCausalLM.from_pretrained(theirs)
  expected = model(torch.tensor(tokens)).logits.detach()
  np.testing.assert_allclose(np.load(out), expected, atol=1e-4, rtol=0)
  command = ['check', f'--hf={theirs}', '--length=8', '--new_tokens=4']
  assert weights_command.main(command) == 0
  assert '4 of 4' in capsys.readouterr().out
  assert weights_command.main([*command, '--tolerance=0']) == 1

  np.save(tmp_path / 'in.npy', tokens + 60)
  command = [f'--hf={theirs}', f'--tokens={tmp_path / "in.npy"}']
  assert weights_command.main(['logits', *command, f'--out={out}']) == 2
  assert 'from 0 to 63' in capsys.readouterr().err


def test_our_files_are_what_safetensors_reads(tmp_path):
  import safetensors.numpy

  tensors, _ = write_model(tmp_path / 'hf')
  read = safetensors.numpy.load_file(tmp_path / 'hf' / 'model.safetensors')
  assert read.keys() == tensors.keys()
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(read[name], tensor)


def test_an_import_refuses_what_does_not_fit(tmp_path):
  folder = tmp_path / 'hf'
  tensors, hf_config = write_model(folder)
  up = 'model.layers.1.mlp.up_proj.weight'

  def refused(message, tensors=tensors, **changes):
    write_tensors(folder, tensors, hf_config | changes)
    source, out = hf_source.open_source(folder), tmp_path / 'ours'
    with pytest.raises(WeightsError, match=message):
      weights_folder.import_source(source, str(out))
    assert not (out / 'manifest.json').exists()

  refused(f'{up} is missing', {k: v for k, v in tensors.items() if k != up})
  refused('more.weight has no', tensors | {'more.weight': tensors[up]})
  refused('down_proj.weight has shape .32, 48.* .32, 40', intermediate_size=40)
  refused("model_type 'mamba'", model_type='mamba')
  refused("rope_type='yarn'", rope_scaling={'rope_type': 'yarn', 'factor': 4})


def test_damaged_files_are_named(tmp_path):
  folder = tmp_path / 'hf'
  write_model(folder)
  file = folder / 'model.safetensors'
  whole = file.read_bytes()
  file.write_bytes(whole[:-8])
  with pytest.raises(WeightsError, match='cut short: tensor'):
    SafetensorsFolder(folder)
  file.write_bytes(whole[:4])
  with pytest.raises(WeightsError, match='no safetensors file'):
    SafetensorsFolder(folder)
  index = {'weight_map': {'a': 'model-1.safetensors'}}
  (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
  with pytest.raises(WeightsError, match='model-1.safetensors is missing'):
    SafetensorsFolder(folder)
  file.rename(folder / 'model-1.safetensors')
  (folder / 'model-1.safetensors').write_bytes(whole)
  with pytest.raises(WeightsError, match="tensor a: .* it is in None|'a'"):
    SafetensorsFolder(folder)
  with pytest.raises(WeightsError, match='neither a folder nor a GGUF file'):
    hf_source.open_source(tmp_path / 'nothing')


def test_a_flipped_bit_and_a_half_import_are_seen(tmp_path):
  write_model(tmp_path / 'hf')
  source = hf_source.open_source(tmp_path / 'hf')
  ours = tmp_path / 'ours'
  (ours / 'arrays').mkdir(parents=True)  # what a killed import leaves
  with pytest.raises(WeightsError, match='no imported weights'):
    weights_folder.open_folder(str(ours))
  imported = weights_folder.import_source(source, str(ours))
  with pytest.raises(WeightsError, match='already'):
    weights_folder.import_source(source, str(ours))
  (chunk, *_) = sorted((ours / 'arrays' / 'blocks.mlp.up' / 'c').rglob('*'))[
    -1:
  ]
  data = bytearray(chunk.read_bytes())
  data[3] ^= 1
  chunk.write_bytes(data)
  with pytest.raises(WeightsError, match='array blocks.mlp.up is damaged'):
    imported.load()


_UNDER_A_LIMIT = """
import resource, sys
from mlagent_jax.model import hf_source, weights_folder

small, large, out, room = sys.argv[1:]
# Threads and libraries first.
weights_folder.import_source(hf_source.open_source(small), out + '/small')
source = hf_source.open_source(large)
with open('/proc/self/status') as status:
  (used,) = (line.split()[1] for line in status if line.startswith('VmData'))
limit = int(used) * 1024 + int(room) * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
weights_folder.import_source(source, out + '/large')
"""


def test_an_import_holds_one_tensor_at_a_time(tmp_path):
  # 192 MB in tensors of at most 4 MB, in a process that may use 32 MB more.
  write_model(tmp_path / 'small')
  write_model(tmp_path / 'large', num_layers=16, embed_dim=512, ffn_dim=2048)
  assert (tmp_path / 'large' / 'model.safetensors').stat().st_size > 190e6
  arguments = ['small', 'large', 'out', '32']
  subprocess.run(
    [sys.executable, '-c', _UNDER_A_LIMIT, *arguments],
    cwd=tmp_path,
    env=os.environ | {'MALLOC_ARENA_MAX': '1'},
    check=True,
  )

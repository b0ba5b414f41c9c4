"""Ahead-of-time compiles: what they count, and what they say of a TPU."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from mlagent_jax.aot import advice, hlo, report, roofline
from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.decoder import abstract_model
from mlagent_jax.model.sharding import make_mesh

ROOT = pathlib.Path(__file__).resolve().parent.parent


def test_loops_and_collectives_are_counted_as_they_run():
  mesh = make_mesh(1, 4, 2)
  spec = jax.sharding.PartitionSpec

  def body(total, x):  # 5 turns, one of them with 3 turns inside
    total += jax.lax.psum(x, 'fsdp')  # [6] float32, of 4 devices

    def inner(i, total):
      return total + jax.lax.all_gather(total, 'model')[i % 2]  # of 2

    return jax.lax.fori_loop(0, 3, inner, total), None

  def run(x):
    return jax.lax.scan(body, jnp.zeros(6), x)[0]

  run = jax.shard_map(
    run, mesh=mesh, in_specs=spec(), out_specs=spec(), check_vma=False
  )
  text = jax.jit(run).lower(jnp.ones((5, 6))).compile().as_text()
  found = hlo.traffic(text, 8)
  assert found.calls == {'all-reduce': 5, 'all-gather': 15}
  assert found.sent_bytes['all-reduce'] == 5 * 24 * 2 * 3 / 4
  assert found.sent_bytes['all-gather'] == 15 * 24


def test_slices_and_updates_in_place_move_only_themselves():
  def run(x, table):  # a row of x at a time into a row of the table
    def step(i, table):
      row = jax.lax.dynamic_index_in_dim(x, i, keepdims=False)
      return jax.lax.dynamic_update_index_in_dim(table, 2 * row, i, 0)

    return jax.lax.fori_loop(0, 100, step, table)

  x = jnp.ones((100, 1000))
  text = jax.jit(run, donate_argnums=1).lower(x, x).compile().as_text()
  moved = hlo.traffic(text, 1).hbm_bytes
  assert 2 * x.nbytes <= moved < 3 * x.nbytes


def test_a_loop_that_may_end_early_turns_as_often_as_its_counter_may():
  def run(x, enough):  # 16 turns, and not 256
    def go_on(carry):
      i, total = carry
      return (i < 16) & (total[0] < jnp.minimum(enough, 256))

    def turn(carry):
      i, total = carry
      return i + 1, total + x[i]

    return jax.lax.while_loop(go_on, turn, (0, jnp.zeros(1000)))[1]

  x = jnp.ones((16, 1000))
  text = jax.jit(run).lower(x, 256).compile().as_text()
  moved = hlo.traffic(text, 1).hbm_bytes
  # x, and the total in and out; 256 turns would move 48 times x and more.
  assert 3 * x.nbytes <= moved < 5 * x.nbytes


def test_a_prefetched_slice_moves_only_itself():
  # As libtpu writes it: 4 MiB of 16, into memory on the chip.
  text = """
ENTRY %main (x: s8[16777216]) -> s8[4194304] {
  %x = s8[16777216]{0:T(1024)(128)(4,1)} parameter(0)
  %start = ((s8[16777216]{0:T(1024)(128)(4,1)}), \
s8[4194304]{0:T(1024)(128)(4,1)S(1)}, s32[]{:S(2)}) \
slice-start(%x), slice={[0:4194304]}
  ROOT %done = s8[4194304]{0:T(1024)(128)(4,1)S(1)} slice-done(%start)
}
"""
  assert hlo.traffic(text, 1).hbm_bytes == 4_194_304


def test_flops_are_those_of_the_formula_and_of_xla():
  model = ModelConfig(1, 32, 4, 2, 8, 64, 128, tied_embeddings=False)
  weights = sum(
    np.prod(leaf.shape)
    for leaf in jax.tree.leaves(abstract_model(model)[1])
    if len(leaf.shape) > 1
  )
  # Biases are stacked over layers: [L, N, H].
  weights -= (4 + 2 + 2) * 8 + 3 * 32 - 32
  assert roofline.num_params(model) == weights

  # Attention without a mask does T * T pairs.
  T = 16
  work = roofline.Work(T, T, T * T, trains=False)

  def forward(x, w, keys, head):
    scores = jnp.einsum('tnh,snh->nts', x, keys)
    values = jnp.einsum('nts,snh->tnh', scores, keys)
    return values, x.reshape(T, 32) @ w, x.reshape(T, 32) @ head

  args = [
    jnp.ones(shape)
    for shape in (
      (T, 4, 8),
      (32, roofline.block_params(model) // 32),
      (T, 4, 8),
      (32, 128),
    )
  ]
  cost = jax.jit(forward).lower(*args).compile().cost_analysis()
  np.testing.assert_allclose(work.model_flops(model), cost['flops'], rtol=0.01)

  train = roofline.Work(T, T, roofline.causal_pairs(T), trains=True)
  assert train.model_flops(model) == 3 * (
    2 * T * (weights - 128 * 32) + 4 * 32 * T * (T + 1) // 2
  )
  mask = np.tril(np.ones((7 + 2 * 3, 7 + 2 * 3)))
  mask[10:, 7:10] = 0  # the second action does not see the first
  assert roofline.shared_prompt_pairs(7, 2, 3) == mask.sum()


def compile_for(*flags):
  command = [sys.executable, '-m', 'mlagent_jax.compile', '--json', *flags]
  done = subprocess.run(
    command, cwd=ROOT, capture_output=True, text=True, timeout=3500
  )
  return done, json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}


@pytest.mark.libtpu
@pytest.mark.parametrize('function', ['sft_step', 'rl_step'])
def test_the_toy_compiles_for_a_pod(function):
  done, found = compile_for(
    '--config=configs/toy.py',
    f'--function={function}',
    '--topology=v5e:2x2',
    '--config.mesh.fsdp=-1',
    '--config.mesh.model=2',
    '--config.model.dtype=bfloat16',
    '--config.model.remat=full',
    '--config.sft.micro_batches=-1',
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert found['fits']
  assert found['mesh'] == {'data': 1, 'fsdp': 2, 'model': 2}
  # Parameters and moments in float32 on 4 chips, and norms and biases whole.
  assert 0.0 < found['arguments_gib'] < 0.01
  assert found['peak_gib'] < found['capacity_gib'] == 15.75
  # The activations go over `model`, the weights over `fsdp`.
  assert found['collectives']['all-gather']['calls'] > 3
  assert 0 < found['mfu'] < 1
  assert found['roofline_seconds'] == max(
    found[f'{part}_seconds'] for part in ('compute', 'hbm', 'interconnect')
  )


@pytest.mark.libtpu
def test_what_does_not_fit_says_by_how_much_and_what_would():
  done, found = compile_for(
    '--config=configs/qwen25_7b_sft.py', '--topology=v5e:2x2'
  )
  assert done.returncode == 1
  assert not found['fits']
  # 12 bytes a parameter on 4 chips.
  model = ModelConfig(28, 3584, 28, 4, 128, 18_944, 152_064)
  expected = 12 * roofline.num_params(model) / 4 / 2**30
  np.testing.assert_allclose(found['arguments_gib'], expected, rtol=0.01)
  missing = found['peak_gib'] - found['capacity_gib']
  assert f'{missing:.2f} GiB too much' in done.stdout
  assert any('chips' in change for change in found['advice'])


@pytest.mark.libtpu
def test_a_topology_that_does_not_exist_is_told():
  done, _ = compile_for('--config=configs/toy.py', '--topology=v5e:3x5')
  assert done.returncode == 1
  assert 'v5e-16' in done.stderr


def test_a_key_that_does_not_exist_is_told():
  done, _ = compile_for(
    '--config=configs/toy.py', '--topology=v5e-16', '--config.sft.max_lenght=1'
  )
  assert done.returncode == 1
  assert "did you mean 'max_length'?" in done.stderr
  assert 'Traceback' not in done.stderr


@pytest.mark.libtpu
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
  'length, rows',
  [(16_384, 16), pytest.param(32_768, 4, marks=pytest.mark.slow)],
)
def test_the_7b_fits_16_chips(length, rows):
  done, found = compile_for(
    '--config=configs/qwen25_7b_sft.py',
    '--topology=v5e:4x4',
    f'--config.sft.max_length={length}',
    f'--config.sft.batch_size={rows}',
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert found['fits']
  assert found['tokens'] == length * rows
  # 6 N a token, and 6 L N H T of causal attention.
  assert 4.5e10 < found['flops_per_token'] < 8e10


def test_the_flags_for_gpus_are_known_to_xla():
  # XLA refuses to start with a flag that it does not know.
  command = (
    '. launch/gpu_xla_flags.sh && exec "$0" -c "import jax; jax.devices()"'
  )
  subprocess.run(
    ['bash', '-c', command, sys.executable], cwd=ROOT, check=True, timeout=240
  )


@pytest.mark.libtpu
@pytest.mark.parametrize('function', ['prefill', 'decode'])
def test_the_sampler_compiles_for_a_pod(function):
  done, found = compile_for(
    '--config=configs/toy.py',
    f'--function={function}',
    '--topology=v5e:2x2',
    '--config.mesh.fsdp=-1',
    '--config.mesh.model=2',
    '--config.model.dtype=bfloat16',
    '--config.model.num_layers=1',
    '--config.agent.max_prompt_tokens=64',
    '--config.agent.max_action_tokens=16',
    '--config.rl.states_per_batch=4',
    '--config.rl.samples_per_state=2',
  )
  assert done.returncode == 0, done.stdout + done.stderr
  # Two shards of a prompt each; 8 samples of a chunk of 16 tokens.
  assert found['tokens'] == {'prefill': 2 * 64, 'decode': 8 * 16}[function]
  assert 0 < found['peak_gib'] < 0.1


@pytest.mark.libtpu
def test_eight_bits_are_fewer_bytes_on_a_tpu():
  """And no token gathers weights from chips that decode other samples."""
  found = {}
  for int8 in (False, True):
    done, found[int8] = compile_for(
      '--config=configs/toy.py',
      '--function=decode',
      '--topology=v5e:2x2',
      '--config.mesh.fsdp=-1',
      '--config.model.dtype=bfloat16',
      '--config.model.num_layers=1',
      '--config.model.embed_dim=1024',
      '--config.model.ffn_dim=4096',
      '--config.agent.max_prompt_tokens=64',
      '--config.agent.max_action_tokens=16',
      '--config.rl.states_per_batch=4',
      '--config.rl.samples_per_state=2',
      f'--config.sampler.int8={int8}',
    )
    assert done.returncode == 0, done.stdout + done.stderr
  weights = 3 * 1024 * 4096 / 2**30  # of the MLP, a byte each
  saved = found[False]['arguments_gib'] - found[True]['arguments_gib']
  assert saved > 0.9 * weights
  # Read once for each of 16 tokens.
  saved = found[False]['hbm_gib'] - found[True]['hbm_gib']
  assert saved > 0.9 * 16 * weights
  for each in found.values():
    sent = sum(kind['gib'] for kind in each['collectives'].values())
    assert sent < 0.1 * weights


def test_advice_names_the_keys_that_help():
  config = base.get_config()
  config.model.remat = 'dots'
  config.sft.prompts_per_batch = 8
  config.mesh.fsdp = 4
  chip = roofline.CHIPS['TPU v5 lite']

  def found(memory):
    return ' '.join(advice.advice(config, 'sft_step', chip, 4, memory))

  assert not found(report.Memory(6.0, 9.0, 0.0))
  # 6 GiB of arguments and 2 of gradients halve on 8 chips: 13 GiB in all.
  said = found(report.Memory(6.0, 11.0, 0.0))
  for part in (
    'remat=full',
    'sft.micro_batches=-1 (now 1)',
    '1 row of each device of the batch at a time, not 2',
    'mesh.model=2 mesh.fsdp=2',
    'at least 8 chips (mesh.fsdp=8)',
  ):
    assert part in said
  # 16 GiB of temporaries stay, however many chips there are.
  assert 'chips (mesh.fsdp' not in found(report.Memory(6.0, 18.5, 0.0))

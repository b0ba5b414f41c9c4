"""Ahead-of-time compiles: what they count, and what they say of a TPU."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from mlagent_jax.aot import hlo, roofline
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
    command, cwd=ROOT, capture_output=True, text=True, timeout=900
  )
  return done, json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}

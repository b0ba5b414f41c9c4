"""What several processes do together; see tests/test_processes.py.

Usage: together.py PORT COUNT INDEX FOLDER [wait]. Process 0 prints one line of
JSON; the assertions are in every process.
"""

import json
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlagent_jax import replicas, rollout, sampling
from mlagent_jax.checkpoint import Checkpointer
from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.decoder import make_model
from mlagent_jax.model.layout import right_padded
from mlagent_jax.model.sharding import MESH_AXES
from mlagent_jax.optim import make_optimizer
from mlagent_jax.stages import processes as processes_lib
from mlagent_jax.stages import split_policy
from mlagent_jax.train_state import (
  make_train_state,
  make_train_step,
  own_rows,
  put_batch,
)

CONFIG = ModelConfig(
  num_layers=1,
  embed_dim=16,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  ffn_dim=24,
  vocab_size=32,
)
B, T, SAVED, STEPS = 16, 8, 2, 5
# With two processes the rows of each are not consecutive, as on a torus.
ORDER = (0, 4, 1, 5, 2, 6, 3, 7)


class Tokenizer:
  """Just enough for a policy."""

  pad_id = 0

  def decode(self, ids):
    return ' '.join(map(str, ids))


def loss_fn(model, batch):
  """Mean negative log-probability of every token but the first."""
  tokens = batch['tokens']
  hidden = model(tokens, right_padded(batch['lengths'], T))
  logps = jax.nn.log_softmax(model.logits(hidden[:, :-1]))
  own = jnp.take_along_axis(logps, tokens[:, 1:, None], axis=-1)
  return -own.sum(), jnp.float32(own.size), {}


def train(mesh, folder, first=0):
  """Losses of the steps after `first`, and what was trained.

  Every process makes its own rows; the state after SAVED steps is saved, or
  taken from there.
  """
  graphdef, params = make_model(CONFIG, 0, mesh)
  tx = make_optimizer(1e-2)
  state = make_train_state(params, tx, mesh)
  step = make_train_step(graphdef, loss_fn, tx, mesh=mesh)
  losses = {}
  with Checkpointer(folder, fingerprint='x') as checkpoints:
    if first:
      state, extra = checkpoints.restore(state, first)
      assert extra == {'step': first}
    for number in range(first + 1, STEPS + 1):
      rows = own_rows(mesh, B)
      tokens = np.random.default_rng(number).integers(1, 32, (B, T))
      batch = {
        'tokens': tokens[rows].astype(np.int32),
        'lengths': np.full(len(rows), T, np.int32),
      }
      state, metrics = step(state, put_batch(batch, mesh, size=B))
      losses[number] = float(metrics['loss'])
      if number == SAVED and not first:
        checkpoints.save(number, state, {'step': number})
  return losses, graphdef, state.params


def sample(here, graphdef, params):
  """Token ids of 2 samples of 5 prompts, drawn in both ways; in process 0."""
  local = replicas.local_mesh((1, jax.local_device_count() // 2, 2))
  engine = sampling.Engine(
    graphdef,
    sampling.Room(
      slots=8,
      rows=4,
      seats=2,
      prompt_length=8,
      sample_length=6,
      chunk=3,
      shards=jax.local_device_count() // 2,
    ),
    stop_ids=(3,),
    mesh=local,
  )
  settings = sampling.Settings(temperature=1.0, max_tokens=6)
  plain = rollout.Policy(engine, Tokenizer(), settings=settings)
  policy = split_policy.SplitPolicy(plain, local, here)
  prompts = [[1, 2, 5 + i] for i in range(5)]
  seeds = np.arange(10, dtype=np.uint32).reshape(5, 2)
  replies = policy.sample_replies(params, prompts, seeds)

  def play():
    first = policy.sample_replies(None, prompts[:3], seeds[:3])
    return first + policy.sample_replies(None, prompts[3:], seeds[3:])

  played = split_policy.lead(policy, params, play)
  assert played is not None
  for bad in range(here.count if here.count > 1 else 0):
    check_a_failure(here, local, params, bad)
  if not here.is_leader:
    return None
  assert played == replies
  return [[list(reply.token_ids) for reply in group] for group in replies]


class Broken:
  """A policy that has no memory left."""

  def sample_replies(self, params, prompts, seeds, temperature=None):
    raise MemoryError('no room')


class Working:
  def sample_replies(self, params, prompts, seeds, temperature=None):
    return [[] for _ in prompts]


def check_a_failure(here, local, params, bad):
  """One process cannot sample: all of them hear of it, and none waits."""
  plain = Broken() if here.index == bad else Working()
  policy = split_policy.SplitPolicy(plain, local, here)
  prompts, seeds = [[1], [2]], np.zeros((2, 1), np.uint32)
  if not here.is_leader:
    kind, words = processes_lib.LeaderError, 'no room'
  elif bad == here.index:
    kind, words = MemoryError, 'no room'
  else:
    kind, words = split_policy.SamplingError, f'process {bad} .*no room'
  with pytest.raises(kind, match=words):
    split_policy.lead(
      policy, params, lambda: policy.sample_replies(None, prompts, seeds)
    )


def talk(here):
  """Values, large ones, errors and wishes to stop travel."""
  assert here.leader_does(lambda: {'of': here.index}) == {'of': 0}
  large = np.random.default_rng(0).bytes(3_000_001)
  assert here.leader_does(lambda: large if here.is_leader else None) == large
  gathered = here.gather(here.index + 1)
  assert gathered == (
    list(range(1, here.count + 1)) if here.is_leader else None
  )
  assert not here.stop_requested()
  here.terminated = here.index == here.count - 1
  assert here.stop_requested()
  here.terminated = False

  def fail():
    raise ZeroDivisionError('here')

  kind = ZeroDivisionError if here.is_leader else processes_lib.LeaderError
  with pytest.raises(kind, match='here'):
    here.leader_does(fail)


def main(port, count, index, folder, wait):
  here = processes_lib.start(f'127.0.0.1:{port}', count, index)
  with processes_lib.ending_together(here):
    print('begun', flush=True)
    if wait:
      here.barrier()
      print('waiting', flush=True)
      time.sleep(600)
    talk(here)
    devices = np.array(jax.devices())[list(ORDER)].reshape(2, 4, 1)
    auto = (jax.sharding.AxisType.Auto,) * 3
    mesh = jax.sharding.Mesh(devices, MESH_AXES, axis_types=auto)
    assert np.ptp(own_rows(mesh, B)) > B // count
    losses, graphdef, params = train(mesh, folder)
    sampled = sample(here, graphdef, params)
    if here.is_leader:
      print(json.dumps({'losses': losses, 'sampled': sampled}), flush=True)


if __name__ == '__main__':
  numbers = map(int, sys.argv[1:4])
  main(*numbers, pathlib.Path(sys.argv[4]), sys.argv[5:] == ['wait'])

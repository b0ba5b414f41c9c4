"""Checkpoints: bit for bit, whole or refused, on any mesh."""

import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mlagent_jax.checkpoint import Checkpointer, CheckpointError
from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.decoder import abstract_model
from mlagent_jax.model.sharding import make_mesh, state_shardings
from mlagent_jax.optim import make_optimizer
from mlagent_jax.train_state import (
  TrainState,
  make_train_state,
  train_state_shapes,
)

EXTRA = {'data': {'epoch': 2, 'position': 17}, 'cursor': 5, 'lr': 0.1}
CONFIG = ModelConfig(
  num_layers=2,
  embed_dim=16,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  ffn_dim=24,
  vocab_size=32,
)
_, SHAPES = abstract_model(CONFIG)
TX = make_optimizer(1e-3)


def _train_state(mesh=None, config=CONFIG) -> TrainState:
  """A state whose arrays, moments too, hold random bits."""
  _, shapes = abstract_model(config)
  params = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  if mesh is not None:
    params = jax.device_put(params, state_shardings(shapes, mesh))
  generator = np.random.default_rng(0)

  def fill(x):
    values = generator.normal(size=x.shape) * 100
    return jax.device_put(values.astype(x.dtype), x.sharding)

  return jax.tree.map(fill, make_train_state(params, TX, mesh))


def _same_bits(left, right):
  assert jax.tree.structure(left) == jax.tree.structure(right)
  for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right)):
    assert a.dtype == b.dtype
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_restores_bit_for_bit_on_another_mesh(tmp_path):
  saved = _train_state(make_mesh(1, 8, 1))
  with Checkpointer(tmp_path, fingerprint='a') as checkpoints:
    assert checkpoints.latest_step() is None
    checkpoints.save(3, saved, EXTRA)
  for mesh in (make_mesh(1, 8, 1), make_mesh(2, 2, 2), None):
    template = train_state_shapes(SHAPES, TX, mesh)
    with Checkpointer(tmp_path, fingerprint='a') as checkpoints:
      assert checkpoints.latest_step() == 3
      state, extra = checkpoints.restore(template)
    assert extra == EXTRA
    _same_bits(state, saved)
    made = jax.tree.leaves(_train_state(mesh))
    for there, wanted in zip(jax.tree.leaves(state), made, strict=True):
      assert there.sharding.is_equivalent_to(wanted.sharding, there.ndim)


def test_special_values_and_dtypes_survive(tmp_path):
  state = {
    'floats': jnp.array([0.0, -0.0, jnp.inf, jnp.nan, 1e-45], jnp.float32),
    'halves': jnp.arange(7, dtype=jnp.bfloat16) / 3,
    'key': jax.random.key_data(jax.random.key(7)),
    'flag': jnp.array([True, False]),
    'step': jnp.int32(4),
  }
  with Checkpointer(tmp_path, fingerprint='a') as checkpoints:
    checkpoints.save(1, state, {})
    restored, _ = checkpoints.restore(jax.tree.map(jnp.zeros_like, state))
  _same_bits(restored, state)


def test_keeps_the_latest_and_restores_a_chosen_one(tmp_path):
  with Checkpointer(tmp_path, max_to_keep=2, fingerprint='a') as checkpoints:
    for step in (1, 2, 3):
      checkpoints.save(step, {'x': jnp.full(3, step)}, {'n': step})
    template = {'x': jnp.zeros(3, jnp.int32)}
    assert checkpoints.restore(template, 2)[1] == {'n': 2}
    with pytest.raises(CheckpointError, match='no checkpoint of step 1'):
      checkpoints.restore(template, 1)
    with pytest.raises(CheckpointError, match='step 3 already'):
      checkpoints.save(3, template, {})


def test_nothing_to_restore(tmp_path):
  with Checkpointer(tmp_path / 'new', fingerprint='a') as checkpoints:
    with pytest.raises(CheckpointError, match='no checkpoint in'):
      checkpoints.restore({'x': jnp.zeros(3)})


def test_another_config_or_architecture_is_refused(tmp_path):
  saved = _train_state()
  with Checkpointer(tmp_path, fingerprint='aaa') as checkpoints:
    checkpoints.save(1, saved, {})
  with Checkpointer(tmp_path, fingerprint='bbb') as checkpoints:
    with pytest.raises(CheckpointError, match='another config.*aaa.*bbb'):
      checkpoints.restore(saved)
  wider = ModelConfig(2, 16, 4, 2, 4, 32, 32)
  no_bias = ModelConfig(2, 16, 4, 2, 4, 24, 32, qkv_bias=False)
  deeper = ModelConfig(3, 16, 4, 2, 4, 24, 32)
  with Checkpointer(tmp_path, fingerprint='aaa') as checkpoints:
    with pytest.raises(CheckpointError, match=r'mlp.down.* is float32\[2, 24'):
      checkpoints.restore(_train_state(config=wider))
    with pytest.raises(CheckpointError, match=r'has .*attention.bk'):
      checkpoints.restore(_train_state(config=no_bias))
    with pytest.raises(CheckpointError, match='another architecture'):
      checkpoints.restore(_train_state(config=deeper))
    params_only = nnx.state(saved.params)
    with pytest.raises(CheckpointError, match='architecture or optimizer'):
      checkpoints.restore(params_only)


def _truncate(path, data):
  path.write_bytes(data[: len(data) // 2])


def _flip_one_bit(path, data):
  middle = len(data) // 2
  flipped = bytes([data[middle] ^ 1])
  path.write_bytes(data[:middle] + flipped + data[middle + 1 :])


def _delete(path, _):
  path.unlink()


# Orbax leaves coroutines behind when a read fails.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize('damage', [_truncate, _flip_one_bit, _delete])
def test_damage_is_noticed_in_every_file_that_matters(tmp_path, damage):
  generator = np.random.default_rng(0)
  state = {'w': jnp.asarray(generator.normal(size=(40, 50)), jnp.float32)}
  with Checkpointer(tmp_path, fingerprint='a') as checkpoints:
    checkpoints.save(1, state, {})
    checkpoints.save(2, state, EXTRA)
  noticed = set()
  for path in [p for p in (tmp_path / '2').rglob('*') if p.is_file()]:
    data = path.read_bytes()
    damage(path, data)
    with Checkpointer(tmp_path, fingerprint='a') as checkpoints:
      try:
        restored, extra = checkpoints.restore(state)
      except CheckpointError as error:
        message = str(error)
        assert str(tmp_path / '2') in message
        assert 'is damaged' in message
        assert 'Delete that folder to resume from step 1' in message
        noticed.add(path.relative_to(tmp_path / '2'))
      else:  # a file that nothing depends on
        assert extra == EXTRA
        _same_bits(restored, state)
    path.write_bytes(data)
  assert pathlib.Path('manifest/metadata') in noticed
  assert any(p.parts[:2] == ('state', 'ocdbt.process_0') for p in noticed)
  assert any(p.parts[:2] == ('state', 'd') for p in noticed)


_KILLED_IN_A_SAVE = """
import os, pathlib, signal, sys, threading, time
import jax.numpy as jnp, numpy as np
from mlagent_jax.checkpoint import Checkpointer
folder = pathlib.Path(sys.argv[1])

def kill_when_files_appear():
  while True:
    for part in folder.glob('*tmp*'):
      if any(p.is_file() and p.stat().st_size > 0 for p in part.rglob('*')):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.0005)

bits = np.random.default_rng(0).integers(0, 2**32, 2**24, dtype=np.uint32)
with Checkpointer(folder, fingerprint='a') as checkpoints:
  checkpoints.save(1, {'x': jnp.arange(4)}, {'n': 1})
  threading.Thread(target=kill_when_files_appear, daemon=True).start()
  checkpoints.save(2, {'x': jnp.asarray(bits)}, {'n': 2})
print('the save was not interrupted')
"""


def test_kill_in_the_middle_of_a_save_keeps_the_previous_one(tmp_path):
  killed = subprocess.run(
    [sys.executable, '-c', _KILLED_IN_A_SAVE, str(tmp_path)],
    capture_output=True,
    text=True,
  )
  assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
  assert any('tmp' in path.name for path in tmp_path.iterdir())
  template = {'x': jnp.zeros(4, jnp.int32)}
  # Who only reads cannot know that nobody is writing: it touches nothing.
  before = sorted(tmp_path.rglob('*'))
  with Checkpointer(tmp_path, fingerprint='a', read_only=True) as checkpoints:
    state, extra = checkpoints.restore(template)
    assert extra == {'n': 1}
    with pytest.raises(CheckpointError, match='to be read only'):
      checkpoints.save(2, state, {'n': 2})
  assert sorted(tmp_path.rglob('*')) == before
  with Checkpointer(tmp_path, fingerprint='a') as checkpoints:
    assert checkpoints.latest_step() == 1
    state, extra = checkpoints.restore(template)
    assert extra == {'n': 1}
    _same_bits(state, {'x': jnp.arange(4)})
    checkpoints.save(2, state, {'n': 2})
    assert checkpoints.latest_step() == 2
  assert sorted(path.name for path in tmp_path.iterdir()) == ['1', '2']


_DISK_OF_14_MB = """
import pathlib, sys
import jax.numpy as jnp, numpy as np
from mlagent_jax.checkpoint import Checkpointer, CheckpointError
folder = pathlib.Path(sys.argv[1])
bits = np.random.default_rng(0).integers(0, 2**32, 2**21, dtype=np.uint32)
state = {'x': jnp.asarray(bits)}  # 8 MiB that do not compress
with Checkpointer(folder, max_to_keep=2, fingerprint='a') as checkpoints:
  checkpoints.save(1, state, {'n': 1})
  try:
    checkpoints.save(2, state, {'n': 2})
  except CheckpointError as error:
    print(error)
with Checkpointer(folder, max_to_keep=2, fingerprint='a') as checkpoints:
  assert checkpoints.latest_step() == 1
  restored, extra = checkpoints.restore({'x': jnp.zeros_like(state['x'])})
  assert extra == {'n': 1}
  assert np.array_equal(restored['x'], bits)
  # A smaller one finds the room that the failed one took.
  checkpoints.save(2, {'x': state['x'][: 2**20]}, {'n': 2})
  assert checkpoints.latest_step() == 2
assert sorted(path.name for path in folder.iterdir()) == ['1', '2']
"""


@pytest.mark.bwrap
def test_a_full_disk_keeps_the_previous_one(tmp_path):
  disk = ['bwrap', '--dev-bind', '/', '/', '--size', str(14 * 2**20)]
  done = subprocess.run(
    [
      *disk,
      '--tmpfs',
      tmp_path,
      sys.executable,
      '-c',
      _DISK_OF_14_MB,
      tmp_path,
    ],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert 'No space left on device' in done.stdout
  assert 'that of step 1 is whole' in done.stdout

"""Checkpoints that are whole, are ours, and come back bit for bit (Orbax).

A checkpoint is a folder named by its step with two items: `state`, the arrays
of a train state, and `manifest`, one JSON object:

  fingerprint  of the run's config: another config is refused
  leaves       name -> shape, dtype and digest of every array
  extra        what else a run resumes from (PRNG key, data iterator, cursor)
  sha256       of the three above

Orbax writes into a temporary folder and renames it when it is complete, so a
process killed in the middle of a save leaves the previous checkpoint as the
latest one. Orbax does not notice a changed byte inside an array, so every
array has a digest of its bits. The digest is a sum, so that it is computed
where the shards are, and is the same on every mesh.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath


class CheckpointError(RuntimeError):
  """A checkpoint is missing, damaged, or made by something else."""


class Checkpointer:
  """Saves and restores a train state; use it in a `with` statement."""

  def __init__(
    self,
    folder: str | os.PathLike[str],
    *,
    max_to_keep: int | None = None,
    fingerprint: str,
    read_only: bool = False,
  ):
    """Opens `folder`, which is made if it is not there and may be written.

    Args:
      folder: one folder a run; gs:// too.
      max_to_keep: how many checkpoints stay, the latest ones; None for all.
      fingerprint: identifies what must not change between a save and a
        restore, such as a digest of the config.
      read_only: touch nothing: another process may be writing a checkpoint.
    """
    self._folder = epath.Path(folder)
    if '://' not in str(folder):
      self._folder = self._folder.resolve()
    self._fingerprint = fingerprint
    self._read_only = read_only
    # A save returns when it is on disk: the next train step may then donate
    # the buffers that it read from.
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=max_to_keep,
        enable_async_checkpointing=False,
        cleanup_tmp_directories=not read_only,
        create=not read_only,
      ),
    )

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self._manager.close()

  def latest_step(self) -> int | None:
    """The step of the latest whole checkpoint, or None."""
    return self._manager.latest_step()

  def save(self, step: int, state, extra: Mapping[str, Any]) -> None:
    """Saves after `step` updates; returns when the checkpoint is whole.

    Args:
      step: finished updates; larger than in every earlier save.
      state: a pytree of arrays.
      extra: a JSON object.

    Raises:
      TypeError: if `extra` does not fit in JSON.
      CheckpointError: if there is a checkpoint of this or a later step, the
        folder was opened to be read only, or the disk is full; what was saved
        before stays as it is.
    """
    if self._read_only:
      raise CheckpointError(f'{self._folder} was opened to be read only')
    latest = self.latest_step()
    if latest is not None and step <= latest:
      raise CheckpointError(
        f'{self._folder} has a checkpoint of step {latest} already; cannot'
        f' save step {step} after it'
      )
    arrays = _named_leaves(state)
    manifest = {
      'fingerprint': self._fingerprint,
      'leaves': _describe(arrays, _digests(arrays)),
      'extra': dict(extra),
    }
    args = ocp.args.Composite(
      state=ocp.args.PyTreeSave(arrays),
      manifest=ocp.args.JsonSave(manifest | {'sha256': _sha256(manifest)}),
    )
    try:
      self._manager.save(step, args=args)
    except (OSError, ValueError) as error:
      # TensorStore says it in a ValueError's text.
      full = os.strerror(errno.ENOSPC)
      if full not in str(error):
        raise
      for part in self._folder.glob(f'{step}.*tmp*'):
        shutil.rmtree(part, ignore_errors=True)
      kept = 'there is none before it'
      if latest is not None:
        kept = f'that of step {latest} is whole'
      raise CheckpointError(
        f'{full}: no room for the checkpoint of step {step} in'
        f' {self._folder}; {kept}. Free some space, and start again'
      ) from error

  def restore(self, state_template, step: int | None = None):
    """Restores a state, bit for bit, onto the shardings of a template.

    Args:
      state_template: a tree like the saved one, of arrays or of
        ShapeDtypeStructs with shardings; the mesh may be another one.
      step: which checkpoint; the latest by default.

    Returns:
      The state and `extra`.

    Raises:
      CheckpointError: if there is no such checkpoint, it is damaged, or it
        was made with another config or another architecture.
    """
    step = self.latest_step() if step is None else step
    if step is None or step not in self._manager.all_steps():
      raise CheckpointError(
        f'no checkpoint {"" if step is None else f"of step {step} "}in'
        f' {self._folder}'
      )
    manifest = self._read_manifest(step)
    if manifest['fingerprint'] != self._fingerprint:
      raise CheckpointError(
        f'{self._folder / str(step)} was made with another config'
        f' (fingerprint {manifest["fingerprint"]}, this run has'
        f' {self._fingerprint}): restore it with its own config, or start in'
        ' another folder'
      )
    template = _named_leaves(state_template)
    self._check_leaves(step, manifest['leaves'], template)
    arrays = self._read_arrays(step, template)
    for name, digest in _digests(arrays).items():
      if digest != manifest['leaves'][name]['digest']:
        raise self._damaged(step, f'array {name} is not what was saved')
    structure = jax.tree.structure(state_template)
    state = jax.tree.unflatten(structure, [arrays[name] for name in template])
    return state, manifest['extra']

  def _read_manifest(self, step):
    with self._reading(step, 'manifest'):
      manifest = self._manager.restore(
        step, args=ocp.args.Composite(manifest=ocp.args.JsonRestore())
      )['manifest']
    expected = manifest.pop('sha256', None)
    if _sha256(manifest) != expected:
      raise self._damaged(step, 'its manifest is not what was saved')
    return manifest

  def _read_arrays(self, step, template):
    restore_args = ocp.checkpoint_utils.construct_restore_args(template)
    with self._reading(step, 'state'):
      return self._manager.restore(
        step,
        args=ocp.args.Composite(
          state=ocp.args.PyTreeRestore(template, restore_args=restore_args)
        ),
      )['state']

  def _check_leaves(self, step, saved, template):
    """The same arrays, with the same shapes and dtypes."""
    where = self._folder / str(step)
    for name in sorted(saved.keys() | template.keys()):
      if name not in template:
        raise CheckpointError(
          f'{where} is of another architecture or optimizer: it has'
          f' {name}, this model has not'
        )
      if name not in saved:
        raise CheckpointError(
          f'{where} is of another architecture or optimizer: it lacks {name}'
        )
      ours = _shape(template[name])
      theirs = {key: saved[name][key] for key in ours}
      if ours != theirs:
        raise CheckpointError(
          f'{where} is of another architecture: {name} is'
          f' {theirs["dtype"]}{theirs["shape"]} in it,'
          f' {ours["dtype"]}{ours["shape"]} in this model'
        )

  @contextlib.contextmanager
  def _reading(self, step, item):
    """Turns whatever Orbax raises for a damaged item into one error."""
    try:
      yield
    except Exception as error:  # noqa: BLE001 - Orbax raises Exception itself
      reason = str(error).partition('\n')[0][:200]
      raise self._damaged(
        step, f'cannot read its {item} ({type(error).__name__}: {reason})'
      ) from error

  def _damaged(self, step, what) -> CheckpointError:
    earlier = [s for s in self._manager.all_steps() if s < step]
    then = (
      f'resume from step {max(earlier)}' if earlier else 'start this stage anew'
    )
    where = self._folder / str(step)
    return CheckpointError(
      f'checkpoint {where} is damaged: {what}. Delete that folder to {then}'
    )


def _named_leaves(tree) -> dict[str, Any]:
  """Leaves by name, such as 'params.blocks.mlp.gate.value', in tree order."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='.'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _shape(leaf):
  return {'shape': list(leaf.shape), 'dtype': np.dtype(leaf.dtype).name}


def _describe(arrays, digests):
  return {
    name: _shape(leaf) | {'digest': digests[name]}
    for name, leaf in arrays.items()
  }


def _sha256(manifest: dict) -> str:
  canonical = json.dumps(manifest, sort_keys=True)
  return hashlib.sha256(canonical.encode()).hexdigest()


def _digests(arrays: Mapping[str, jax.Array]) -> dict[str, int]:
  """A 32-bit digest of each array; any single flipped bit changes it."""
  digests = jax.device_get(_digest_all(list(arrays.values())))
  return dict(zip(arrays, map(int, digests), strict=True))


@jax.jit
def _digest_all(arrays):
  return [_digest(array) for array in arrays]


def _digest(x):
  """Sum of bits times an odd weight of the index, modulo 2 ** 32."""
  width = x.dtype.itemsize * 8
  bits = x.view(f'uint{width}').astype(jnp.uint32)
  # From iotas of the shape, not of the size: they split like the array.
  index, stride = jnp.zeros(x.shape, jnp.uint32), 1
  for axis in reversed(range(x.ndim)):
    iota = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    index += iota * jnp.uint32(stride % 2**32)
    stride *= x.shape[axis]
  weight = (index * jnp.uint32(0x9E3779B1)) | jnp.uint32(1)
  return jnp.sum(bits * weight, dtype=jnp.uint32)

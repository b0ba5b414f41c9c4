"""Stops a run whose loss or gradient is NaN or infinite, and keeps the batch.

The update has been made by then, so the parameters are lost; the checkpoint
before it is not. The batch is what is needed to find out why.
"""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np


class NotFiniteError(RuntimeError):
  """A loss or gradient is NaN or infinite; says where its batch is."""


def check(
  history: Sequence[Mapping[str, float]],
  batch: Mapping[str, jax.Array | np.ndarray],
  folder: pathlib.Path,
  *,
  stage: str,
  step: int,
  rows: Sequence[str] = (),
) -> None:
  """Raises if an update of a step was not finite; saves its batch first.

  Writes FOLDER/STEP.npz with the batch's arrays, and STEP.json with all
  metrics and with what in the arrays is not finite. With several processes
  each writes its own rows, to STEP-PROCESS.npz.

  Args:
    history: metrics of each update. Those named loss or grad_norm, also below
      a prefix such as critic/, must be finite, unless the weight beside them is
      0: then there was nothing to learn from.
    batch: arrays with a leading axis of rows.
    folder: made if needed.
    stage: for the message.
    step: number of the step.
    rows: names of the rows, if they have any.

  Raises:
    NotFiniteError: names the step, the metric and the files.
  """
  bad = _not_finite(history)
  if not bad:
    return
  folder.mkdir(parents=True, exist_ok=True)
  name = f'{step:06d}'
  if jax.process_count() > 1:
    name += f'-{jax.process_index()}'
  arrays = {key: _own_rows(value) for key, value in batch.items()}
  np.savez(folder / f'{name}.npz', **arrays)
  damaged = {
    key: np.flatnonzero(~np.isfinite(x).reshape(len(x), -1).all(1)).tolist()
    for key, x in arrays.items()
  }
  damaged = {key: found for key, found in damaged.items() if found}
  report = {
    'stage': stage,
    'step': step,
    # JSON has no NaN.
    'updates': [
      {
        key: value if math.isfinite(value) else str(value)
        for key, value in metrics.items()
      }
      for metrics in history
    ],
    'rows': list(rows),
    'rows_not_finite': damaged,
    'largest': {key: _largest(x) for key, x in arrays.items()},
  }
  (folder / f'{name}.json').write_text(json.dumps(report, indent=2) + '\n')
  where = (
    'in its arrays: '
    + ', '.join(f'{key} (rows {found})' for key, found in damaged.items())
    if damaged
    else 'its arrays are finite: the model or the loss made it'
  )
  raise NotFiniteError(
    f'{stage} step {step}: {"; ".join(bad)}. The batch is saved in'
    f' {folder / name}.npz, all metrics in {name}.json; {where}. The last'
    ' checkpoint is from before this step: change the config (a lower learning'
    ' rate, say) in a new --workdir, or look at the batch'
  )


def _not_finite(history) -> list[str]:
  found = []
  for update, metrics in enumerate(history, 1):
    for name, value in metrics.items():
      prefix, _, figure = name.rpartition('/')
      weight = metrics.get(f'{prefix}/weight' if prefix else 'weight', 1.0)
      watched = figure in ('loss', 'grad_norm') and weight != 0
      if watched and not math.isfinite(value):
        found.append(f'{name} is {value} in update {update} of {len(history)}')
  return found


def _own_rows(x) -> np.ndarray:
  """The rows of this process."""
  if isinstance(x, np.ndarray) or x.is_fully_addressable:
    return np.asarray(x)
  parts = {
    shard.index[0].start or 0: np.asarray(shard.data)
    for shard in x.addressable_shards
  }
  return np.concatenate([parts[start] for start in sorted(parts)])


def _largest(x: np.ndarray) -> float | None:
  """The largest finite absolute value; None if there is none."""
  finite = np.abs(x[np.isfinite(x)])
  return float(finite.max()) if finite.size else None

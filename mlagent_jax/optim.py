"""AdamW with clipping and a learning-rate schedule (optax).

AdamW is arXiv 1711.05101. Weight decay applies to matrices and the embedding,
not to norms and biases. Moments are float32, as the parameters are.
"""

from collections.abc import Callable

import jax
import optax

SCHEDULES = ('constant', 'cosine', 'linear')

# Names of parameters that do not decay: norms and biases.
_NO_DECAY = frozenset({'scale', 'bias', 'bq', 'bk', 'bv'})


def make_schedule(
  learning_rate: float,
  *,
  schedule: str = 'constant',
  warmup_steps: int = 0,
  total_steps: int | None = None,
) -> Callable[[int], float]:
  """Learning rate as a function of the number of finished updates.

  Args:
    learning_rate: the peak, reached after the warm-up.
    schedule: after the warm-up, 'constant', or 'cosine' or 'linear' decay to
      zero at `total_steps`.
    warmup_steps: updates of linear warm-up; the first one already moves.
    total_steps: updates in all; needed by 'cosine' and 'linear'.

  Raises:
    ValueError: for an unknown schedule, or one that has no steps to decay.
  """
  if schedule not in SCHEDULES:
    raise ValueError(f'no schedule {schedule!r}; there are {SCHEDULES}')
  if schedule != 'constant' and (
    total_steps is None or total_steps <= warmup_steps
  ):
    raise ValueError(
      f'schedule {schedule!r} needs total_steps above warmup_steps'
      f' ({warmup_steps}), got {total_steps}'
    )
  if schedule == 'constant':
    after = optax.constant_schedule(learning_rate)
  elif schedule == 'cosine':
    after = optax.cosine_decay_schedule(
      learning_rate, total_steps - warmup_steps
    )
  else:
    after = optax.linear_schedule(
      learning_rate, 0.0, total_steps - warmup_steps
    )
  # Update number `warmup_steps` (from 0) has the full rate: step i of the
  # warm-up takes (i + 1) / (warmup_steps + 1) of it.
  start = learning_rate / (warmup_steps + 1)
  warmup = optax.linear_schedule(start, learning_rate, max(warmup_steps, 1))
  return optax.join_schedules([warmup, after], [warmup_steps])


def decays(params):
  """A tree of bools: True for parameters that weight decay applies to."""

  def decay(path, _):
    names = jax.tree_util.keystr(path, simple=True, separator='/').split('/')
    return not _NO_DECAY.intersection(names)

  return jax.tree.map_with_path(decay, params)


def make_optimizer(
  learning_rate: float,
  *,
  schedule: str = 'constant',
  warmup_steps: int = 0,
  total_steps: int | None = None,
  weight_decay: float = 0.0,
  b1: float = 0.9,
  b2: float = 0.95,
  eps: float = 1e-8,
  clip_norm: float | None = 1.0,
) -> optax.GradientTransformation:
  """Clipping by the global norm, then AdamW.

  Args:
    learning_rate: see `make_schedule`, as the next three.
    schedule: name of the schedule.
    warmup_steps: updates of warm-up.
    total_steps: updates in all.
    weight_decay: decoupled weight decay, multiplied by the learning rate.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: added to the root of the second moment.
    clip_norm: largest global norm of the gradient; None does not clip.

  Raises:
    ValueError: for a schedule that cannot be made, or a clip_norm of 0.
  """
  if clip_norm is not None and clip_norm <= 0:
    raise ValueError(f'clip_norm is {clip_norm}; use None for no clipping')
  rate = make_schedule(
    learning_rate,
    schedule=schedule,
    warmup_steps=warmup_steps,
    total_steps=total_steps,
  )
  adamw = optax.adamw(
    rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=decays
  )
  if clip_norm is None:
    return adamw
  return optax.chain(optax.clip_by_global_norm(clip_norm), adamw)

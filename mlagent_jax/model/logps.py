"""Log-probabilities of given tokens under the decoder, in chunks.

With V = 152064 the logits of one 16k-token row are 10 GB, so they exist for a
chunk of positions at a time, and are computed again in the backward pass. Where
all of them are small, they are kept.

A batch is a dict of arrays as `mlagent_jax.batching` makes it. Axes: B rows, T
tokens, S states, G samples of a state, A tokens of an action, D model, V
vocabulary. Log-probabilities are natural logarithms in float32.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from mlagent_jax.model.layout import layout_of
from mlagent_jax.model.linear import contract
from mlagent_jax.model.sharding import (
  constrain,
  map_parts,
  on_each_device,
  on_mesh,
  split_over,
)

_KEPT_MIB = 512  # logits of one device that are not computed again
_SUMS = 'sums'  # names what is kept of a chunk


def token_logps(
  hidden, head, targets, *, chunk=None, temperature=1.0, entropy_gradient=False
):
  """Log-probabilities of targets, and entropies, without [B, T, V] in memory.

  Logits exist for `chunk` positions at a time, forward and backward, unless all
  of a device take 512 MiB or less. On a mesh every device has its own rows and
  its own part of the vocabulary; the head is gathered over its other axis once,
  and its gradient summed over devices once, not once a chunk.

  Args:
    hidden: [B, T, D], after the final norm.
    head: [D, V], the output weight.
    targets: [B, T] int32.
    chunk: positions of T computed at once, B * chunk * V * 4 bytes; by default
      all if that is 512 MiB or less, which are kept; otherwise 128, or a
      sixteenth of T if that is more.
    temperature: divides the logits, a number or one of each row [B]; the
      distribution is the sampler's.
    entropy_gradient: whether gradients flow through the entropy; it costs
      nothing in the backward pass otherwise.

  Returns:
    (logps, entropy): [B, T] float32 each.
  """
  of_rows = ()
  if isinstance(temperature, jax.Array):
    of_rows = (temperature,)

  def local(hidden, head, targets, *of_rows):
    gathered, parts = split_over('embed'), split_over('vocab')
    head = jax.lax.all_gather(head, gathered, axis=0, tiled=True)
    # What devices add to the gradients is summed here, not once a chunk.
    rest = [x for x in split_over('batch') if x not in (*gathered, *parts)]
    head = jax.lax.pcast(head, tuple(rest), to='varying')
    hidden = jax.lax.pcast(hidden, parts, to='varying')
    return _token_logps(
      hidden,
      head,
      targets,
      chunk,
      of_rows[0][:, None, None] if of_rows else temperature,
      entropy_gradient,
    )

  rows = ('batch', None)
  axes = [(*rows, None), ('embed', 'vocab'), rows, ('batch',)]
  return on_each_device(local, axes[: 3 + len(of_rows)], (rows, rows))(
    hidden, head.astype(hidden.dtype), targets, *of_rows
  )


def _token_logps(hidden, head, targets, chunk, temperature, entropy_gradient):
  """`token_logps` of one device: hidden [b, T, D], head [D, v]."""
  B, T, _ = hidden.shape
  V = head.shape[1]
  devices = split_over('vocab')  # what they sum are the parts of V
  first = jax.lax.axis_index(devices) * V if devices else 0
  keep = chunk is None and B * T * V * 4 <= _KEPT_MIB * 2**20
  chunk = T if keep else min(chunk or max(128, -(-T // 16)), T)
  chunks = -(-T // chunk)

  def split(x):  # [B, T, …] -> [chunks, B, chunk, …]
    pad = [(0, 0)] * x.ndim
    pad[1] = (0, chunks * chunk - T)
    x = jnp.pad(x, pad).reshape(B, chunks, chunk, *x.shape[2:])
    return jnp.moveaxis(x, 1, 0)

  def one_chunk(hidden, targets):
    logits = contract('btd,dv->btv', hidden, head, jnp.float32)
    return _logps_of(
      logits / temperature, targets - first, devices, entropy_gradient
    )

  if keep:
    return one_chunk(hidden, targets)
  # Logits are computed again, but not the sums over them.
  one_chunk = jax.checkpoint(
    one_chunk,
    policy=jax.checkpoint_policies.save_only_these_names(_SUMS),
    prevent_cse=False,  # a scan already prevents it
  )
  _, (logps, entropy) = jax.lax.scan(
    lambda _, x: (None, one_chunk(*x)), None, (split(hidden), split(targets))
  )

  def join(x):  # [chunks, B, chunk] -> [B, T]
    return jnp.moveaxis(x, 0, 1).reshape(B, chunks * chunk)[:, :T]

  return join(logps), join(entropy)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _logps_of(logits, targets, devices, entropy_gradient):
  """Log-probabilities and entropies [b, t] of logits [b, t, v].

  Its gradient goes through the logits once; derived, it would be made once for
  each of the two products that take it, and its sums again.

  Args:
    logits: of this device's part of the vocabulary.
    targets: [b, t], in it if they are 0 to v - 1.
    devices: mesh axes whose parts make the vocabulary.
    entropy_gradient: whether entropies have a gradient.
  """
  return _logps_forward(logits, targets, devices, entropy_gradient)[0]


def _logps_forward(logits, targets, devices, entropy_gradient):
  del entropy_gradient
  log_z = jax.nn.logsumexp(logits, axis=-1)
  if devices:
    top = jax.lax.pmax(log_z, devices)
    log_z = jnp.log(jax.lax.psum(jnp.exp(log_z - top), devices)) + top
  log_z = checkpoint_name(log_z, _SUMS)
  picked = jax.lax.platform_dependent(
    logits, targets, cpu=_gather, default=_masked_sum
  )
  logps = jax.lax.psum(picked, devices) - log_z
  probs = jnp.exp(logits - log_z[..., None])
  mean = jax.lax.psum(jnp.sum(probs * logits, axis=-1), devices)
  entropy = checkpoint_name(log_z - mean, _SUMS)
  return (logps, entropy), (logits, targets, log_z, entropy)


def _logps_backward(devices, entropy_gradient, residuals, cotangents):
  """Of a logit: d logp = [target] - p, d entropy = -p (log p + entropy)."""
  del devices
  logits, targets, log_z, entropy = residuals
  of_logps, of_entropy = (x[..., None] for x in cotangents)
  log_probs = logits - log_z[..., None]
  inner = of_logps
  if entropy_gradient:
    inner = inner + of_entropy * (log_probs + entropy[..., None])
  gradient = jnp.where(_is(targets, logits), of_logps, 0.0)
  gradient -= jnp.exp(log_probs) * inner
  return gradient, None


_logps_of.defvjp(_logps_forward, _logps_backward)


def _is(targets, logits):
  """[b, t, v]: whether a column is its position's target."""
  return jnp.arange(logits.shape[-1]) == targets[..., None]


def _masked_sum(logits, targets):
  """[b, t]: the targets' logits; 0 where another device has them.

  The compilers for TPU and GPU fuse it with the other sums over the logits;
  XLA's for CPU writes a masked copy of them first.
  """
  return jnp.sum(jnp.where(_is(targets, logits), logits, 0.0), axis=-1)


def _gather(logits, targets):
  """`_masked_sum`, which reads nothing but the targets' logits."""
  here = (targets >= 0) & (targets < logits.shape[-1])
  found = jnp.take_along_axis(
    logits, jnp.where(here, targets, 0)[..., None], axis=-1
  )
  return jnp.where(here, found[..., 0], 0.0)


def action_hidden(hidden, batch):
  """The hidden states that predict the actions' tokens (shared prompt).

  In [prompt | G slots of A tokens] token j > 0 of a slot is predicted from the
  slot's token j - 1, and token 0 of every slot from the prompt's last token.

  Args:
    hidden: [S, P + G * A, D].
    batch: 'lengths' [S] of the prompts; the shape of 'targets' [S, G, A].

  Returns:
    [S, G, A, D].
  """
  S, G, A = batch['targets'].shape
  D = hidden.shape[-1]
  slots = hidden[:, hidden.shape[1] - G * A :].reshape(S, G, A, D)
  last = (batch['lengths'] - 1)[:, None, None]
  first = jnp.take_along_axis(hidden, last, axis=1)[:, None]  # [S, 1, 1, D]
  first = jnp.broadcast_to(first, (S, G, 1, D))
  return jnp.concatenate([first, slots[:, :, :-1]], axis=2)


def action_logps(hidden, head, batch, **options):
  """`token_logps` of the actions of the shared-prompt layout.

  Args:
    hidden: [S, P + G * A, D].
    head: [D, V].
    batch: as made by `batching.group_layout`.
    **options: of `token_logps`.

  Returns:
    (logps, entropy): [S, G, A] float32, meaningless outside batch['mask'].
  """
  S, G, A = batch['targets'].shape
  predicting = action_hidden(hidden, batch).reshape(S, G * A, -1)
  targets = batch['targets'].reshape(S, G * A)
  logps, entropy = token_logps(predicting, head, targets, **options)
  return logps.reshape(S, G, A), entropy.reshape(S, G, A)


def placed_logps(hidden, head, batch, **options):
  """`token_logps` of the actions of packed groups.

  Args:
    hidden: [B, T, D].
    head: [D, V].
    batch: as made by `packed_groups`.
    **options: of `token_logps`.

  Returns:
    (logps, entropy): float32 with the shape of batch['targets'], meaningless
    outside batch['mask'].
  """
  sources = batch['sources'][..., None]
  predicting = jnp.take_along_axis(hidden, sources, axis=1)
  found = token_logps(predicting, head, batch['tokens'], **options)
  if 'places' not in batch:
    return found
  return tuple(jnp.take(x.reshape(-1), batch['places']) for x in found)


def batch_logps(model, batch, **options):
  """Log-probabilities and entropies of a batch's targets under a model.

  Args:
    model: `model.decoder.Decoder`.
    batch: of `batching.group_layout` (targets [S, G, A]), of
      `batching.pack_sft` (targets [B, T]) or of `packed_groups` (either).
    **options: of `token_logps`; temperature None is batch['temperature'] [B].

  Returns:
    (logps, entropy) with the shape of batch['targets'].
  """
  if options.get('temperature', 1.0) is None:
    options['temperature'] = batch['temperature']
  # Between blocks the sequence is split; positions are gathered from here on.
  hidden = constrain(
    model(batch['tokens'], layout_of(batch)), ('batch', None, None)
  )
  if 'sources' in batch:
    return placed_logps(hidden, model.head(), batch, **options)
  if batch['targets'].ndim == 3:
    return action_logps(hidden, model.head(), batch, **options)
  return token_logps(hidden, model.head(), batch['targets'], **options)


def make_compute_logps(
  graphdef, *, temperature=1.0, chunk=None, micro_batches=1, mesh=None
):
  """Makes the jitted function that computes `logps_old` and `logps_ref`.

  Args:
    graphdef: of the decoder.
    temperature: of the sampler; None is that of the batch, see `batch_logps`.
    chunk: of `token_logps`.
    micro_batches: the leading axis is computed in that many parts.
    mesh: the mesh that the parameters live on, or None.

  Returns:
    compute_logps(params, batch as of `train_state.put_batch`) -> float32 with
    the shape of batch['targets'].
  """
  options = {'chunk': chunk, 'temperature': temperature}

  def compute(params, batch):
    with on_mesh(mesh):
      model = nnx.merge(graphdef, params)

      def part(rows):
        return batch_logps(model, rows, **options)[0]

      return map_parts(part, batch, micro_batches, mesh)

  return jax.jit(compute)

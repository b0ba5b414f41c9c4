"""Log-probabilities of given tokens under the decoder, in chunks.

With V = 152064 the logits of one 16k-token row are 10 GB, so they exist for a
chunk of positions at a time, and are computed again in the backward pass.

A batch is a dict of arrays as `mlagent_jax.batching` makes it. Axes: B rows, T
tokens, S states, G samples of a state, A tokens of an action, D model, V
vocabulary. Log-probabilities are natural logarithms in float32.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from mlagent_jax.model.layout import layout_of
from mlagent_jax.model.sharding import (
  constrain,
  map_parts,
  on_each_device,
  on_mesh,
  split_over,
)


def token_logps(
  hidden, head, targets, *, chunk=None, temperature=1.0, entropy_gradient=False
):
  """Log-probabilities of targets, and entropies, without [B, T, V] in memory.

  Logits exist for `chunk` positions at a time, forward and backward. On a mesh
  every device has its own rows and its own part of the vocabulary; the head is
  gathered over its other axis once, and its gradient summed over devices once,
  not once a chunk.

  Args:
    hidden: [B, T, D], after the final norm.
    head: [D, V], the output weight.
    targets: [B, T] int32.
    chunk: positions of T computed at once, B * chunk * V * 4 bytes; by default
      128, or a sixteenth of T if that is more.
    temperature: divides the logits; the distribution is the sampler's.
    entropy_gradient: whether gradients flow through the entropy; it costs
      nothing in the backward pass otherwise.

  Returns:
    (logps, entropy): [B, T] float32 each.
  """

  def local(hidden, head, targets):
    head = jax.lax.all_gather(head, split_over('embed'), axis=0, tiled=True)
    return _token_logps(
      hidden, head, targets, chunk, temperature, entropy_gradient
    )

  rows = ('batch', None)
  return on_each_device(
    local, [(*rows, None), ('embed', 'vocab'), rows], (rows, rows)
  )(hidden, head.astype(hidden.dtype), targets)


def _token_logps(hidden, head, targets, chunk, temperature, entropy_gradient):
  """`token_logps` of one device: hidden [b, T, D], head [D, v]."""
  B, T, _ = hidden.shape
  V = head.shape[1]
  devices = split_over('vocab')  # what they sum are the parts of V
  first = jax.lax.axis_index(devices) * V if devices else 0
  chunk = min(chunk or max(128, -(-T // 16)), T)
  chunks = -(-T // chunk)

  def split(x):  # [B, T, …] -> [chunks, B, chunk, …]
    pad = [(0, 0)] * x.ndim
    pad[1] = (0, chunks * chunk - T)
    x = jnp.pad(x, pad).reshape(B, chunks, chunk, *x.shape[2:])
    return jnp.moveaxis(x, 1, 0)

  @jax.checkpoint
  def one_chunk(hidden, targets):
    logits = jnp.einsum(
      'btd,dv->btv', hidden, head, preferred_element_type=jnp.float32
    )
    logits /= temperature
    log_z = jax.nn.logsumexp(logits, axis=-1)
    top = jax.lax.pmax(jax.lax.stop_gradient(log_z), devices)
    log_z = jnp.log(jax.lax.psum(jnp.exp(log_z - top), devices)) + top
    # A masked sum and not a gather: the target may be another device's.
    is_target = jnp.arange(V) + first == targets[..., None]
    logps = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
    logps = jax.lax.psum(logps, devices) - log_z
    if not entropy_gradient:
      logits, log_z = jax.lax.stop_gradient((logits, log_z))
    probs = jnp.exp(logits - log_z[..., None])
    mean = jax.lax.psum(jnp.sum(probs * logits, axis=-1), devices)
    return logps, log_z - mean

  _, (logps, entropy) = jax.lax.scan(
    lambda _, x: (None, one_chunk(*x)), None, (split(hidden), split(targets))
  )

  def join(x):  # [chunks, B, chunk] -> [B, T]
    return jnp.moveaxis(x, 0, 1).reshape(B, chunks * chunk)[:, :T]

  return join(logps), join(entropy)


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
    **options: of `token_logps`.

  Returns:
    (logps, entropy) with the shape of batch['targets'].
  """
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
    temperature: of the sampler.
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

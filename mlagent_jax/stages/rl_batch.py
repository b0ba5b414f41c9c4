"""What an RL update trains on as arrays, and what it is trained towards.

Axes: R rows (a state with its G samples; more than S if late samples have rows
of their own), N groups of samples that are compared with each other.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from mlagent_jax import advantages as advantages_lib
from mlagent_jax import batching, losses, packed_groups, train_state


def telling(taken) -> np.ndarray:
  """Which rows [R] have a sample that earned other than what it is compared to.

  Of the others the group estimators make no advantage.

  Args:
    taken: `stages.rollouts.Batch`.
  """
  counted = taken.valid > 0
  highest = np.where(counted, taken.rewards, -np.inf).max(axis=-1)
  lowest = np.where(counted, taken.rewards, np.inf).min(axis=-1)
  differs = np.repeat(highest > lowest, taken.rewards.shape[1])[taken.owners]
  return (differs & taken.trained).any(axis=-1)


def most_telling(taken, rows: int):
  """The rows of a batch that teach most, in their order.

  Those that are `telling` first; what is left over fills up.

  Args:
    taken: `stages.rollouts.Batch`.
    rows: how many to take, at most all.
  """
  if rows >= len(taken.rows):
    return taken
  chosen = np.sort(np.argsort(~telling(taken), kind='stable')[:rows])
  return dataclasses.replace(
    taken,
    rows=[taken.rows[row] for row in chosen],
    slots=[taken.slots[row] for row in chosen],
    owners=taken.owners[chosen],
  )


def fitting(settings, taken):
  """A batch without the states that find no room in packed rows.

  Those that are `telling` are put in first, and what has no room gives way to
  the next that has.

  Args:
    settings: the config's `rl`.
    taken: `stages.rollouts.Batch`.

  Returns:
    The batch with as many rows, where the others are empty.
  """
  groups = [
    batching.Group(() if row is None else row.prompt_ids, actions)
    for row, actions in zip(
      taken.rows, _actions(taken, _weights(settings, taken))
    )
  ]
  kept: list[int] = []
  for row in np.argsort(~telling(taken), kind='stable').tolist():
    chosen = [groups[r] for r in (*kept, row)]
    planned = packed_groups.plan(chosen, settings.max_length)
    if len(planned) <= settings.batch_size:
      kept.append(row)
  none = [None] * len(taken.slots[0])
  return dataclasses.replace(
    taken,
    rows=[row if r in kept else None for r, row in enumerate(taken.rows)],
    slots=[s if r in kept else none for r, s in enumerate(taken.slots)],
  )


def _weights(settings, taken) -> np.ndarray:
  """Weight of each sample [R, G]: 1, or 0 where there is none.

  In packed groups room is what counts: of equal actions of a state that earned
  the same, the first has their number as weight, and the others 0. A mean over
  tokens is the same then, for they have one advantage; so are ratios of tokens.
  """
  weights = taken.trained.astype(np.int32)
  if (
    settings.layout != 'packed_groups'
    or settings.aggregation != 'token-mean'
    or settings.ratio != 'token'
  ):
    return weights
  for r, slots in enumerate(taken.slots):
    first: dict[tuple, int] = {}
    for g, done in enumerate(slots):
      if done is None:
        continue
      seconds = done.outcome.seconds if settings.duration_floor else 0.0
      reward = taken.rewards.ravel()[taken.owners[r, g]]
      like = first.setdefault((done.reply.token_ids, reward, seconds), g)
      if like != g:
        weights[r, like] += 1
        weights[r, g] = 0
  return weights


def _actions(taken, weights) -> list[list[tuple[int, ...]]]:
  """Token ids of each row's samples; none of those without weight."""
  return [
    [done.reply.token_ids if w else () for done, w in zip(slots, row)]
    for slots, row in zip(taken.slots, weights, strict=True)
  ]


def prompt_length(config, states) -> int:
  """P: of the longest prompt of the pool, or of any episode."""
  if config.rl.mode == 'step':
    return states.prompt_length
  return -(-config.agent.max_prompt_tokens // 16) * 16


def host_batch(learner, prompt_length: int, taken) -> dict[str, np.ndarray]:
  """The layout and what was recorded, as NumPy arrays.

  Args:
    learner: the model's tokenizer and config.
    prompt_length: P.
    taken: `stages.rollouts.Batch`.

  Returns:
    The layout of `batching.group_layout` or `packed_groups.packed_layout`;
    logps_sampler [R, G, A]; and, [R, G] float32, rewards, seconds (of the runs)
    and kept (0 where a slot is empty).
  """
  settings = learner.config.rl
  empty = (learner.tokenizer.pad_id,)
  prompts = [empty if row is None else row.prompt_ids for row in taken.rows]
  weights = _weights(settings, taken)
  actions = _actions(taken, weights)
  options = {
    'action_length': learner.config.agent.max_action_tokens,
    'samples': len(taken.slots[0]),
    'pad_id': learner.tokenizer.pad_id,
  }
  if settings.layout == 'packed_groups':
    batch = packed_groups.packed_layout(
      prompts,
      actions,
      rows=settings.batch_size,
      length=settings.max_length,
      **options,
    )
    batch['mask'] *= weights[..., None]
  else:
    batch = batching.group_layout(
      prompts, actions, prompt_length=prompt_length, **options
    )
  sampler = np.zeros(batch['mask'].shape, np.float32)
  seconds, kept = np.zeros((2, *sampler.shape[:2]), np.float32)
  for r, slots in enumerate(taken.slots):
    for g, done in enumerate(slots):
      if done is not None:
        sampler[r, g, : len(done.reply.logps)] = done.reply.logps
        seconds[r, g] = done.outcome.seconds
        kept[r, g] = 1.0
  return batch | {
    'logps_sampler': sampler,
    'rewards': taken.rewards.ravel()[taken.owners] * kept,
    'seconds': seconds,
    'kept': kept,
  }


def estimate(settings, batch, taken, kl_coef: float):
  """Advantages by the config's estimator, and what a critic learns.

  Args:
    settings: the config's `rl`.
    batch: of `host_batch`, with logps_ref; logps_old if the KL is in the
      reward; values if the estimator has a critic.
    taken: `stages.rollouts.Batch`, whose rewards [N, G] are compared.
    kl_coef: of the KL.

  Returns:
    NumPy arrays for the batch (advantages [R, G] or [R, G, A]; returns
    [R, G, A] for a critic; kl_coef [R] if it changes), and figures (scalars).
  """
  mask = jnp.asarray(batch['mask'])
  rewards, kl, figures = taken.rewards, None, {}
  if 'logps_old' in batch:
    kl = losses.kl_penalty(
      batch['logps_old'], batch['logps_ref'], settings.kl_estimator
    )
    total, count = losses.aggregate(kl, mask, 'token-mean')
    figures['kl'] = total / count
  in_reward = settings.kl_place == 'reward'
  if in_reward:
    # Rows of one owner (the steps of an episode) add up their KL.
    spent = train_state.fetch(jnp.sum(jnp.where(mask > 0, kl, 0.0), axis=-1))
    penalties = np.zeros(rewards.size, np.float32)
    np.add.at(penalties, taken.owners, kl_coef * spent)
    rewards = rewards - penalties.reshape(rewards.shape)
    figures['penalised_reward'] = np.sum(rewards * taken.valid) / np.sum(
      taken.valid
    )
  out = {}
  if settings.advantage == 'gae':
    per_token = advantages_lib.token_rewards(
      batch['rewards'], mask, kl=kl if in_reward else None, kl_coef=kl_coef
    )
    advantages, returns = advantages_lib.gae(
      per_token,
      batch['values'],
      mask,
      gamma=settings.gamma,
      lam=settings.gae_lambda,
    )
    explained = float(
      advantages_lib.explained_variance(batch['values'], returns, mask)
    )
    if np.isfinite(explained):  # not if all returns are equal
      figures['explained_variance'] = explained
    if settings.whiten:
      advantages = advantages_lib.whiten(
        advantages, mask, std_floor=settings.std_floor
      )
    advantages = train_state.fetch(advantages)
    out['returns'] = train_state.fetch(returns)
  else:
    compared = np.asarray(_compare(settings, rewards, taken.valid))
    advantages = compared.ravel()[taken.owners]
  if settings.duration_floor:
    weights = train_state.fetch(
      advantages_lib.duration_weights(
        batch['seconds'], floor=settings.duration_floor, valid=batch['kept']
      )
    )
    extra = (1,) * (advantages.ndim - weights.ndim)
    advantages = advantages * weights.reshape(*weights.shape, *extra)
  out['advantages'] = advantages
  if settings.kl_control == 'adaptive' and not in_reward:
    out['kl_coef'] = np.full(len(mask), kl_coef, np.float32)
  return out, figures


def _compare(settings, rewards, valid):
  """[N, G] rewards and 0/1 -> [N, G] advantages of the group estimators."""
  floor = settings.std_floor
  if settings.advantage == 'grpo':
    return advantages_lib.grpo(
      rewards, std_floor=floor, use_std=settings.use_std, valid=valid
    )
  if settings.advantage == 'rloo':
    return advantages_lib.rloo(rewards, valid=valid)
  return advantages_lib.reinforce(rewards, std_floor=floor, valid=valid)

"""Packed groups: prompts with their actions, several to a row, no slots.

The shared-prompt layout (`batching.group_layout`) has room for the longest
prompt and the longest action everywhere. Where most are much shorter, packed
groups are a fraction of its tokens: [prompt | action | action | prompt | …].

A row has, all [B, T]: tokens and positions; segment_ids (1, 2, … by group, 0
for padding); branches (0 in a prompt, 1, 2, … in its actions, see
`model.layout`); sources (where in the row the token is that predicts this one:
for the first of an action that is its prompt's last); targets (the tokens
themselves) and mask (float32, 1 on action tokens).

Axes: B rows, T tokens, S groups, G actions of a group, A action length.
"""

from collections.abc import Sequence

import numpy as np

from mlagent_jax.batching import (
  Batch,
  BatchIterator,
  Group,
  check_group,
  plan_packing,
)

# What `packed_layout` has [B, T] of; the rest is of groups.
PACKED = ('tokens', 'positions', 'segment_ids', 'branches', 'sources')

# A group, or a part of its actions: its index and those of its actions.
Piece = tuple[int, list[int]]


def plan(groups: Sequence[Group], length: int) -> list[list[Piece]]:
  """Which groups share a row: best fit, the longest first.

  A group that is longer than a row becomes several pieces, each with its
  prompt.

  Args:
    groups: those without actions are left out, and so are empty actions.
    length: T.

  Returns:
    The pieces of each row; a function of the arguments alone.

  Raises:
    ValueError: if a prompt with one of its actions is longer than a row.
  """
  pieces: list[Piece] = []
  sizes: list[int] = []
  for index, group in enumerate(groups):
    room = 0
    for g, action in enumerate(group.actions):
      if not len(action):
        continue
      if len(action) > room:
        room = length - len(group.prompt_ids)
        pieces.append((index, []))
        sizes.append(len(group.prompt_ids))
      if len(action) > room:
        raise ValueError(
          f'prompt {index} with its action {g} has'
          f' {len(group.prompt_ids) + len(action)} tokens, more than the'
          f' {length} of a row'
        )
      room -= len(action)
      pieces[-1][1].append(g)
      sizes[-1] += len(action)
  return [[pieces[i] for i in row] for row in plan_packing(sizes, length)]


def pack(
  groups: Sequence[Group],
  rows: Sequence[Sequence[Piece]],
  *,
  length: int,
  pad_id: int = 0,
) -> tuple[Batch, dict[tuple[int, int], int]]:
  """Lays pieces out in rows.

  Args:
    groups: what the pieces are of.
    rows: the pieces of each row, as of `plan`; an empty row is padding.
    length: T.
    pad_id: token of the padding.

  Returns:
    The arrays, and where each action (group, action) starts: row * T + token.
  """
  shape = (len(rows), length)
  batch = {
    'tokens': np.full(shape, pad_id, np.int32),
    'positions': np.zeros(shape, np.int32),
    'segment_ids': np.zeros(shape, np.int32),
    'branches': np.zeros(shape, np.int32),
    'sources': np.zeros(shape, np.int32),
    'mask': np.zeros(shape, np.float32),
  }
  starts = {}
  for row, pieces in enumerate(rows):
    end = 0
    for segment, (index, chosen) in enumerate(pieces, start=1):
      prompt, actions = groups[index].prompt_ids, groups[index].actions
      last = end + len(prompt) - 1
      branches = [(0, prompt), *((g, actions[g]) for g in chosen)]
      for branch, (g, ids) in enumerate(branches):
        here = np.s_[row, end : end + len(ids)]
        batch['tokens'][here] = ids
        batch['segment_ids'][here] = segment
        batch['branches'][here] = branch
        position = np.arange(len(ids)) + (len(prompt) if branch else 0)
        batch['positions'][here] = position
        if branch:
          starts[index, g] = row * length + end
          batch['mask'][here] = 1.0
          sources = np.arange(end, end + len(ids)) - 1
          sources[0] = last
          batch['sources'][here] = sources
        end += len(ids)
  batch['targets'] = batch['tokens']
  return batch, starts


def packed_layout(
  prompts: Sequence[Sequence[int]],
  actions: Sequence[Sequence[Sequence[int]]],
  *,
  rows: int,
  length: int,
  action_length: int,
  samples: int,
  pad_id: int = 0,
) -> Batch:
  """Prompts and their actions in packed rows, for losses over [S, G, A].

  Args:
    prompts: S lists of token ids.
    actions: S lists of at most G lists of token ids; empty ones are left out.
    rows: B; those that are not needed are padding.
    length: T.
    action_length: A.
    samples: G.
    pad_id: token of the padding.

  Returns:
    The arrays of packed rows with, as the shared-prompt layout has them,
    targets and mask [S, G, A] and lengths [S]; and places [S, G, A] int32, row
    * T + token of each action's tokens (0 outside of the mask).

  Raises:
    ValueError: if an action is too long or there are too many of a prompt, or
      if all need more rows.
  """
  S, G, A = len(prompts), samples, action_length
  groups = list(map(Group, prompts, actions))
  for index, group in enumerate(groups):
    check_group(index, group.prompt_ids, group.actions, length, A, G)
  planned = plan(groups, length)
  if len(planned) > rows:
    raise ValueError(
      f'{S} prompts with their actions need {len(planned)} rows of {length}'
      f' tokens, but the batch has {rows}'
    )
  planned += [[]] * (rows - len(planned))
  batch, starts = pack(groups, planned, length=length, pad_id=pad_id)
  batch['targets'] = np.zeros((S, G, A), np.int32)
  batch['mask'] = np.zeros((S, G, A), np.float32)
  batch['places'] = np.zeros((S, G, A), np.int32)
  batch['lengths'] = np.array([len(prompt) for prompt in prompts], np.int32)
  for (s, g), start in starts.items():
    n = len(actions[s][g])
    batch['targets'][s, g, :n] = actions[s][g]
    batch['mask'][s, g, :n] = 1.0
    batch['places'][s, g, :n] = start + np.arange(n)
  return batch


def packed_group_batches(
  groups: Sequence[Group],
  *,
  length: int,
  rows: int,
  seed: int,
  pad_id: int = 0,
  own_rows: Sequence[int] | None = None,
) -> BatchIterator:
  """An endless iterator over packed SFT batches of groups.

  Groups are packed into rows once; rows are shuffled every epoch.

  Args:
    groups: with a prompt and at least one action each.
    length: T.
    rows: B of the global batch.
    seed: of the shuffles.
    pad_id: token of the padding.
    own_rows: see `BatchIterator`.

  Raises:
    ValueError: as `plan` and `BatchIterator`.
  """
  return BatchIterator(
    plan(groups, length),
    lambda drawn: pack(groups, drawn, length=length, pad_id=pad_id)[0],
    batch_size=rows,
    seed=seed,
    own_rows=own_rows,
  )

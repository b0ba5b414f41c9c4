"""From token ids to arrays: packing, the shared-prompt layout, the iterator.

Two layouts, and a third in `packed_groups`. All are dicts of NumPy arrays that
`model.logps.batch_logps` takes:

- packed (`pack_sft`): rows of whole examples, one segment each. `targets` and
  `mask` are [B, T]; the hidden state at t predicts targets[:, t].
- shared prompt (`group_layout`): [prompt padded to P | G slots of A tokens] a
  row. `targets` and `mask` are [S, G, A]; token 0 of every slot is predicted
  from the prompt's last token.

All have tokens, positions and segment_ids [B, T] int32, see `model.layout`.
Only action tokens are in the mask (float32).

Axes: B rows, T tokens, S states (prompts), G actions of a prompt, P prompt
length, A action length.
"""

import bisect
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import grain
import numpy as np

Batch = dict[str, np.ndarray]

_EPOCHS = 1_000_000  # endless; grain's own endless overflows in batches of 1


@dataclasses.dataclass(frozen=True)
class Example:
  """A prompt and one action, as token ids; the action ends with its stop."""

  prompt_ids: Sequence[int]
  action_ids: Sequence[int]

  def __len__(self):
    return len(self.prompt_ids) + len(self.action_ids)


@dataclasses.dataclass(frozen=True)
class Group:
  """A prompt and its actions, as token ids."""

  prompt_ids: Sequence[int]
  actions: Sequence[Sequence[int]]


# --- Packing ----------------------------------------------------------------


def plan_packing(sizes: Sequence[int], length: int) -> list[list[int]]:
  """Which examples share a row: best fit, the longest first.

  Args:
    sizes: tokens of each example.
    length: T, tokens of a row.

  Returns:
    For each row the indices of its examples. The plan is a function of the
    arguments alone.

  Raises:
    ValueError: if an example is longer than a row.
  """
  rows: list[list[int]] = []
  open_rows: list[tuple[int, int]] = []  # sorted (free tokens, row)
  for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
    size = sizes[index]
    if size > length:
      raise ValueError(
        f'example {index} has {size} tokens, more than the {length} of a row'
      )
    place = bisect.bisect_left(open_rows, (size, -1))
    if place == len(open_rows):
      free, row = length, len(rows)
      rows.append([])
    else:
      free, row = open_rows.pop(place)
    rows[row].append(index)
    bisect.insort(open_rows, (free - size, row))
  return rows


def _pack_rows(rows: Sequence[Sequence[Example]], length, pad_id) -> Batch:
  shape = (len(rows), length)
  batch = {
    'tokens': np.full(shape, pad_id, np.int32),
    'positions': np.zeros(shape, np.int32),
    'segment_ids': np.zeros(shape, np.int32),
    'targets': np.zeros(shape, np.int32),
    'mask': np.zeros(shape, np.float32),
  }
  for row, examples in enumerate(rows):
    start = 0
    for segment, example in enumerate(examples, start=1):
      tokens = [*example.prompt_ids, *example.action_ids]
      here = np.s_[row, start : start + len(tokens)]
      batch['tokens'][here] = tokens
      batch['positions'][here] = np.arange(len(tokens))
      batch['segment_ids'][here] = segment
      # The position before a token predicts it.
      first = start + len(example.prompt_ids) - 1
      predicting = np.s_[row, first : first + len(example.action_ids)]
      batch['targets'][predicting] = example.action_ids
      batch['mask'][predicting] = 1.0
      start += len(tokens)
  return batch


def _check_examples(examples: Sequence[Example]):
  for index, example in enumerate(examples):
    if not len(example.prompt_ids) or not len(example.action_ids):
      raise ValueError(
        f'example {index} has {len(example.prompt_ids)} prompt and'
        f' {len(example.action_ids)} action tokens; it needs both'
      )


def pack_sft(
  examples: Sequence[Example], *, length: int, rows: int, pad_id: int = 0
) -> Batch:
  """Packs examples, several to a row, into one batch.

  Args:
    examples: with a prompt and an action each.
    length: T.
    rows: B; rows that are not needed are padding.
    pad_id: token of the padding.

  Returns:
    The packed layout, [rows, length].

  Raises:
    ValueError: if an example is empty or longer than a row, or if all together
      need more rows.
  """
  _check_examples(examples)
  plan = plan_packing([len(example) for example in examples], length)
  if len(plan) > rows:
    raise ValueError(
      f'{len(examples)} examples need {len(plan)} rows of {length} tokens, but'
      f' the batch has {rows}'
    )
  plan += [[]] * (rows - len(plan))
  filled = [[examples[i] for i in row] for row in plan]
  return _pack_rows(filled, length, pad_id)


# --- Shared prompt ----------------------------------------------------------


def group_examples(examples: Sequence[Example], size: int) -> list[Group]:
  """Groups examples of equal prompts, at most `size` actions a group.

  Groups stand in the order of their first examples, actions in theirs.
  """
  actions: dict[tuple[int, ...], list[Sequence[int]]] = {}
  for example in examples:
    actions.setdefault(tuple(example.prompt_ids), []).append(example.action_ids)
  return [
    Group(prompt, group[start : start + size])
    for prompt, group in actions.items()
    for start in range(0, len(group), size)
  ]


def check_group(
  index: int,
  prompt: Sequence[int],
  actions: Sequence[Sequence[int]],
  P: int,
  A: int,
  G: int,
) -> None:
  """Raises ValueError, with the group's index, if it fits no [P | G * A]."""
  if not 1 <= len(prompt) <= P:
    raise ValueError(
      f'prompt {index} has {len(prompt)} tokens; prompts have 1 to {P}'
    )
  if len(actions) > G:
    raise ValueError(
      f'prompt {index} has {len(actions)} actions, not up to {G}'
    )
  for g, action in enumerate(actions):
    if len(action) > A:
      raise ValueError(
        f'action {g} of prompt {index} has {len(action)} tokens, more than {A}'
      )


def group_layout(
  prompts: Sequence[Sequence[int]],
  actions: Sequence[Sequence[Sequence[int]]],
  *,
  prompt_length: int,
  action_length: int,
  samples: int | None = None,
  pad_id: int = 0,
) -> Batch:
  """Lays prompts and their actions out as [prompt | G action slots] rows.

  Args:
    prompts: S lists of token ids.
    actions: S lists of at most G lists of token ids. A missing or empty action
      leaves its slot out of the mask.
    prompt_length: P; slot g starts at P + g * A in every row.
    action_length: A.
    samples: G; the most actions of a prompt by default.
    pad_id: token of the padding.

  Returns:
    The shared-prompt layout: the three [S, P + G * A] arrays, `targets` and
    `mask` [S, G, A], and `lengths` [S] int32 of the prompts. Positions of every
    action go on from its prompt's length.

  Raises:
    ValueError: if a prompt is empty, or something is too long or too many.
  """
  S, P, A = len(prompts), prompt_length, action_length
  if len(actions) != S:
    raise ValueError(f'{S} prompts, but actions of {len(actions)}')
  G = max(map(len, actions), default=0) if samples is None else samples
  shape = (S, P + G * A)
  batch = {
    'tokens': np.full(shape, pad_id, np.int32),
    'positions': np.zeros(shape, np.int32),
    'segment_ids': np.zeros(shape, np.int32),
    'targets': np.zeros((S, G, A), np.int32),
    'mask': np.zeros((S, G, A), np.float32),
    'lengths': np.zeros(S, np.int32),
  }
  for s, (prompt, group) in enumerate(zip(prompts, actions)):
    check_group(s, prompt, group, P, A, G)
    batch['lengths'][s] = len(prompt)
    batch['tokens'][s, : len(prompt)] = prompt
    batch['positions'][s, : len(prompt)] = np.arange(len(prompt))
    batch['segment_ids'][s, : len(prompt)] = 1
    for g, action in enumerate(group):
      n = len(action)
      here = np.s_[s, P + g * A : P + g * A + n]
      batch['tokens'][here] = action
      batch['positions'][here] = len(prompt) + np.arange(n)
      batch['segment_ids'][here] = 1
      batch['targets'][s, g, :n] = action
      batch['mask'][s, g, :n] = 1.0
  return batch


# --- Iterators --------------------------------------------------------------


class BatchIterator(Iterator[Batch]):
  """An endless, deterministic, checkpointable iterator over batches.

  Every epoch is a fresh shuffle of all elements by (seed, epoch); a batch may
  span two epochs, so that nothing is dropped. Batch number k is a function of
  the elements, the seed and the global batch size alone; with several processes
  each makes its own rows of every global batch.

  Args:
    elements: what is drawn.
    make_batch: elements of one batch (of this process) -> arrays.
    batch_size: elements of a global batch.
    seed: of the shuffles.
    own_rows: which elements of every batch to make, as of
      `train_state.own_rows`; None for all.

  Raises:
    ValueError: if there are no elements, or a row is not in the batch.
  """

  def __init__(
    self,
    elements: Sequence,
    make_batch: Callable[[Sequence], Batch],
    *,
    batch_size: int,
    seed: int,
    own_rows: Sequence[int] | None = None,
  ):
    if not elements:
      raise ValueError('no examples to draw batches from')
    mine = np.arange(batch_size) if own_rows is None else np.asarray(own_rows)
    if not len(mine) or mine.min() < 0 or mine.max() >= batch_size:
      raise ValueError(f'rows {mine.tolist()} of a batch of {batch_size}')
    self._identity = {
      'elements': len(elements),
      'batch_size': batch_size,
      'seed': seed,
    }
    self._num_elements = len(elements)
    self._batch_size = batch_size
    self._batches = iter(
      grain.MapDataset.range(len(elements))
      .shuffle(seed=seed)
      .repeat(_EPOCHS)
      .batch(batch_size)
      .map(lambda indices: make_batch([elements[i] for i in indices[mine]]))
      .to_iter_dataset(grain.ReadOptions(num_threads=1))
    )

  def __next__(self) -> Batch:
    return next(self._batches)

  @property
  def epoch(self) -> float:
    """Epochs drawn so far, as a fraction."""
    drawn = self._batches.get_state()['next_index'] * self._batch_size
    return drawn / self._num_elements

  def get_state(self) -> dict:
    """The position, as JSON; `set_state` goes back to it exactly."""
    return {'position': self._batches.get_state(), **self._identity}

  def set_state(self, state: Mapping):
    """Goes to the position of a `get_state` of an equal iterator.

    Raises:
      ValueError: if the state is of other data, batch size or seed.
    """
    differ = [
      f'{key} {state.get(key)} then, {value} now'
      for key, value in self._identity.items()
      if state.get(key) != value
    ]
    if differ:
      raise ValueError(
        f'the state of the data iterator does not fit: {"; ".join(differ)}'
      )
    self._batches.set_state(dict(state['position']))


def packed_batches(
  examples: Sequence[Example],
  *,
  length: int,
  rows: int,
  seed: int,
  pad_id: int = 0,
  own_rows: Sequence[int] | None = None,
) -> BatchIterator:
  """An endless iterator over packed SFT batches.

  Examples are packed into rows once; rows are shuffled every epoch.

  Args:
    examples: the training set.
    length: T.
    rows: B of the global batch.
    seed: of the shuffles.
    pad_id: token of the padding.
    own_rows: see `BatchIterator`.

  Raises:
    ValueError: as `pack_sft` and `BatchIterator`.
  """
  _check_examples(examples)
  plan = plan_packing([len(example) for example in examples], length)
  return BatchIterator(
    [[examples[i] for i in row] for row in plan],
    lambda drawn: _pack_rows(drawn, length, pad_id),
    batch_size=rows,
    seed=seed,
    own_rows=own_rows,
  )


def group_batches(
  groups: Sequence[Group],
  *,
  prompt_length: int,
  action_length: int,
  samples: int,
  prompts_per_batch: int,
  seed: int,
  pad_id: int = 0,
  own_rows: Sequence[int] | None = None,
) -> BatchIterator:
  """An endless iterator over shared-prompt SFT batches.

  Args:
    groups: as of `group_examples(examples, samples)`.
    prompt_length: P.
    action_length: A.
    samples: G.
    prompts_per_batch: S of the global batch.
    seed: of the shuffles.
    pad_id: token of the padding.
    own_rows: see `BatchIterator`.

  Raises:
    ValueError: as `group_layout`, for all groups at once, and `BatchIterator`.
  """

  def make_batch(drawn: Sequence[Group]) -> Batch:
    return group_layout(
      [group.prompt_ids for group in drawn],
      [group.actions for group in drawn],
      prompt_length=prompt_length,
      action_length=action_length,
      samples=samples,
      pad_id=pad_id,
    )

  lengths = prompt_length, action_length, samples
  for index, group in enumerate(groups):
    check_group(index, group.prompt_ids, group.actions, *lengths)
  return BatchIterator(
    groups,
    make_batch,
    batch_size=prompts_per_batch,
    seed=seed,
    own_rows=own_rows,
  )

"""At least 100 ideas for a task from a chat model, without repeats.

The model is asked for a list at a time, is told what it has said already, and
is asked again until there are enough. Two ideas are the same if their words
are, or if their n-gram embeddings nearly coincide.
"""

import re
from collections.abc import Callable, Sequence

from mlagent_jax.exploration import diversity
from mlagent_jax.exploration.chat import ChatModel

_ITEM = re.compile(r'^\s*(?:\d+[.):]|[-*])\s+(.*\S)', re.MULTILINE)
_EMPTY_ROUNDS = 4

_ASK = """The script below is the starting point for this problem.

Problem: {description}

```python
{script}
```

Write {count} different ideas to make its {metric} {better}. Each is one\
 sentence that names one concrete change of the script (features, model,\
 training, predictions), in a line of its own that begins with its number.\
 Range widely: ideas of different families, safe and risky ones, not one idea\
 with other numbers.{said}"""


class TooFewIdeasError(RuntimeError):
  """The model did not come up with enough different ideas."""


def write_ideas(
  model: ChatModel,
  task,
  script: str,
  count: int,
  *,
  per_request: int = 25,
  max_tokens: int = 2048,
  near: float = 0.1,
  seed: int = 0,
  on_done: Callable[[int], None] = lambda new: None,
) -> list[str]:
  """`count` different ideas, in the order in which they came.

  Args:
    model: who writes.
    task: its card (description, metric, scale).
    script: the starter.
    count: how many.
    per_request: ideas asked for at once.
    max_tokens: of one answer.
    near: ideas less far apart than this (of at most 2 ** 0.5) are the same.
    seed: of the model.
    on_done: called with the number of new ideas after each answer.

  Raises:
    TooFewIdeasError: after several answers without a new one; says how many
      there are.
  """
  found: list[str] = []
  empty = rounds = 0
  while len(found) < count:
    (answer,) = model.complete(
      [
        {'role': 'user', 'content': _question(task, script, per_request, found)}
      ],
      max_tokens=max_tokens,
      temperature=1.0,
      seed=seed + rounds,
    )
    rounds += 1
    items = _ITEM.findall(answer.text)
    if answer.finish_reason == 'length':
      items = items[:-1]  # the last one is cut
    before = len(found)
    found = distinct([*found, *items], near=near)[:count]
    on_done(len(found) - before)
    empty = 0 if len(found) > before else empty + 1
    if empty == _EMPTY_ROUNDS:
      raise TooFewIdeasError(
        f'{model.name!r} wrote {len(found)} different ideas for {task.name}, of'
        f' {count} wanted; its last {empty} answers had no new one. The last'
        f' began: {answer.text[:200]!r}'
      )
  return found


def distinct(texts: Sequence[str], *, near: float) -> list[str]:
  """The texts without those that say what an earlier one says.

  Args:
    texts: ideas.
    near: the least distance of n-gram embeddings; 0 compares words alone.
  """
  words, kept = set(), []
  for text in texts:
    key = ' '.join(re.findall(r'\w+', text.lower()))
    if key and key not in words:
      words.add(key)
      kept.append(text.strip())
  if not kept:
    return []
  apart = diversity.distances(diversity.ngram_embedding(kept))
  chosen: list[int] = []
  for index in range(len(kept)):
    if all(apart[index, other] >= near for other in chosen):
      chosen.append(index)
  return [kept[index] for index in chosen]


def _question(task, script: str, count: int, found: Sequence[str]) -> str:
  better = 'higher' if task.scale.higher_is_better else 'lower'
  said = ''
  if found:
    listed = '\n'.join(f'- {idea}' for idea in found[-60:])
    said = f'\n\nThese have been said already; write others:\n{listed}'
  return _ASK.format(
    description=task.description.strip(),
    script=script,
    count=count,
    metric=task.metric,
    better=better,
    said=said,
  )

"""The same model in ours and in transformers' torch, side by side."""

import dataclasses

import numpy as np

from mlagent_jax.model.hf_forward import Forward
from mlagent_jax.model.hf_source import Source
from mlagent_jax.model.safetensors_files import WeightsError


@dataclasses.dataclass(frozen=True)
class Report:
  """What `compare` found.

  Attributes:
    logps: the largest difference of a log-probability, in nats.
    logits: the largest difference of a logit.
    top: share of positions where both rank the same token first.
    ours: greedy continuation of the first row.
    theirs: that of transformers.
  """

  logps: float
  logits: float
  top: float
  ours: list[int]
  theirs: list[int]

  def equal(self, tolerance: float) -> bool:
    """Whether log-probabilities and the continuation are the same."""
    return self.logps <= tolerance and self.ours == self.theirs

  def __str__(self):
    n = len(self.ours)
    same = sum(a == b for a, b in zip(self.ours, self.theirs, strict=True))
    return (
      f'largest difference of a log-probability: {self.logps:.2e}\n'
      f'largest difference of a logit:           {self.logits:.2e}\n'
      f'same first choice:                       {self.top:.2%}\n'
      f'greedy continuation, same tokens:        {same} of {n}'
    )


def compare(
  source: Source, *, rows: int, length: int, new_tokens: int, seed: int = 0
) -> Report:
  """Computes random tokens with both, in float32.

  Args:
    source: the model.
    rows: B.
    length: T.
    new_tokens: greedy ones after the first row's first half.
    seed: of the tokens.

  Raises:
    WeightsError: if torch is not installed.
  """
  try:
    import torch
    import transformers
  except ImportError as error:
    raise WeightsError(
      f'check compares with transformers and torch; {error.name} is not'
      ' installed (pip install torch)'
    ) from error
  ours = Forward(source)
  generator = np.random.default_rng(seed)
  tokens = generator.integers(0, ours.config.vocab_size, (rows, length))
  start = tokens[0, : max(1, length // 2)].tolist()
  our_logits = ours.logits(tokens)
  our_next = ours.greedy(start, new_tokens)
  del ours  # its weights, before theirs come

  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    **source.transformers_path(), dtype=torch.float32
  ).eval()
  with torch.no_grad():
    their_logits = theirs(torch.tensor(tokens)).logits.numpy()
    row = torch.tensor([start])
    for _ in range(new_tokens):
      last = theirs(row).logits[:, -1].argmax(-1, keepdim=True)
      row = torch.cat([row, last], dim=1)
  return Report(
    logps=float(np.abs(_logps(our_logits) - _logps(their_logits)).max()),
    logits=float(np.abs(our_logits - their_logits).max()),
    top=float(np.mean(our_logits.argmax(-1) == their_logits.argmax(-1))),
    ours=our_next,
    theirs=row[0, len(start) :].tolist(),
  )


def _logps(logits: np.ndarray) -> np.ndarray:
  """log softmax over the last axis, float64."""
  wide = logits.astype(np.float64)
  wide -= wide.max(axis=-1, keepdims=True)
  return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))

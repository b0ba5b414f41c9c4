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
    greedy: for each token of transformers' greedy continuation, whether ours
      would have taken it too; all: ours is the same continuation.
  """

  logps: float
  logits: float
  top: float
  greedy: list[bool]

  def equal(self, tolerance: float) -> bool:
    """Whether log-probabilities and the continuation are the same."""
    return self.logps <= tolerance and all(self.greedy)

  def __str__(self):
    return (
      f'largest difference of a log-probability: {self.logps:.2e}\n'
      f'largest difference of a logit:           {self.logits:.2e}\n'
      f'same first choice:                       {self.top:.2%}\n'
      f'greedy continuation, same tokens:        {sum(self.greedy)} of'
      f' {len(self.greedy)}'
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
  V = source.model_config().vocab_size
  tokens = np.random.default_rng(seed).integers(0, V, (rows, length))
  start = tokens[:1, : max(1, length // 2)]
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    **source.transformers_path(), dtype=torch.float32
  ).eval()
  with torch.no_grad():
    their_logits = theirs(torch.tensor(tokens)).logits.numpy()
    text = theirs.generate(
      torch.tensor(start),
      attention_mask=torch.ones(start.shape, dtype=torch.long),
      do_sample=False,
      max_new_tokens=new_tokens,
      min_new_tokens=new_tokens,
    ).numpy()
  del theirs  # its weights, before ours come
  ours = Forward(source)
  our_logits = ours.logits(tokens)
  # Given the same text so far, each choice is the same: so is the whole.
  choices = ours.logits(text)[0, start.shape[1] - 1 : -1].argmax(-1)
  return Report(
    logps=float(np.abs(_logps(our_logits) - _logps(their_logits)).max()),
    logits=float(np.abs(our_logits - their_logits).max()),
    top=float(np.mean(our_logits.argmax(-1) == their_logits.argmax(-1))),
    greedy=(choices == text[0, start.shape[1] :]).tolist(),
  )


def _logps(logits: np.ndarray) -> np.ndarray:
  """Log softmax over the last axis, float64."""
  wide = logits.astype(np.float64)
  wide -= wide.max(axis=-1, keepdims=True)
  return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))

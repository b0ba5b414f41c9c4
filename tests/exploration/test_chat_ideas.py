"""Ideas of a chat model: enough of them, and no two the same."""

import subprocess
import sys
import types

import numpy as np
import pytest

from mlagent_jax.exploration import chat_ideas, diversity, embeddings
from mlagent_jax.exploration.chat import Completion

TASK = types.SimpleNamespace(
  name='line',
  description='Predict y from x.',
  metric='mae',
  scale=types.SimpleNamespace(higher_is_better=False),
)
MODELS = 'ridge lasso forest boosting neighbours kernels splines trees'.split()
PLACES = 'log ranks squares ratios clusters bins medians differences'.split()


class Writer:
  """Writes lists; says old ideas again, in other letters, as models do."""

  name = 'writer'

  def __init__(self, texts, reason='stop'):
    self.texts, self.reason, self.questions = list(texts), reason, []

  def complete(self, messages, *, max_tokens, temperature, seed, n=1, stop=()):
    self.questions.append(messages[0]['content'])
    return [Completion(self.texts.pop(0), self.reason)]


def listed(ideas):
  return 'Here are ideas:\n' + '\n'.join(
    f'{number}. {idea}' for number, idea in enumerate(ideas, 1)
  )


def test_asks_until_there_are_enough_and_drops_repeats():
  ideas = [f'Model: fit {m} on {p} of x.' for m in MODELS for p in PLACES]
  again = [idea.upper() for idea in ideas[:10]]
  writer = Writer(
    [listed(ideas[:30]), listed(again + ideas[20:45]), listed(ideas[45:])]
  )
  news = []
  found = chat_ideas.write_ideas(
    writer, TASK, 'SLOPE = 1.0', 60, near=0.0, on_done=news.append
  )
  assert found == ideas[:60]
  assert news == [30, 15, 15]
  assert 'mae lower' in writer.questions[0]
  assert 'have been said already' not in writer.questions[0]
  assert ideas[29] in writer.questions[1]


def test_near_duplicates_are_the_same_idea():
  texts = [
    'Model: grow a random forest of 100 trees.',
    'Model: grow the random forest of 100 trees!',
    'Predictions: clip to the range of the targets.',
  ]
  kept = chat_ideas.distinct(texts, near=0.1)
  assert kept == [texts[0], texts[2]]
  apart = diversity.distances(diversity.ngram_embedding(kept))
  assert apart[0, 1] >= 0.1


def test_a_model_without_new_ideas_is_an_error_with_numbers():
  writer = Writer([listed(['Model: fit ridge.'])] * 9)
  with pytest.raises(
    chat_ideas.TooFewIdeasError, match=r'1 different.* of 5 wanted'
  ):
    chat_ideas.write_ideas(writer, TASK, '', 5)


def test_a_cut_answer_loses_its_last_line_only():
  texts = [listed(['Model: fit ridge.', 'Features: add the sq'])]
  texts += [listed(['Rows: drop outliers.', 'Model: x'])]
  found = chat_ideas.write_ideas(Writer(texts, 'length'), TASK, '', 2)
  assert found == ['Model: fit ridge.', 'Rows: drop outliers.']


def test_embedding_is_never_replaced_by_another():
  assert embeddings.make_embedding('ngram') is diversity.ngram_embedding
  with pytest.raises(embeddings.EmbeddingError, match="'words' is none of"):
    embeddings.make_embedding('words')
  code = (
    'import sys; sys.modules["torch"] = None\n'
    'from mlagent_jax.exploration import embeddings\n'
    'try: embeddings.make_embedding("sentence")\n'
    'except embeddings.EmbeddingError as error: print(error)\n'
  )
  ran = subprocess.run([sys.executable, '-c', code], capture_output=True)
  assert b"needs torch: pip install 'mlagent_jax[embeddings]'" in ran.stdout


@pytest.mark.torch
def test_a_folder_without_a_model_is_told(tmp_path):
  with pytest.raises(embeddings.EmbeddingError, match='config.json is missing'):
    embeddings.make_embedding('sentence', str(tmp_path))


@pytest.mark.torch
@pytest.mark.embeddings
def test_sentence_embedding_is_the_one_of_its_card():
  import torch
  import transformers

  embed = embeddings.make_embedding('sentence')
  texts = [
    'Model: boost decision trees.',
    'Use gradient boosting machines.',
    'Drop rows with missing values, please, all of them.',
  ]
  vectors = embed(texts)
  assert vectors.shape == (3, 384)
  assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
  # Each text alone, without padding, by the model itself.
  place = str(embeddings.packaged_folder())
  tokenizer = transformers.AutoTokenizer.from_pretrained(place)
  model = transformers.AutoModel.from_pretrained(place).eval()
  for text, vector in zip(texts, vectors, strict=True):
    with torch.no_grad():
      hidden = model(**tokenizer(text, return_tensors='pt'))
    mean = hidden.last_hidden_state[0].mean(0)
    assert vector == pytest.approx((mean / mean.norm()).numpy(), abs=1e-5)
  apart = diversity.distances(vectors)
  assert apart[0, 1] < apart[0, 2]

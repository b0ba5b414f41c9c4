"""Tokenizers give back what they got, and end replies as templates do."""

import subprocess
import sys

import pytest

from mlagent_jax.agent import tokenizer as tokenizer_lib

TEXTS = [
  f'cells: accuracy, higher is better\ninit 0.7{i} now 0.7{i}1\n'
  f'train.py\n1 import pandas as pd\n2 x = scaler.fit(train, {i})\n'
  f'{i} model = LogisticRegression(C={i}.0)\n'
  for i in range(1, 40)
] + [
  f'Thought: Model: grow a forest of {i} trees.\nAction: Edit Script Lines\n'
  f'Action Input: train.py {i}-{i + 1}\nmodel = RandomForestClassifier({i})'
  for i in range(1, 40)
]
ODD = '  tabs\tand\nlines\r\n\n – é ∆ 🙂 \x00 12-13 "quoted" \\n  end '

# Qwen2.5's template, cut to what matters here.
QWEN_TEMPLATE = (
  "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n"
  'You are helpful.<|im_end|>\n{% endif %}'
  "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n'"
  " + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MESSAGES = [
  {'role': 'system', 'content': 'You improve scripts.'},
  {'role': 'user', 'content': 'train.py\n1 import numpy'},
  {'role': 'assistant', 'content': 'Thought: look'},
  {'role': 'user', 'content': 'Observation: done'},
]


@pytest.fixture(scope='module')
def toy():
  return tokenizer_lib.ToyTokenizer.train(TEXTS, vocab_size=600)


def qwen_like(template=QWEN_TEMPLATE, eos='<|endoftext|>'):
  """A byte-level BPE tokenizer with Qwen's special tokens."""
  import tokenizers
  import transformers
  from tokenizers import decoders, models, pre_tokenizers, trainers

  inner = tokenizers.Tokenizer(models.BPE())
  inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  inner.decoder = decoders.ByteLevel()
  special = ['<|endoftext|>', '<|im_start|>', '<|im_end|>']
  inner.train_from_iterator(
    TEXTS,
    trainers.BpeTrainer(
      vocab_size=600,
      special_tokens=special,
      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
      show_progress=False,
    ),
  )
  made = transformers.PreTrainedTokenizerFast(
    tokenizer_object=inner, eos_token=eos, pad_token='<|endoftext|>'
  )
  made.chat_template = template
  return made


def test_toy_round_trip(toy):
  for text in [*TEXTS, ODD, '', 'words that it never saw: Zürich']:
    ids = toy.encode_action(text)
    assert ids[-1] == toy.end_id and toy.end_id not in ids[:-1]
    assert toy.decode(ids) == text
    assert toy.decode([*ids, toy.pad_id, toy.pad_id]) == text
    assert all(0 <= i < toy.vocab_size for i in ids)


def test_toy_prompt_is_the_plain_rendering(toy):
  ids = toy.encode_prompt(MESSAGES)
  assert toy.decode(ids) == tokenizer_lib.render_plain(MESSAGES)
  assert toy.end_id not in ids and toy.pad_id not in ids


def test_toy_leaves_out_the_ids_of_a_padded_vocabulary(toy):
  ids = toy.encode_action('x = 1')
  padded = [toy.vocab_size, *ids, toy.vocab_size + 500]
  assert toy.decode(padded) == 'x = 1'


def test_toy_training_is_deterministic_and_ignores_order(toy, tmp_path):
  again = tokenizer_lib.ToyTokenizer.train(reversed(TEXTS), vocab_size=600)
  toy.save(tmp_path / 'a')
  again.save(tmp_path / 'b')
  (a,) = (tmp_path / 'a').iterdir()
  (b,) = (tmp_path / 'b').iterdir()
  assert a.read_bytes() == b.read_bytes()


def test_toy_line_numbers_are_tokens_of_their_own(toy):
  # Pointing at line 23 is copying the token that stands before the line.
  for number in (1, 9, 23, 40):
    (token,) = toy.encode_action(str(number))[:-1]
    listing = toy.encode_action(f'\n{number} model = LogisticRegression(')
    assert listing[1] == token
    assert token in toy.encode_action(f'train.py {number}-{number}\nx = 1')


def test_toy_pieces_span_words(toy):
  pieces = [toy.decode([i]) for i in toy.encode_action(TEXTS[-1])[:-1]]
  assert any(len(piece.split()) >= 3 for piece in pieces)
  assert len(pieces) < len(TEXTS[-1]) / 3


def test_toy_loads_without_transformers(toy, tmp_path):
  toy.save(tmp_path)
  code = (
    'import sys\n'
    'from mlagent_jax.agent import tokenizer\n'
    f't = tokenizer.load({str(tmp_path)!r})\n'
    f'assert t.decode(t.encode_action({ODD!r})) == {ODD!r}\n'
    "assert not {'transformers', 'torch', 'jax'} & set(sys.modules)\n"
  )
  subprocess.run([sys.executable, '-c', code], check=True)


def test_toy_without_text_is_an_error():
  with pytest.raises(ValueError, match='no text'):
    tokenizer_lib.ToyTokenizer.train([])


def test_chat_template_renders_prompt_and_ends_reply():
  inner = qwen_like()
  chat = tokenizer_lib.ChatTokenizer(inner)
  end = inner.convert_tokens_to_ids('<|im_end|>')
  eos = inner.convert_tokens_to_ids('<|endoftext|>')
  assert chat.end_id == end
  assert chat.stop_ids == tuple(sorted((end, eos)))
  assert chat.pad_id == eos
  assert chat.vocab_size == len(inner)
  # Prompt and action together are what the template makes of the whole.
  reply = 'Thought: scale\nAction: List Files\nAction Input: {"dir_path": "."}'
  whole = inner.apply_chat_template(
    [*MESSAGES, {'role': 'assistant', 'content': reply}], tokenize=False
  )
  whole = inner(whole, add_special_tokens=False)['input_ids']
  joined = [*chat.encode_prompt(MESSAGES), *chat.encode_action(reply)]
  assert joined == whole[: len(joined)]
  assert inner.decode(whole[len(joined) :]).strip() == ''


def test_chat_round_trip():
  chat = tokenizer_lib.ChatTokenizer(qwen_like())
  for text in [*TEXTS[:3], ODD]:
    ids = chat.encode_action(text)
    assert ids[-1] == chat.end_id
    assert chat.decode([*ids, chat.pad_id]) == text


def test_special_tokens_in_a_text_are_only_text():
  # A script may print '<|im_end|>'; that must not end a turn.
  chat = tokenizer_lib.ChatTokenizer(qwen_like())
  printed = 'it printed <|im_end|>\n<|im_start|>assistant\nand <|endoftext|>'
  plain = [{'role': 'user', 'content': 'it printed'}]
  ids = chat.encode_prompt([{'role': 'user', 'content': printed}])
  for token in (chat.end_id, *chat.stop_ids):
    assert ids.count(token) == chat.encode_prompt(plain).count(token)
  assert chat.end_id not in chat.encode_action(printed)[:-1]


def test_without_template_the_text_is_plain():
  chat = tokenizer_lib.ChatTokenizer(qwen_like(template=None))
  ids = chat.encode_prompt(MESSAGES)
  assert chat.decode(ids) == tokenizer_lib.render_plain(MESSAGES)
  assert chat.stop_ids == (chat.end_id,)


def test_a_tokenizer_that_cannot_end_a_reply_is_an_error():
  with pytest.raises(ValueError, match='could never end'):
    tokenizer_lib.ChatTokenizer(qwen_like(template=None, eos=None))


def test_chat_tokenizer_saves_and_loads(tmp_path):
  chat = tokenizer_lib.ChatTokenizer(qwen_like())
  chat.save(tmp_path)
  again = tokenizer_lib.load(tmp_path)
  assert again.encode_prompt(MESSAGES) == chat.encode_prompt(MESSAGES)
  assert again.stop_ids == chat.stop_ids


def test_a_publishers_other_stop_tokens_stop_too(tmp_path):
  # As Qwen's Instruct models: a turn's end is the tokenizer's end of text.
  inner = qwen_like(eos='<|im_end|>')
  tokenizer_lib.ChatTokenizer(inner).save(tmp_path)
  end, text_end = inner.convert_tokens_to_ids(['<|im_end|>', '<|endoftext|>'])
  assert tokenizer_lib.load(tmp_path).stop_ids == (end,)
  (tmp_path / 'generation_config.json').write_text(
    f'{{"eos_token_id": [{end}, {text_end}]}}'
  )
  loaded = tokenizer_lib.load(tmp_path)
  assert loaded.stop_ids == tuple(sorted((end, text_end)))
  assert loaded.end_id == end

"""Tokenizers of the policy: a Hugging Face one, and the toy's SentencePiece.

Both have one interface, `Tokenizer`. A prompt is a list of chat messages, an
action is text plus the one token that ends it. What a policy sampled is kept
as token ids and never encoded again; `encode_action` is for the expert's
replies. transformers is imported only when one of its tokenizers is loaded:
workers never need it.
"""

import io
import json
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

Message = dict[str, str]  # {'role': system | user | assistant, 'content': …}

_MODEL_FILE = 'toy_tokenizer.model'
_SENTINEL = 'sentinel'


class Tokenizer(Protocol):
  """What stages and rollout use of a tokenizer.

  Attributes:
    vocab_size: ids are below it (a model's vocabulary may be padded more).
    pad_id: fills rows; never the end of an action in a loss, thanks to masks.
    end_id: the token that `encode_action` appends.
    stop_ids: tokens at which sampling stops, `end_id` among them.
  """

  vocab_size: int
  pad_id: int
  end_id: int
  stop_ids: tuple[int, ...]

  def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
    """Ids of the messages, up to where the assistant's next reply begins."""

  def encode_action(self, text: str) -> list[int]:
    """Ids of one reply, the end token included."""

  def encode_text(self, text: str) -> list[int]:
    """Ids of a text as it is, without any template."""

  def decode(self, ids: Sequence[int]) -> str:
    """The text of a reply's ids; stop and padding tokens are left out.

    So are ids above the tokenizer's own, which a model's padded vocabulary has.
    """

  def save(self, folder: str | os.PathLike) -> None:
    """Writes what `load` needs to give the same tokenizer back."""


def render_plain(messages: Sequence[Message]) -> str:
  """The messages as plain text, for tokenizers without a chat template."""
  return '\n\n'.join(message['content'] for message in messages) + '\n'


class ChatTokenizer:
  """A transformers tokenizer, with its chat template if it has one."""

  def __init__(self, tokenizer: Any, stop_ids: Iterable[int] = ()):
    """Wraps a transformers tokenizer.

    Args:
      tokenizer: the tokenizer.
      stop_ids: where sampling stops besides the end of a reply and of a text.

    Raises:
      ValueError: if it has neither a chat template nor an end-of-text token.
    """
    self.tokenizer = tokenizer
    self.vocab_size = len(tokenizer)
    special = sorted(tokenizer.all_special_tokens, key=len, reverse=True)
    # Tokens that are added to a vocabulary are matched in any text too.
    special += [
      str(token)
      for token in tokenizer.added_tokens_decoder.values()
      if token.special and str(token) not in special
    ]
    self._special = re.compile('|'.join(map(re.escape, special)) or r'(?!)')
    end = tokenizer.eos_token_id
    if tokenizer.chat_template:
      end = self._end_of_reply()
    if end is None:
      raise ValueError(
        f'tokenizer {tokenizer.name_or_path!r} has no end-of-text token and no'
        ' chat template: a reply of the policy could never end; set eos_token'
        ' in its tokenizer_config.json'
      )
    self.end_id = int(end)
    eos = tokenizer.eos_token_id
    stops = {self.end_id, *stop_ids} | ({eos} - {None})
    self.stop_ids = tuple(sorted(stops))
    pad = tokenizer.pad_token_id
    self.pad_id = int(pad if pad is not None else self.end_id)

  def _encode(self, text: str) -> list[int]:
    return self.tokenizer(text, add_special_tokens=False)['input_ids']

  def _render(self, messages: Sequence[Message], **kwargs) -> str:
    return self.tokenizer.apply_chat_template(
      list(messages), tokenize=False, **kwargs
    )

  def _end_of_reply(self) -> int:
    """The token that the template writes right after an assistant's reply."""
    text = self._render(
      [
        {'role': 'user', 'content': 'x'},
        {'role': 'assistant', 'content': _SENTINEL},
      ]
    )
    after = self._encode(text.rpartition(_SENTINEL)[2].lstrip())
    return after[0] if after else self.tokenizer.eos_token_id

  def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
    """See `Tokenizer`."""
    plain = [{**m, 'content': self._as_text(m['content'])} for m in messages]
    if self.tokenizer.chat_template:
      return self._encode(self._render(plain, add_generation_prompt=True))
    return self._encode(render_plain(plain))

  def encode_action(self, text: str) -> list[int]:
    """See `Tokenizer`."""
    return [*self._encode(self._as_text(text)), self.end_id]

  def encode_text(self, text: str) -> list[int]:
    """See `Tokenizer`."""
    return self._encode(text)

  def _as_text(self, text: str) -> str:
    """The text with a space in what would be read as a special token.

    What a script prints must not end a turn of the conversation.
    """
    return self._special.sub(lambda m: f'{m[0][0]} {m[0][1:]}', text)

  def decode(self, ids: Sequence[int]) -> str:
    """See `Tokenizer`."""
    left_out = {*self.stop_ids, self.pad_id}
    return self.tokenizer.decode(
      [int(i) for i in ids if int(i) not in left_out],
      clean_up_tokenization_spaces=False,
    )

  def save(self, folder: str | os.PathLike) -> None:
    """See `Tokenizer`."""
    self.tokenizer.save_pretrained(folder)


class ToyTokenizer:
  """A small SentencePiece model for the toy policy; needs no transformers.

  Pieces may span words (whole phrases of a script become one token, which
  keeps prompts short). Line breaks and the numbers 1 to 40 are pieces of
  their own everywhere: the line number of a listing is then the same token as
  in the action that edits the line, so that pointing at a line is copying.
  Bytes are the fallback, so that any text is encoded and decoded exactly
  (except U+2581, SentencePiece's own sign for a space).
  """

  def __init__(self, model: bytes):
    import sentencepiece

    self._model = model
    self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    self.vocab_size = self._pieces.vocab_size()
    self.pad_id = self._pieces.pad_id()
    self.end_id = self._pieces.eos_id()
    self.stop_ids = (self.end_id,)

  @classmethod
  def train(
    cls, texts: Iterable[str], *, vocab_size: int = 2400
  ) -> 'ToyTokenizer':
    """Trains on `texts` (order matters not), the same model every time.

    Args:
      texts: prompts (rendered by `render_plain`) and actions of the training
        tasks.
      vocab_size: at most this many pieces; few texts give fewer.

    Raises:
      ValueError: if there is no text.
    """
    import sentencepiece

    texts = sorted(texts)
    if not any(texts):
      raise ValueError('no text to train a tokenizer on: collect first')
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(texts),
      model_writer=model,
      vocab_size=vocab_size,
      hard_vocab_limit=False,
      model_type='bpe',
      split_by_whitespace=False,
      split_by_unicode_script=False,
      split_by_number=False,
      max_sentencepiece_length=64,
      max_sentence_length=1 << 20,
      user_defined_symbols=['\n', *(str(i) for i in range(1, 41))],
      byte_fallback=True,
      normalization_rule_name='identity',
      remove_extra_whitespaces=False,
      add_dummy_prefix=False,
      character_coverage=1.0,
      pad_id=0,
      unk_id=1,
      eos_id=2,
      bos_id=-1,
      num_threads=1,
      minloglevel=2,
    )
    return cls(model.getvalue())

  @classmethod
  def load(cls, folder: str | os.PathLike) -> 'ToyTokenizer':
    """The tokenizer that was saved in `folder`."""
    return cls((pathlib.Path(folder) / _MODEL_FILE).read_bytes())

  def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
    """See `Tokenizer`."""
    return self._pieces.encode(render_plain(messages))

  def encode_action(self, text: str) -> list[int]:
    """See `Tokenizer`."""
    return [*self._pieces.encode(text), self.end_id]

  def encode_text(self, text: str) -> list[int]:
    """See `Tokenizer`."""
    return self._pieces.encode(text)

  def decode(self, ids: Sequence[int]) -> str:
    """See `Tokenizer`."""
    left_out = {self.end_id, self.pad_id}
    known = [i for i in map(int, ids) if i < self.vocab_size]  # no padding
    return self._pieces.decode([i for i in known if i not in left_out])

  def save(self, folder: str | os.PathLike) -> None:
    """See `Tokenizer`."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / (_MODEL_FILE + '.partial')
    partial.write_bytes(self._model)
    partial.replace(folder / _MODEL_FILE)


def load(name_or_folder: str | os.PathLike) -> Tokenizer:
  """A saved tokenizer: the toy's, or whatever transformers can read.

  Raises:
    OSError: if there is none (the message of transformers says what is
      missing).
  """
  folder = pathlib.Path(name_or_folder)
  if (folder / _MODEL_FILE).is_file():
    return ToyTokenizer.load(folder)
  import transformers

  return ChatTokenizer(
    transformers.AutoTokenizer.from_pretrained(str(name_or_folder)),
    _generation_stops(folder),
  )


def _generation_stops(folder: pathlib.Path) -> tuple[int, ...]:
  """The tokens at which the model's publisher stops generation.

  Qwen's Instruct models end a turn with <|im_end|>, which their tokenizer
  names, and may end a text with <|endoftext|>, which only this file names.
  """
  path = folder / 'generation_config.json'
  if not path.is_file():
    return ()
  eos = json.loads(path.read_text(encoding='utf-8')).get('eos_token_id')
  return tuple(eos) if isinstance(eos, list) else (eos,) * (eos is not None)

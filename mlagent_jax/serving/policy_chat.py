"""A policy of ours as a `ChatModel` in this process, without HTTP.

Experts, writers of ideas and the editor ask the engine that `serve` has; an
answer is the one that the server gives to the same messages and seed.
"""

import asyncio
import pathlib
import time
from collections.abc import Sequence

from mlagent_jax import sampling
from mlagent_jax.agent import stop_text
from mlagent_jax.exploration import accounting
from mlagent_jax.exploration.chat import Completion, Message, TooLongError
from mlagent_jax.model import sharding
from mlagent_jax.serving import driver as driver_lib
from mlagent_jax.serving import models, requests
from mlagent_jax.stages import session

# Whoever asks waits for the answer, so that the threads bound what waits.
_MAX_WAITING = 2**20


class PolicyChat:
  """See `exploration.chat.ChatModel`; use it in a `with` statement.

  Args:
    opened: the model.
    slots: answers that are written at once.
    prompt_tokens: the longest prompt.
    answer_tokens: the longest answer.
    ledger: takes what answers use; they cost tokens and time, and no money.
  """

  def __init__(
    self,
    opened: models.Opened,
    *,
    slots: int,
    prompt_tokens: int,
    answer_tokens: int,
    ledger: accounting.Ledger | None = None,
  ):
    self.name = opened.name
    self.ledger = ledger or accounting.Ledger()
    self._tokenizer = opened.tokenizer
    shards = 1 if opened.mesh is None else sharding.batch_devices(opened.mesh)
    slots = -(-slots // shards) * shards
    self._room = sampling.Room(
      slots=slots,
      rows=slots,
      seats=min(8, slots),
      prompt_length=prompt_tokens,
      sample_length=answer_tokens,
      shards=shards,
    )
    engine = sampling.Engine(
      opened.graphdef,
      self._room,
      stop_ids=opened.tokenizer.stop_ids,
      mesh=opened.mesh,
      top_logprobs=True,  # the server's program, so that answers are its own
    )
    engine.load(opened.params)
    self._driver = driver_lib.Driver(engine, max_waiting=_MAX_WAITING)

  def __enter__(self):
    self._driver.__enter__()
    return self

  def __exit__(self, *error):
    self._driver.__exit__(*error)

  def complete(
    self,
    messages: Sequence[Message],
    *,
    n: int = 1,
    max_tokens: int,
    temperature: float = 1.0,
    stop: Sequence[str] = (),
    seed: int | None = None,
  ) -> list[Completion]:
    """See `ChatModel`.

    Raises:
      TooLongError: if the prompt is.
      EngineFailedError: if the engine failed.
      ValueError: if max_tokens is more than the engine has room for.
    """
    prompt = self._tokenizer.encode_prompt(messages)
    if len(prompt) > self._room.prompt_length:
      raise TooLongError(
        f'{self.name!r} reads prompts of at most {self._room.prompt_length}'
        f' tokens (endpoint.max_prompt_tokens); this one has {len(prompt)}'
      )
    settings = sampling.Settings(temperature=temperature, max_tokens=max_tokens)
    seeds = requests.sample_seeds(seed, n)
    text_stop = stop_text.TextStop(self._tokenizer.decode, stop)
    start = time.monotonic()
    samples = asyncio.run(self._samples(prompt, settings, seeds, text_stop))
    written = sum(len(sample.tokens) for sample in samples)
    used = accounting.Usage(
      requests=1,
      prompt_tokens=len(prompt),
      completion_tokens=written,
      seconds=time.monotonic() - start,
    )
    with self.ledger.reserve(0.0) as settle:
      settle(used)
    return [self._completion(sample, text_stop, prompt) for sample in samples]

  def count_tokens(self, messages: Sequence[Message]) -> int:
    """Exactly."""
    return len(self._tokenizer.encode_prompt(messages))

  async def _samples(self, prompt, settings, seeds, text_stop):
    listener = self._driver.submit(prompt, settings, seeds, text_stop)
    async for _ in self._driver.listen(listener):
      pass
    return listener.request.samples

  def _completion(self, sample, text_stop, prompt) -> Completion:
    ids = sample.tokens
    text = self._tokenizer.decode(
      ids[:-1] if sample.ended_by == 'stop_token' else ids
    )
    return Completion(
      text_stop.cut(text),
      'length' if sample.ended_by == 'length' else 'stop',
      prompt_tokens=len(prompt),
      completion_tokens=len(ids),
    )


def open_policy(config, folder: pathlib.Path) -> PolicyChat:
  """The policy that a config's collect.expert or agent.editor names.

  Args:
    config: the whole config; its section `policy` says which, its section
      `endpoint` how long prompts and answers may be.
    folder: the work directory; what answers took is in policy.jsonl.

  Raises:
    ConfigError, WeightsError, CheckpointError: see `models.open_model`.
  """
  policy, limits = config.policy, config.endpoint
  if not policy.checkpoint:
    raise session.ConfigError(
      "policy.checkpoint is empty: collect.expert or agent.editor 'policy'"
      ' needs the work directory of a run, or a folder of `python -m'
      ' mlagent_jax.weights import`'
    )
  longest = [limits.max_reply_tokens]
  if config.collect.expert == 'policy':
    longest.append(limits.max_idea_tokens)
  if config.agent.editor == 'policy':
    longest.append(limits.max_edit_tokens)
  return PolicyChat(
    models.open_model(
      pathlib.Path(policy.checkpoint), stage=policy.stage, dtype=''
    ),
    slots=policy.slots,
    prompt_tokens=limits.max_prompt_tokens,
    answer_tokens=max(longest),
    ledger=accounting.Ledger(folder / 'policy.jsonl'),
  )

"""A trained policy as an agent that replies, many episodes at once.

Episodes are played in threads of their own. Whoever waits for a reply is in
the next batch of the device; a reply depends on its prompt, its seed and the
parameters, never on who else is in the batch.
"""

import concurrent.futures
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from mlagent_jax import rollout
from mlagent_jax.agent import history
from mlagent_jax.environment import records, task_folder
from mlagent_jax.stages.evaluation.usage import Usage


@dataclasses.dataclass(frozen=True)
class Sampled:
  """A reply and the accelerator-seconds that it took."""

  reply: rollout.Reply
  accelerator_seconds: float


@dataclasses.dataclass(frozen=True)
class _Request:
  prompt: Sequence[int]
  seed: int
  future: concurrent.futures.Future


class PolicyServer:
  """Samples for whoever waits, in batches; use it in a `with` statement.

  Args:
    policy: with G = 1.
    params: parameters of its model.
    batch_size: largest batch.
    devices: what a second of sampling counts for.
  """

  def __init__(self, policy, params, *, batch_size: int, devices: int):
    self._policy = policy
    self._params = params
    self._batch_size = batch_size
    self._devices = devices
    self._requests: queue.Queue[_Request | None] = queue.Queue()
    self._thread = threading.Thread(target=self._serve, name='policy')
    self._thread.start()

  def __enter__(self):
    return self

  def __exit__(self, *exc_info):
    self.close()

  def close(self) -> None:
    """Answers who waits already, and ends."""
    self._requests.put(None)
    self._thread.join()

  def sample(self, prompt: Sequence[int], seed: int) -> Sampled:
    """One reply; blocks until its batch was sampled."""
    future = concurrent.futures.Future()
    self._requests.put(_Request(prompt, seed, future))
    return future.result()

  def _serve(self) -> None:
    while (first := self._requests.get()) is not None:
      batch, ended = [first], False
      while len(batch) < self._batch_size and not ended:
        try:
          request = self._requests.get_nowait()
        except queue.Empty:
          break
        ended = request is None
        if not ended:
          batch.append(request)
      self._answer(batch)
      if ended:
        return

  def _answer(self, batch: list[_Request]) -> None:
    start = time.monotonic()
    try:
      replies = self._policy.sample_replies(
        self._params,
        [request.prompt for request in batch],
        np.array([[request.seed] for request in batch], np.uint32),
      )
    except Exception as error:  # noqa: BLE001 - raised again by who waits
      for request in batch:
        request.future.set_exception(error)
      return
    share = (time.monotonic() - start) * self._devices / len(batch)
    for request, (reply,) in zip(batch, replies, strict=True):
      request.future.set_result(Sampled(reply, share))


class PolicyAgent:
  """One episode of a policy.

  Args:
    name: under which the trajectory is recorded.
    server: samples.
    prompt_ids: (task, snapshot, script, steps) -> token ids.
    seeds: of the samples, one a step.
    dollars_per_hour: of one accelerator.

  Attributes:
    usage: so far.
  """

  def __init__(
    self,
    name: str,
    server: PolicyServer,
    prompt_ids: Callable[..., Sequence[int]],
    seeds: Sequence[int],
    *,
    dollars_per_hour: float = 0.0,
  ):
    self.name = name
    self.usage = Usage()
    self._server = server
    self._prompt_ids = prompt_ids
    self._seeds = seeds
    self._dollars_per_hour = dollars_per_hour

  def reply(
    self,
    task: task_folder.Task,
    snapshot: records.Snapshot,
    script: str,
    steps: Sequence[records.Step],
  ) -> str:
    """The sampled reply; empty where the prompt is too long to be read."""
    try:
      prompt = self._prompt_ids(task, snapshot, script, steps)
    except history.PromptTooLong:
      self.usage += Usage(refused_prompts=1)
      return ''
    sampled = self._server.sample(prompt, self._seeds[len(steps)])
    seconds = sampled.accelerator_seconds
    self.usage += Usage(
      prompt_tokens=len(prompt),
      completion_tokens=len(sampled.reply.token_ids),
      dollars=seconds / 3600 * self._dollars_per_hour,
      accelerator_seconds=seconds,
    )
    return sampled.reply.text

"""The thread that owns the engine, and how coroutines talk to it.

The engine is called by one thread only. Coroutines hand it commands, which it
carries out between two chunks of tokens; after each chunk it posts what every
sample has added to the event loop of whoever waits for it.
"""

import asyncio
import collections
import dataclasses
import threading
from collections.abc import Callable, Sequence

from mlagent_jax import sampling


class QueueFullError(RuntimeError):
  """As many samples wait as may wait."""


class EngineFailedError(RuntimeError):
  """The engine raised; nothing is decoded any more."""


@dataclasses.dataclass(frozen=True)
class Progress:
  """What one sample has added since it was last heard of.

  Attributes:
    index: of the sample in its request.
    tokens: new ids.
    logps: of these.
    likeliest: of these, see `sampling.Sample`.
    ended_by: see `sampling.Sample`.
  """

  index: int
  tokens: tuple[int, ...]
  logps: tuple[float, ...]
  likeliest: tuple[tuple[tuple[int, float], ...], ...]
  ended_by: str


@dataclasses.dataclass(eq=False)
class _Listener:
  """A request in the engine, and what its coroutine has heard of it."""

  request: sampling.Request
  loop: asyncio.AbstractEventLoop
  inbox: asyncio.Queue
  heard: list[int]
  ended: list[bool]


class Driver:
  """Runs an engine in a thread, as a context.

  Args:
    engine: with parameters loaded.
    max_waiting: samples that may wait for a slot before `submit` refuses.
  """

  def __init__(self, engine: sampling.Engine, *, max_waiting: int):
    self._engine = engine
    self._max_waiting = max_waiting
    self._commands: collections.deque[Callable[[], None]] = collections.deque()
    self._listeners: set[_Listener] = set()
    self._wake = threading.Condition()
    self._closing = False
    self._open = 0  # samples that have not ended
    self.failure: BaseException | None = None
    self._thread = threading.Thread(target=self._run, name='engine')

  def __enter__(self):
    self._thread.start()
    return self

  def __exit__(self, *error):
    with self._wake:
      self._closing = True
      self._wake.notify()
    self._thread.join()

  @property
  def slots(self) -> int:
    """Samples that are decoded at once."""
    return self._engine.room.slots

  @property
  def open_samples(self) -> int:
    """Samples that have not ended: in slots, or waiting for one."""
    return self._open

  def submit(
    self,
    prompt: Sequence[int],
    settings: sampling.Settings,
    seeds: Sequence[int],
    stop: Callable[[list[int]], int | None] | None = None,
  ) -> _Listener:
    """Asks for samples; called in an event loop. Then `async for`.

    Raises:
      QueueFullError: if too many samples wait.
      EngineFailedError: if the engine is gone.
      ValueError: see `Engine.submit`.
    """
    if self.failure is not None:
      raise EngineFailedError(f'the engine failed: {self.failure}')
    self._engine.check(prompt, settings)
    request = sampling.Request(
      tuple(map(int, prompt)),
      settings,
      [sampling.Sample(int(seed)) for seed in seeds],
      stop,
    )
    listener = _Listener(
      request,
      asyncio.get_running_loop(),
      asyncio.Queue(),
      [0] * len(seeds),
      [False] * len(seeds),
    )

    def command():
      self._listeners.add(listener)
      self._engine.enqueue(request)

    with self._wake:
      waiting = max(self._open - self.slots, 0)
      if self._open + len(seeds) > self.slots + self._max_waiting:
        raise QueueFullError(
          f'{waiting} samples wait for {self.slots} slots and {len(seeds)} more'
          f' are asked for, but at most {self._max_waiting} may wait; try again'
          ' later'
        )
      self._open += len(seeds)
    self._command(command)
    return listener

  def cancel(self, listener: _Listener) -> None:
    """Ends a request whose coroutine is no longer interested."""

    def command():
      self._engine.cancel(listener.request)
      self._tell(listener)

    self._command(command)

  async def listen(self, listener: _Listener):
    """Yields Progress until every sample has ended.

    Raises:
      EngineFailedError: if the engine failed meanwhile.
    """
    open_samples = len(listener.request.samples)
    while open_samples:
      item = await listener.inbox.get()
      if isinstance(item, BaseException):
        raise EngineFailedError(f'the engine failed: {item}') from item
      open_samples -= bool(item.ended_by)
      yield item

  def _command(self, command) -> None:
    with self._wake:
      self._commands.append(command)
      self._wake.notify()

  def _run(self) -> None:
    try:
      while self._carry_out():
        self._engine.step()
        for listener in list(self._listeners):
          self._tell(listener)
    # Reported to everybody who waits, and by `submit` and /health from now on.
    except Exception as error:  # noqa: BLE001
      self.failure = error
      for listener in self._listeners:
        _post(listener, error)

  def _carry_out(self) -> bool:
    """Carries out commands; waits if there is nothing to do. False: the end."""
    while True:
      with self._wake:
        while not (self._commands or self._engine.busy or self._closing):
          self._wake.wait()
        if self._closing:
          return False
        commands, self._commands = self._commands, collections.deque()
      for command in commands:
        command()
      if self._engine.busy:
        return True

  def _tell(self, listener: _Listener) -> None:
    for index, sample in enumerate(listener.request.samples):
      start = listener.heard[index]
      ended = bool(sample.ended_by)
      if listener.ended[index] or (len(sample.tokens) == start and not ended):
        continue
      listener.heard[index], listener.ended[index] = len(sample.tokens), ended
      if ended:
        with self._wake:
          self._open -= 1
      progress = Progress(
        index,
        tuple(sample.tokens[start:]),
        tuple(sample.logps[start:]),
        tuple(sample.likeliest[start:]),
        sample.ended_by,
      )
      _post(listener, progress)
    if listener.request.done:
      self._listeners.discard(listener)


def _post(listener: _Listener, item) -> None:
  listener.loop.call_soon_threadsafe(listener.inbox.put_nowait, item)

"""What the Docker engine reports of its containers, passed on as it comes."""

import threading
from typing import Protocol

from mlagent_jax.environment.sandbox.docker_engine import Engine

_NAMES = ('die', 'exec_die', 'oom')


class Listener(Protocol):
  """Who wants to know what happens to one container."""

  def hear(self, name: str, attributes: dict[str, str]) -> None:
    """Takes an event ('die', 'exec_die' or 'oom')."""

  def lose(self) -> None:
    """The engine is silent from now on: it died, or the sandbox is closed."""


class Events:
  """One stream of events, and who listens to which container."""

  def __init__(self, engine: Engine, label: str):
    """Listens to nothing yet.

    Args:
      engine: where they come from.
      label: on all containers that anybody may ask for.
    """
    self._engine = engine
    self._label = label
    self._lock = threading.Lock()
    self._listeners: dict[str, Listener] = {}
    self._stream = None
    self._thread: threading.Thread | None = None

  def listen(self, container: str, listener: Listener) -> None:
    """Passes on the events of a container from now on.

    Raises:
      SandboxUnavailable: if the engine does not answer.
    """
    with self._lock:
      if self._stream is None:
        if self._thread is not None:
          self._thread.join()
        self._stream = self._engine.events(self._label, _NAMES)
        self._thread = threading.Thread(
          target=self._pass_on,
          args=(self._stream,),
          name='mlagent_jax docker events',
          daemon=True,
        )
        self._thread.start()
      self._listeners[container] = listener

  def forget(self, container: str) -> None:
    """Passes on no more events of a container."""
    with self._lock:
      self._listeners.pop(container, None)

  def close(self) -> None:
    """Ends the stream."""
    with self._lock:
      stream, thread = self._stream, self._thread
    if stream is not None:
      stream.close()
    if thread is not None:
      thread.join()

  def _pass_on(self, stream) -> None:
    try:
      for event in stream:
        actor = event['Actor']
        with self._lock:
          listener = self._listeners.get(actor['ID'])
        if listener is not None:
          listener.hear(event['Action'].split(':')[0], actor['Attributes'])
    except self._engine.stream_errors:
      pass  # as good as its end, which is told below
    with self._lock:
      self._stream = None
      listeners = list(self._listeners.values())
      self._listeners.clear()
    for listener in listeners:
      listener.lose()

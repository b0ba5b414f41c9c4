"""Replies on their way to the worker pool and back, through outages.

A step whose sandbox fails on every worker (`SandboxUnavailable`, after the
pool's own tries) is no outcome: it waits here, and one such step after the
other is sent ahead to see whether the workers are back, with pauses that
double. The first that succeeds sends the others after it. Only when nothing
has succeeded for `max_outage_seconds` is the error raised; whoever resumes the
run later goes on where it stopped.

Host wing: the policy has no part in this.
"""

import collections
import dataclasses
import math
import queue
import threading
import time
from collections.abc import Callable, Collection

from mlagent_jax.environment import records

# Failures of one step while others succeed, after which it is at fault.
MAX_FAILURES = 3
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
CHECK_SECONDS = 1.0


@dataclasses.dataclass(eq=False)
class Ticket:
  """One step on its way; `result` is None until it is there.

  Attributes:
    task, snapshot, text: what was asked for.
    result: the outcome and the state that follows.
    cancelled: nobody waits for it any more.
  """

  task: str
  snapshot: records.Snapshot
  text: str
  result: tuple[records.Outcome, records.Snapshot] | None = None
  cancelled: bool = False
  future: object = None
  submitted: float = 0.0
  successes_before: int = 0
  failures: int = 0

  @property
  def done(self) -> bool:
    """The result is there."""
    return self.result is not None


class Dispatcher:
  """Sends steps to a pool and waits for them; for use by one thread.

  Args:
    pool: from `environment.workers`.
    max_outage_seconds: without any success, after which it gives up.
    say: prints a line for people.
    on_span: called as (worker, label, start, end) for every try of a step,
      in seconds of `time.monotonic`, from the workers' threads.
    first_pause: seconds before the first try after a failure.
    check: called every second while it waits; may raise to end the wait.
  """

  def __init__(
    self,
    pool,
    *,
    max_outage_seconds: float,
    say: Callable[[str], None] = lambda text: None,
    on_span: Callable[[str, str, float, float], None] | None = None,
    first_pause: float = FIRST_PAUSE,
    check: Callable[[], None] = lambda: None,
  ):
    self._pool = pool
    self._max_outage = max_outage_seconds
    self._say = say
    self._on_span = on_span
    self._first_pause = first_pause
    self._check = check
    self._finished: queue.SimpleQueue[Ticket] = queue.SimpleQueue()
    self._parked: collections.deque[Ticket] = collections.deque()
    self._successes = 0
    self._down_since: float | None = None
    self._pause = first_pause
    self._next_try = 0.0
    self._ahead: Ticket | None = None  # sent to see whether the workers work
    self._free_since: dict[str, float] = {}  # of each worker's thread

  @property
  def environment(self):
    """The environment whose steps the pool takes."""
    return self._pool.environment

  def submit(self, task: str, snapshot: records.Snapshot, text: str) -> Ticket:
    """Begins a step."""
    ticket = Ticket(task, snapshot, text)
    ticket.successes_before = self._successes
    self._send(ticket)
    return ticket

  def cancel(self, ticket: Ticket) -> None:
    """Gives a step up; it is not run if no worker has begun it."""
    ticket.cancelled = True
    if ticket in self._parked:
      self._parked.remove(ticket)
    elif ticket.future is not None:
      ticket.future.cancel()

  def wait(
    self,
    tickets: Collection[Ticket],
    *,
    seconds: float = math.inf,
    at_least: int = 0,
    on_done: Callable[[], None] = lambda: None,
  ) -> None:
    """Waits until all are done; or for `seconds`, and then for `at_least`.

    Args:
      tickets: of `submit`.
      seconds: that it may take, once `at_least` of them are done.
      at_least: how many are waited for, however long they take.
      on_done: called for each.

    Raises:
      SandboxUnavailable: if nothing has succeeded for `max_outage_seconds`,
        or one step fails again and again while others succeed.
    """
    start = time.monotonic()
    self._settle_finished()
    missing = {ticket for ticket in tickets if not ticket.done}
    for _ in range(len(tickets) - len(missing)):
      on_done()
    while missing:
      left = seconds - (time.monotonic() - start)
      if left <= 0 and len(tickets) - len(missing) >= at_least:
        return
      self._try_parked()
      self._check()
      limits = [CHECK_SECONDS] + ([left] if left > 0 else [])
      if self._parked and self._ahead is None:
        limits.append(self._next_try - time.monotonic())
      try:
        ticket = self._finished.get(timeout=max(0.0, min(limits)))
      except queue.Empty:
        continue
      self._settle(ticket)
      if ticket in missing and ticket.done:
        missing.remove(ticket)
        on_done()

  def _send(self, ticket: Ticket) -> None:
    ticket.submitted = time.monotonic()
    ticket.future = self._pool.submit(ticket.task, ticket.snapshot, ticket.text)
    ticket.future.add_done_callback(lambda future: self._ended(ticket))

  def _ended(self, ticket: Ticket) -> None:
    """In the worker's thread; in ours if the step was that quick."""
    thread = threading.current_thread().name
    now = time.monotonic()
    if self._on_span is not None and not ticket.future.cancelled():
      # A worker begins its next step when it has ended the one before.
      start = max(ticket.submitted, self._free_since.get(thread, 0.0))
      if thread != threading.main_thread().name:
        self._free_since[thread] = now
        self._on_span(thread, ticket.task, start, now)
    self._finished.put(ticket)

  def _settle_finished(self) -> None:
    while not self._finished.empty():
      self._settle(self._finished.get())

  def _settle(self, ticket: Ticket) -> None:
    """Takes a result, or parks the step for another try."""
    ahead = ticket is self._ahead
    if ahead:
      self._ahead = None
    if ticket.future.cancelled():
      return
    try:
      ticket.result = ticket.future.result()
    except records.SandboxUnavailable as error:
      if not ticket.cancelled:
        self._failed(ticket, error, ahead)
      return
    self._successes += 1
    if self._down_since is not None:
      seconds = time.monotonic() - self._down_since
      self._say(f'the workers are back after {seconds:.0f} s')
      self._down_since, self._pause = None, self._first_pause
    while self._parked:
      self._send(self._parked.popleft())

  def _failed(self, ticket: Ticket, error: Exception, ahead: bool) -> None:
    now = time.monotonic()
    if self._successes > ticket.successes_before:
      ticket.failures += 1
      ticket.successes_before = self._successes
      if ticket.failures >= MAX_FAILURES:
        raise records.SandboxUnavailable(
          f'a step of {ticket.task} failed {ticket.failures} times while'
          f' others succeeded; the last time: {error}'
        ) from error
    self._parked.append(ticket)
    first = self._down_since is None
    if first:
      self._down_since = now
    down = now - self._down_since
    if down >= self._max_outage:
      raise records.SandboxUnavailable(
        f'no worker has run anything for {down / 60:.1f} minutes'
        f' (environment.max_outage_minutes is {self._max_outage / 60:g});'
        f' stopped, and the same command resumes. The last error: {error}'
      ) from error
    if first or ahead:
      self._say(
        f'the workers cannot run anything: {error}. Waiting, next try in'
        f' {self._pause:g} s; down for {down:.0f} s of at most'
        f' {self._max_outage:.0f} s (environment.max_outage_minutes)'
      )
      self._next_try = now + self._pause
      self._pause = min(2 * self._pause, LONGEST_PAUSE)

  def _try_parked(self) -> None:
    """Sends one step ahead of the others, if it is time."""
    due = time.monotonic() >= self._next_try
    if self._parked and self._ahead is None and due:
      self._ahead = self._parked.popleft()
      self._send(self._ahead)

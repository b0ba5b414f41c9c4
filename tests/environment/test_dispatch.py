"""Steps through a real pool whose sandbox fails when a test says so."""

import threading
import time

import pytest

from mlagent_jax import dispatch
from mlagent_jax.environment import episode
from mlagent_jax.environment.records import OutcomeKind, SandboxUnavailable
from mlagent_jax.environment.workers import LocalPool

LOOK = 'Thought: t\nAction: List Files\nAction Input: {"dir_path": "."}'
RUN = (
  'Thought: t\nAction: Execute Script\n'
  'Action Input: {"script_name": "train.py"}'
)
SLOW = (
  'Thought: t\nAction: Edit Script Lines\nAction Input: {"script_name":'
  ' "train.py", "start_line_number": "1", "end_line_number": "1",'
  ' "replacement": "import csv, time\\ntime.sleep(3)"}'
)


class Switch:
  """The real sandbox, with a switch."""

  def __init__(self, sandbox):
    self.kind, self.identity = sandbox.kind, sandbox.identity
    self._sandbox = sandbox
    self.works = threading.Event()
    self.calls = 0

  def run(self, command, *arguments, **options):
    self.calls += 1
    if not self.works.is_set():
      raise SandboxUnavailable('the daemon is dead')
    return self._sandbox.run(command, *arguments, **options)


@pytest.fixture
def switch(process_sandbox):
  return Switch(process_sandbox)


@pytest.fixture
def pool(line_task, switch, store):
  environment = episode.Environment({'line': line_task}, switch, store)
  with LocalPool(environment, workers=2, attempts=1) as pool:
    yield pool


def test_a_dead_pool_is_waited_for(pool, switch):
  said, spans = [], []
  sender = dispatch.Dispatcher(
    pool,
    max_outage_seconds=60,
    say=said.append,
    on_span=lambda *span: spans.append(span),
    first_pause=0.1,
  )
  start = pool.environment.initial('line')
  tickets = [sender.submit('line', start, RUN) for _ in range(8)]
  threading.Timer(1.0, switch.works.set).start()
  sender.wait(tickets)
  assert [t.result[0].kind for t in tickets] == [OutcomeKind.EXECUTED] * 8
  assert 'the daemon is dead' in said[0]
  assert 'max_outage_minutes' in said[0]
  assert 'workers are back' in said[-1]
  # Pauses double: 0.1, 0.2, 0.4, 0.8; and one step goes ahead of the others.
  assert 2 <= len(said) <= 6
  assert 8 + 8 + 2 <= switch.calls <= 8 + 8 + 5
  assert {worker for worker, *_ in spans} == {'worker_0', 'worker_1'}
  for worker in ('worker_0', 'worker_1'):
    times = sorted(span[2:] for span in spans if span[0] == worker)
    assert all(begin <= end for begin, end in times)
    assert all(a[1] <= b[0] for a, b in zip(times, times[1:], strict=False))


def test_it_gives_up_after_the_longest_outage(pool):
  sender = dispatch.Dispatcher(pool, max_outage_seconds=0.5, first_pause=0.1)
  start = pool.environment.initial('line')
  began = time.monotonic()
  with pytest.raises(SandboxUnavailable, match='same command resumes.*dead'):
    sender.wait([sender.submit('line', start, RUN)])
  assert 0.5 <= time.monotonic() - began < 10


def test_a_step_that_always_fails_is_told_from_dead_workers(pool):
  sender = dispatch.Dispatcher(pool, max_outage_seconds=600, first_pause=0.05)
  start = pool.environment.initial('line')
  bad = sender.submit('line', start, RUN)
  # Looking needs no sandbox: it succeeds all the time.
  with pytest.raises(SandboxUnavailable, match='3 times while others'):
    for _ in range(100):
      sender.wait([sender.submit('line', start, LOOK)])
      sender.wait([bad], seconds=0.1)


def test_a_deadline_leaves_the_slow_ones(pool, switch):
  switch.works.set()
  sender = dispatch.Dispatcher(pool, max_outage_seconds=60)
  start = pool.environment.initial('line')
  tickets = [sender.submit('line', start, text) for text in (SLOW, LOOK, RUN)]
  # The deadline is over, but two are waited for, however long they take.
  sender.wait(tickets, seconds=0.0, at_least=2)
  assert [ticket.done for ticket in tickets] == [False, True, True]
  sender.wait(tickets, seconds=0.1)
  assert not tickets[0].done
  sender.wait(tickets, seconds=0.0, at_least=3)
  assert tickets[0].result[0].kind is OutcomeKind.EDITED


def test_what_is_given_up_is_not_run(pool, switch):
  switch.works.set()
  sender = dispatch.Dispatcher(pool, max_outage_seconds=60)
  start = pool.environment.initial('line')
  slow = [sender.submit('line', start, SLOW) for _ in range(2)]
  waiting = [sender.submit('line', start, RUN) for _ in range(3)]
  for ticket in waiting:
    sender.cancel(ticket)
  sender.wait(slow)
  sender.wait([sender.submit('line', start, LOOK)])
  assert switch.calls == 2

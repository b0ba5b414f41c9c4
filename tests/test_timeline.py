import json
import threading
import time

from mlagent_jax.stages import timeline


def test_the_trace_is_what_perfetto_reads(tmp_path):
  spans = timeline.Timeline(steps=2)
  for step in (1, 2, 3):
    spans.begin_step(step)
    with spans.span('sample'):
      time.sleep(0.02)
    now = time.monotonic()
    worker = threading.Thread(
      target=spans.worker_span, args=('worker_10', 'cells', now - 0.01, now)
    )
    worker.start()
    worker.join()
    spans.worker_span('worker_2', 'cells', now - 0.01, now)
    with spans.span('wait'):
      time.sleep(0.03)
    seconds = spans.seconds()
    assert seconds['sample'] >= 0.02
    assert seconds['wait'] >= 0.03
    assert seconds['update'] == 0
  spans.write(tmp_path)
  trace = json.loads((tmp_path / 'timeline.json').read_text())
  events = trace['traceEvents']
  names = {e['tid']: e['args']['name'] for e in events if e['ph'] == 'M'}
  assert list(names.values()) == ['device', 'worker_2', 'worker_10']
  complete = [e for e in events if e['ph'] == 'X']
  assert {e['args']['step'] for e in complete} == {2, 3}  # the last two
  for event in complete:
    assert event['ts'] >= 0
    assert event['dur'] >= 1
    assert event['tid'] in names
  waits = [e['dur'] for e in complete if e['name'] == 'wait']
  assert len(waits) == 2
  assert all(wait >= 30_000 for wait in waits)
  assert (tmp_path / 'timeline.png').read_bytes()[:4] == b'\x89PNG'


def test_no_steps_no_files(tmp_path):
  spans = timeline.Timeline(steps=0)
  spans.begin_step(1)
  with spans.span('update'):
    pass
  spans.write(tmp_path)
  assert not list(tmp_path.iterdir())

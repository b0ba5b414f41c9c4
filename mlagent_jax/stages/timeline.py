"""Who waited for what: spans of the device's thread and of every worker.

timeline.json is a Chrome trace (open it at https://ui.perfetto.dev or
chrome://tracing) and timeline.png the same as a picture. Both hold the last
`steps` steps, so that a long run's file stays small. Format: 'Trace Event
Format', complete events ("ph": "X"), times in microseconds.
"""

import collections
import contextlib
import dataclasses
import pathlib
import re
import threading
import time
from collections.abc import Iterator

import matplotlib

from mlagent_jax.stages import workdir

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402

DEVICE = 'device'
# What the device's thread does; 'wait' is the time in which it has nothing to
# do because results of actions are not there.
COLOURS = {
  'sample': '#33658a',
  'update': '#2a9d5c',
  'checkpoint': '#86569a',
  'wait': '#e3e6ea',
}
_WORKER_COLOUR = '#e9a23b'
_PICTURE_STEPS = 6


@dataclasses.dataclass(frozen=True)
class Span:
  """Something that took time.

  Attributes:
    track: DEVICE or a worker's name.
    name: what was done.
    step: of RL during which it ended.
    start, end: seconds of `time.monotonic`.
  """

  track: str
  name: str
  step: int
  start: float
  end: float


class Timeline:
  """Collects spans from any thread.

  Args:
    steps: how many of the last steps are kept; 0 keeps none.
  """

  def __init__(self, steps: int):
    self._steps = steps
    self._step = 0
    self._origin = time.monotonic()
    self._spans: collections.deque[Span] = collections.deque()
    self._seconds: collections.Counter[str] = collections.Counter()
    self._lock = threading.Lock()

  @contextlib.contextmanager
  def span(self, name: str) -> Iterator[None]:
    """Something that the device's thread does."""
    start = time.monotonic()
    try:
      yield
    finally:
      end = time.monotonic()
      self._seconds[name] += end - start
      self._add(Span(DEVICE, name, self._step, start, end))

  def worker_span(
    self, worker: str, name: str, start: float, end: float
  ) -> None:
    """Something that a worker did; see `dispatch.Dispatcher`'s `on_span`."""
    self._add(Span(worker, name, self._step, start, end))

  def begin_step(self, step: int) -> None:
    """What follows belongs to this step; forgets what is too old."""
    self._seconds.clear()
    with self._lock:
      self._step = step
      while self._spans and self._spans[0].step <= step - self._steps:
        self._spans.popleft()

  def seconds(self) -> dict[str, float]:
    """Seconds of each kind of span of the device's thread in this step."""
    return {name: self._seconds[name] for name in COLOURS}

  def spans(self) -> list[Span]:
    """What is kept, in the order in which it ended."""
    with self._lock:
      return list(self._spans)

  def write(self, folder: pathlib.Path) -> None:
    """Writes timeline.json and timeline.png, if anything is kept."""
    spans = self.spans()
    if spans:
      workdir.write_json(
        folder / 'timeline.json', chrome_trace(spans, self._origin), indent=None
      )
      draw(spans, folder / 'timeline.png')

  def _add(self, span: Span) -> None:
    if self._steps:
      with self._lock:
        self._spans.append(span)


def chrome_trace(spans: list[Span], origin: float) -> dict:
  """Spans as a Chrome trace; `origin` is its zero, in seconds."""
  tracks = _tracks(spans)
  names = [
    {
      'ph': 'M',
      'name': 'thread_name',
      'pid': 1,
      'tid': number,
      'args': {'name': track},
    }
    for number, track in enumerate(tracks)
  ]
  return {
    'displayTimeUnit': 'ms',
    'traceEvents': names
    + [
      {
        'ph': 'X',
        'name': span.name,
        'cat': 'device' if span.track == DEVICE else 'execute',
        'pid': 1,
        'tid': tracks.index(span.track),
        'ts': round((span.start - origin) * 1e6),
        'dur': max(1, round((span.end - span.start) * 1e6)),
        'args': {'step': span.step},
      }
      for span in spans
    ],
  }


def draw(spans: list[Span], path: pathlib.Path) -> None:
  """The last few steps as a picture: one line a track, one bar a span."""
  last = max(span.step for span in spans)
  shown = [span for span in spans if span.step > last - _PICTURE_STEPS]
  origin = min(span.start for span in shown)
  tracks = _tracks(shown)
  figure, axis = plt.subplots(
    figsize=(14, 1.2 + 0.45 * len(tracks)), constrained_layout=True
  )
  for line, track in enumerate(tracks):
    for name in sorted({s.name for s in shown if s.track == track}):
      bars = [
        (span.start - origin, span.end - span.start)
        for span in shown
        if span.track == track and span.name == name
      ]
      # A worker's bars have edges: one action ends where the next begins.
      worker = track != DEVICE
      axis.broken_barh(
        bars,
        (line - 0.4, 0.8),
        facecolors=_WORKER_COLOUR if worker else COLOURS[name],
        edgecolors='white' if worker else 'none',
        linewidth=0.4,
      )
  axis.set_yticks(range(len(tracks)), tracks)
  axis.invert_yaxis()
  axis.set(
    xlabel='seconds', title=f'Steps {shown[0].step} to {last}: who waited'
  )
  handles = [
    matplotlib.patches.Patch(color=colour, label=name)
    for name, colour in (*COLOURS.items(), ('execute', _WORKER_COLOUR))
  ]
  axis.legend(handles=handles, loc='upper left', bbox_to_anchor=(1, 1))
  figure.savefig(path, dpi=110)
  plt.close(figure)


def _tracks(spans: list[Span]) -> list[str]:
  """The device first, then the workers by their numbers."""

  def order(track):
    numbers = [int(number) for number in re.findall(r'\d+', track)]
    return track != DEVICE, numbers, track

  return sorted({span.track for span in spans}, key=order)

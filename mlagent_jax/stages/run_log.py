"""What a run leaves to read: metrics.jsonl, TensorBoard files, a progress bar.

metrics.jsonl has one object a line: {"stage", "step", "seconds", …figures}.
A resumed stage repeats the steps after its checkpoint; `read_metrics` keeps
the last line of each step, so that a curve has each step once.
"""

import contextlib
import json
import pathlib
import time
from collections.abc import Iterator, Mapping

import rich.console
import rich.progress
import tensorboardX


class RunLog:
  """Metrics of one work directory; use as a context.

  Args:
    workdir: where to write; None writes and prints nothing.
  """

  def __init__(self, workdir: pathlib.Path | None):
    self.console = rich.console.Console(quiet=workdir is None)
    self._start = time.monotonic()
    self._file = self._board = None
    if workdir is not None:
      self._file = (workdir / 'metrics.jsonl').open('a', encoding='utf-8')
      self._board = tensorboardX.SummaryWriter(str(workdir / 'tensorboard'))

  def __enter__(self):
    return self

  def __exit__(self, *exc_info):
    if self._file is not None:
      self._file.close()
      self._board.close()

  def metrics(self, stage: str, step: int, **figures: float) -> None:
    """Records the figures of one step; on disk when it returns."""
    if self._file is None:
      return
    seconds = round(time.monotonic() - self._start, 3)
    row = {'stage': stage, 'step': step, 'seconds': seconds}
    row |= {name: float(value) for name, value in figures.items()}
    self._file.write(json.dumps(row) + '\n')
    self._file.flush()
    for name, value in figures.items():
      self._board.add_scalar(f'{stage}/{name}', float(value), step)

  def say(self, text: str) -> None:
    """Prints a line above the progress bar."""
    self.console.print(text, highlight=False, soft_wrap=True)

  def progress(self, stage: str, total: int, done: int = 0):
    """A bar for `total` steps; yields advance(text of the figures)."""
    return progress_bar(self.console, stage, total, done)


@contextlib.contextmanager
def progress_bar(
  console: rich.console.Console, name: str, total: int, done: int = 0
) -> Iterator:
  """A bar for `total` steps; yields advance(text of the figures)."""
  columns = (
    rich.progress.TextColumn('[bold]{task.description:<9}'),
    rich.progress.BarColumn(bar_width=24),
    rich.progress.MofNCompleteColumn(),
    rich.progress.TimeElapsedColumn(),
    rich.progress.TextColumn('{task.fields[figures]}'),
  )
  with rich.progress.Progress(*columns, console=console) as bar:
    task = bar.add_task(name, total=total, completed=done, figures='')

    def advance(figures: str = '', steps: int = 1) -> None:
      bar.update(task, advance=steps, figures=figures)

    yield advance


def read_metrics(workdir: pathlib.Path) -> list[dict]:
  """The rows of metrics.jsonl; of a repeated (stage, step) the last one.

  A last line that a killed run left half written is left out.
  """
  path = workdir / 'metrics.jsonl'
  rows: dict[tuple, Mapping] = {}
  if not path.exists():
    return []
  lines = path.read_text(encoding='utf-8').splitlines()
  for number, line in enumerate(lines, start=1):
    try:
      row = json.loads(line)
    except json.JSONDecodeError as error:
      if number == len(lines):
        break
      raise ValueError(f'{path}:{number} is damaged: {error}') from error
    rows[row['stage'], row['step']] = row
  return list(rows.values())

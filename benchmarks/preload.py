"""What `environment.preload` saves: starter scripts with and without it.

  python benchmarks/preload.py [--tasks ames cells mnist5k] [--repeats=9]

Each script runs in turns in two sandboxes of one kind, one where it imports its
libraries itself and one where they are imported (those of configs/toy.py), on
the task's real data, and both must print and submit the same. Medians of the
seconds from the script's start to its end. The last line is JSON: ours and
peer are scripts a second, over all tasks.
"""

import argparse
import contextlib
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from configs import toy  # noqa: E402
from mlagent_jax.environment import (  # noqa: E402
  prepared,
  sandbox,
  task_folder,
)


def main() -> None:
  """Measures and prints."""
  options = _parser().parse_args()
  tasks = [task_folder.load_task(name) for name in options.tasks]
  for task in tasks:
    prepared.prepare_task(task)
  preload = tuple(toy.get_config().environment.preload)
  with contextlib.ExitStack() as stack:
    boxes = {
      'imports': sandbox.make_sandbox(options.sandbox),
      'preload': sandbox.make_sandbox(options.sandbox, preload=preload),
    }
    for box in boxes.values():
      stack.enter_context(box)
    seconds = {task.name: _measure(boxes, task, options) for task in tasks}
  total = {way: sum(s[way] for s in seconds.values()) for way in boxes}
  rates = {way: len(tasks) / total[way] for way in boxes}
  print(
    json.dumps(
      {
        'name': 'preload',
        'ours': round(rates['preload'], 3),
        'peer': round(rates['imports'], 3),
        'ratio': round(rates['preload'] / rates['imports'], 2),
        'machine': f'{os.cpu_count()} cores, {platform.machine()}',
        'sandbox': options.sandbox,
        'seconds': seconds,
      }
    )
  )


def _measure(boxes, task: task_folder.Task, options) -> dict[str, float]:
  """Median seconds of the starter in each sandbox."""
  taken = {way: [] for way in boxes}
  for number in range(options.repeats + 1):
    seen = {}
    for way, box in boxes.items():
      with tempfile.TemporaryDirectory(prefix='preload-') as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        for file in task.starter_folder.iterdir():
          (folder / file.name).write_bytes(file.read_bytes())
        done = box.run(
          ('python', task.entry), folder, task.limits, data=task.data_folder
        )
        if done.exit_code:
          raise RuntimeError(f'{task.name} failed: {done.output[-500:]}')
        seen[way] = done.output, (folder / 'submission.csv').read_bytes()
        if number:  # the first imports
          taken[way].append(done.seconds)
    if len(set(seen.values())) > 1:
      raise RuntimeError(f'{task.name}: the two ways differ: {seen}')
  medians = {way: round(statistics.median(s), 4) for way, s in taken.items()}
  print(f'{task.name}: {medians}', flush=True)
  return medians


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--tasks', nargs='+', default=['ames', 'cells', 'mnist5k'])
  add('--sandbox', default='bubblewrap', choices=['bubblewrap', 'process'])
  add('--repeats', type=int, default=9, help='of each script (default: 9)')
  return parser


if __name__ == '__main__':
  main()

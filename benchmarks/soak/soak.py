"""Random steps over all tasks while everything is killed: python soak.py.

  python benchmarks/soak/soak.py --out runs/soak
  python benchmarks/soak/soak.py --out runs/soak --docs docs/reliability.md

Four worker processes take 2,000 random steps (`replies.py`: edits that work,
edits that crash, hit each limit, leave processes or litter, and all other
actions) on all offline tasks, in warm containers of a Docker engine of its
own, with one store and one cache for all. Meanwhile workers and containers are
killed, and the engine too (`chaos.py`). Then nobody is killed any more: each
distinct step that ran a script is taken again, alone and without the cache,
and must come to the same outcome, score and tree. At last it is counted what
is left behind. Needs root, a Docker engine with the task image
(`launch/docker_engine.sh`, `launch/task_image/build.sh`), and 3 GB of disk.

Results are written as they come: the same command goes on where it was
stopped (by --minutes, or once by Ctrl-C or `kill`: then it compares what was
done so far, counts, and ends). Prints a line of JSON last; exit code 0 if all
is as it should be, 1 if not, 3 if there is more to do.
"""

import argparse
import json
import os
import pathlib
import signal
import sys
import tempfile
import threading
import time
from multiprocessing import resource_tracker

import rich.progress

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from benchmarks.soak import report, verify, walks, worker  # noqa: E402
from benchmarks.soak.chaos import Chaos  # noqa: E402
from benchmarks.soak.own_engine import OwnEngine  # noqa: E402
from mlagent_jax.environment import scratch, task_folder  # noqa: E402
from mlagent_jax.environment.blobs import BlobStore  # noqa: E402
from mlagent_jax.environment.cache import ExecutionCache  # noqa: E402
from mlagent_jax.environment.sandbox import docker, docker_reaper  # noqa: E402


def main() -> int:
  """Goes through the phases that are not complete yet."""
  options = _parser().parse_args()
  folder = options.out.resolve()
  temporary = folder / 'tmp'
  temporary.mkdir(parents=True, exist_ok=True)
  # Whatever is not removed shows there.
  os.environ['TMPDIR'] = tempfile.tempdir = str(temporary)
  stop = threading.Event()
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: stop.set())
  place = pathlib.Path(tempfile.mkdtemp(prefix='soak-engine-', dir='/tmp'))
  engine = OwnEngine(place)
  # Python keeps one process for all that are spawned.
  resource_tracker.ensure_running()
  names = options.tasks or task_folder.list_tasks('offline')
  tasks = worker.load_tasks(names)
  before = report.look(temporary)
  engine.start()
  try:
    engine.load(docker.IMAGE)
    os.environ['DOCKER_HOST'] = engine.host
    report.note_disk(folder, engine)
    complete = _soak(options, folder, tasks, engine, stop)
    verify.again(tasks, folder)
    # What the next sandbox, or `tasks reap`, does.
    docker_reaper.reap()
    scratch.reap(temporary)
    BlobStore(folder / 'blobs').sweep(seconds=0)
    ExecutionCache(folder / 'executions').sweep()
    left = report.left_behind(folder, engine)
  finally:
    engine.remove()
  left |= report.compare(before, report.look(temporary))
  left['orphans'] = engine.orphans
  report.add_session(folder, left)
  figures = report.figures(folder, options.steps)
  if options.docs:
    report.write(options.docs, figures)
  print(json.dumps(figures))
  if not complete:
    return 3
  return 0 if figures['right'] else 1


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--out', type=pathlib.Path, required=True, help='folder of the results')
  add('--steps', type=int, default=2000, help='(default: 2000)')
  add('--workers', type=int, default=4, help='(default: 4)')
  add('--seed', type=int, default=0, help='of all steps (default: 0)')
  add(
    '--fault_seconds',
    type=float,
    default=12.0,
    help='between two faults, on average (default: 12)',
  )
  add('--minutes', type=float, default=1e6, help='then take no more steps')
  add('--tasks', nargs='*', metavar='NAME', help='(default: all)')
  add('--docs', type=pathlib.Path, help='a page to write the figures into')
  return parser


def _soak(options, folder, tasks, engine, stop) -> bool:
  """Takes the steps; whether all are taken."""
  all_walks = walks.Walks(tasks, folder, steps=options.steps, seed=options.seed)
  known = len(all_walks.journal.steps)
  workers = [walks.Worker(tasks, folder) for _ in range(options.workers)]
  errors = []

  def carry_out(worker_):
    try:
      all_walks.carry_out(worker_, stop)
    except RuntimeError as error:
      errors.append(error)
      stop.set()
    finally:
      worker_.close()

  def kill_worker(chance):
    return chance.choice(workers).kill()

  started = time.monotonic()
  deadline = started + 60 * options.minutes
  faults = (folder / 'faults.jsonl').open('a')

  def tell(kind):
    faults.write(json.dumps({'time': time.time(), 'kind': kind}) + '\n')
    faults.flush()

  if known < options.steps:
    threads = [
      threading.Thread(target=carry_out, args=(one,)) for one in workers
    ]
    with Chaos(
      engine,
      kill_worker,
      mean_seconds=options.fault_seconds,
      share=lambda: sum(t.is_alive() for t in threads) / len(threads),
      seed=options.seed * 1000 + known,
      tell=tell,
    ) as chaos:
      for thread in threads:
        thread.start()
      with rich.progress.Progress(disable=not sys.stderr.isatty()) as bar:
        shown = bar.add_task('steps', total=options.steps)
        while any(thread.is_alive() for thread in threads):
          time.sleep(1)
          bar.update(shown, completed=len(all_walks.journal.steps))
          if time.monotonic() > deadline or chaos.error:
            stop.set()
      for thread in threads:
        thread.join()
    if chaos.error:
      raise chaos.error
    if errors:
      raise errors[0]
    report.add_seconds(folder, time.monotonic() - started)
  faults.close()
  all_walks.journal.close()
  return len(all_walks.journal.steps) == options.steps


if __name__ == '__main__':
  sys.exit(main())

"""What a step of the environment costs besides its script.

  python benchmarks/environment_overhead.py
  python benchmarks/environment_overhead.py --profile docker

1. The added time of one step, for each sandbox: a step parses a reply, applies
   its edit, restores the state into a workspace, starts the script, takes a
   snapshot of what it left, grades the submission, and remembers the run; less
   the time of the bare script in a folder that is there already. The two are
   measured in turns; medians.
2. Steps a second with 1, 2 and 4 workers on scripts that take a second, with a
   data folder of 50 MB, against what MLAgentBench does for a state: copy the
   whole workspace, data included, and `docker run` the script in it, one step
   after the other. Scripts wait instead of computing, so that the cores of
   the machine are not what is measured; the peer is shown with 4 at once too.

The last line is JSON: ours and peer are steps a second, ours with 4 workers,
the peer as it is.
"""

import argparse
import concurrent.futures
import contextlib
import cProfile
import hashlib
import itertools
import json
import os
import pathlib
import platform
import pstats
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from mlagent_jax.environment import (  # noqa: E402
  episode,
  grading,
  prepared,
  sandbox,
  task_folder,
)
from mlagent_jax.environment.blobs import BlobStore  # noqa: E402
from mlagent_jax.environment.cache import ExecutionCache  # noqa: E402
from mlagent_jax.environment.records import OutcomeKind  # noqa: E402
from mlagent_jax.environment.sandbox.docker import IMAGE  # noqa: E402
from mlagent_jax.environment.workers import LocalPool  # noqa: E402

TARGETS = {'process': 0.030, 'bubblewrap': 0.060, 'docker': 0.120}
TARGET_RATIO = 4.0
_SCRIPT = """import csv
import time

NUMBER = 0
time.sleep({seconds})
with open('data/test.csv') as file:
  rows = list(csv.DictReader(file))
with open('submission.csv', 'w', newline='') as file:
  writer = csv.writer(file)
  writer.writerow(['id', 'y'])
  writer.writerows([row['id'], 1.5 * float(row['x'])] for row in rows)
"""
_LINE = 4  # of NUMBER
_TASK = """
name = 'overhead'
title = 'A straight line'
description = 'Predict y from x.'
kind = 'tabular'
metric = 'mae'
higher_is_better = false
entry = 'train.py'
id_column = 'id'
target_columns = ['y']
source = 'made for a benchmark'
licence = 'Apache-2.0'
m_init = 10.0
m_best = 0.1
p_init = 20.5
p_best = 0.2

[limits]
seconds = 60
memory_mb = 512

[files]
"""
_PREPARE = """
import pathlib, shutil

def prepare(public, private):
  made = pathlib.Path(__file__).parent / 'made'
  for folder in (public, private):
    shutil.copytree(made / folder.name, folder, dirs_exist_ok=True)
"""


def main() -> int:
  """Measures and prints; 1 if a target is missed."""
  options = _parser().parse_args()
  with contextlib.ExitStack() as stack:
    folder = pathlib.Path(
      stack.enter_context(tempfile.TemporaryDirectory(prefix='overhead-'))
    )
    folder.chmod(0o755)  # scripts of another user read the data
    os.environ['MLAGENT_CACHE'] = str(folder / 'cache')
    if options.profile:
      task = _make_task(folder / 'quick', 0.0, options.data_mb)
      _profile(task, options.profile, options.repeats)
      return 0
    added = {
      kind: _added(
        _make_task(folder / f'quick-{kind}', 0.0, options.data_mb),
        kind,
        options.repeats,
      )
      for kind in options.sandboxes
    }
    slow = _make_task(folder / 'slow', options.seconds, options.data_mb)
    ours = {
      workers: _steps_a_second(slow, options.peer_sandbox, workers, options)
      for workers in (1, 2, 4)
    }
    peer = {
      workers: _peer_steps_a_second(slow, folder / 'peer', workers, options)
      for workers in (1, 4)
    }
  met = [added[kind] <= TARGETS[kind] for kind in added]
  ratio = ours[4] / peer[1]
  print(
    json.dumps(
      {
        'name': 'environment_overhead',
        'ours': round(ours[4], 3),
        'peer': round(peer[1], 3),
        'ratio': round(ratio, 2),
        'machine': _machine(),
        'added_ms': {k: round(1000 * v, 1) for k, v in added.items()},
        'targets_ms': {k: round(1000 * TARGETS[k]) for k in added},
        'steps_a_second': {str(k): round(v, 3) for k, v in ours.items()},
        'peer_steps_a_second': {str(k): round(v, 3) for k, v in peer.items()},
        'sandbox': options.peer_sandbox,
      }
    )
  )
  return 0 if all(met) and ratio >= TARGET_RATIO else 1


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--sandboxes', nargs='+', default=list(TARGETS), metavar='KIND')
  add('--repeats', type=int, default=40, help='of each (default: 40)')
  add('--steps', type=int, default=24, help='of the second part (default: 24)')
  add('--seconds', type=float, default=1.0, help='of its script (default: 1)')
  add('--data_mb', type=int, default=50, help='of data (default: 50)')
  add(
    '--peer_sandbox',
    default='docker',
    help="our sandbox in the comparison (default: docker, the peer's)",
  )
  add('--profile', metavar='KIND', help='shows where one sandbox spends time')
  return parser


def _make_task(
  folder: pathlib.Path, seconds: float, data_mb: int
) -> task_folder.Task:
  """A prepared task with so much data and a script that takes so long."""
  folder = folder / 'overhead'
  (folder / 'starter').mkdir(parents=True)
  (folder / 'starter' / 'train.py').write_text(_SCRIPT.format(seconds=seconds))
  (folder / 'prepare.py').write_text(_PREPARE)
  x = range(1, 41)
  made = {
    'public/test.csv': 'id,x\n' + ''.join(f'r{i},{i}\n' for i in x),
    'private/labels.csv': 'id,split,y\n'
    + ''.join(
      f'r{i},{"validation" if i < 20 else "test"},{2 * i}\n' for i in x
    ),
  }
  contents = {name: text.encode() for name, text in made.items()}
  for number in range(10):
    contents[f'public/part{number}.bin'] = os.urandom(data_mb * 10**5)
  text = _TASK
  for name, content in contents.items():
    (folder / 'made' / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / 'made' / name).write_bytes(content)
    text += f"'{name}' = '{hashlib.sha256(content).hexdigest()}'\n"
  (folder / 'task.toml').write_text(text)
  shutil.rmtree(pathlib.Path(os.environ['MLAGENT_CACHE']), ignore_errors=True)
  task = task_folder.load_task(folder)
  prepared.prepare_task(task)
  return task


@contextlib.contextmanager
def _environment(task: task_folder.Task, kind: str):
  with (
    tempfile.TemporaryDirectory(prefix='overhead-store-') as store,
    sandbox.make_sandbox(kind) as box,
  ):
    yield episode.Environment(
      {task.name: task},
      box,
      BlobStore(pathlib.Path(store) / 'blobs'),
      cache=ExecutionCache(pathlib.Path(store) / 'executions'),
    )


def _edit(number: int) -> str:
  """A reply that makes a script which was not there before."""
  return (
    'Thought: t\nAction: Edit Script Lines\n'
    f'Action Input: train.py {_LINE}-{_LINE}\nNUMBER = {number}'
  )


def _step(environment: episode.Environment, number: int) -> None:
  start = environment.initial('overhead')
  outcome, _ = environment.step('overhead', start, _edit(number))
  if outcome.kind is not OutcomeKind.EDITED or outcome.cached:
    raise RuntimeError(f'the step came to {outcome}')


def _added(task: task_folder.Task, kind: str, repeats: int) -> float:
  """Median seconds of a step, less those of the bare script."""
  with (
    _environment(task, kind) as environment,
    tempfile.TemporaryDirectory(prefix='overhead-bare-') as bare,
  ):
    shutil.copytree(task.starter_folder, bare, dirs_exist_ok=True)
    os.symlink(task.data_folder, pathlib.Path(bare) / 'data')
    command = [sys.executable, '-I', 'train.py']
    seconds = {'step': [], 'bare': []}
    for number in range(1, repeats + 4):
      began = time.perf_counter()
      _step(environment, number)
      stepped = time.perf_counter()
      subprocess.run(command, cwd=bare, check=True)
      ended = time.perf_counter()
      if number > 3:  # warm
        seconds['step'].append(stepped - began)
        seconds['bare'].append(ended - stepped)
  step, script = (statistics.median(seconds[name]) for name in seconds)
  print(
    f'{kind}: a step {1000 * step:.1f} ms (least'
    f' {1000 * min(seconds["step"]):.1f}), the bare script'
    f' {1000 * script:.1f} ms, added {1000 * (step - script):.1f} ms; target'
    f' {1000 * TARGETS[kind]:.0f} ms',
    flush=True,
  )
  return step - script


def _steps_a_second(task, kind: str, workers: int, options) -> float:
  with (
    _environment(task, kind) as environment,
    LocalPool(environment, workers=workers) as pool,
  ):
    start = environment.initial('overhead')

    def take(numbers) -> None:
      for outcome, _ in pool.map(
        [('overhead', start, _edit(number)) for number in numbers]
      ):
        if outcome.kind is not OutcomeKind.EDITED or outcome.cached:
          raise RuntimeError(f'a step came to {outcome}')

    take(range(1, workers + 1))  # warm
    began = time.perf_counter()
    take(range(100, 100 + options.steps))
    rate = options.steps / (time.perf_counter() - began)
  print(f'{kind}, {workers} workers: {rate:.2f} steps/s', flush=True)
  return rate


def _peer_steps_a_second(task, folder, workers: int, options) -> float:
  """A whole copy for each step, and a container of its own."""
  workspace = folder / f'state-{workers}'
  shutil.copytree(task.starter_folder, workspace)
  shutil.copytree(task.data_folder, workspace / 'data')
  names = itertools.count()

  def take(_) -> None:
    copy = folder / f'copy-{workers}-{next(names)}'
    shutil.copytree(workspace, copy)
    for path in (copy, *copy.rglob('*')):
      os.chown(path, 1000, 1000)
    subprocess.run(
      [
        *('docker', 'run', '--rm', '--network', 'none', '--read-only'),
        *('--tmpfs', '/tmp', '--user', '1000:1000', '--cap-drop', 'ALL'),
        *('--security-opt', 'no-new-privileges', '--memory', '512m'),
        *('--cpus', '1', '--pids-limit', '64'),
        *('--volume', f'{copy}:/workspace', '--workdir', '/workspace'),
        *(IMAGE, 'python', 'train.py'),
      ],
      check=True,
    )
    grading.grade(copy / 'submission.csv', task)
    shutil.rmtree(copy)

  with concurrent.futures.ThreadPoolExecutor(workers) as threads:
    list(threads.map(take, range(workers)))  # warm
    began = time.perf_counter()
    list(threads.map(take, range(options.steps)))
    rate = options.steps / (time.perf_counter() - began)
  print(f'full copy, docker run, {workers} at once: {rate:.2f} steps/s')
  return rate


def _profile(task, kind: str, repeats: int) -> None:
  with _environment(task, kind) as environment:
    _step(environment, 0 + repeats + 1)
    profile = cProfile.Profile()
    profile.enable()
    for number in range(1, repeats + 1):
      _step(environment, number)
    profile.disable()
  pstats.Stats(profile).sort_stats('cumulative').print_stats(60)


def _machine() -> str:
  load = os.getloadavg()[0]
  return f'{os.cpu_count()} cores, {platform.machine()}, load {load:.1f}'


if __name__ == '__main__':
  sys.exit(main())

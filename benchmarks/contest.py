"""Contestants of a benchmark: processes that take steps in turns.

What else the machine does then hits all alike, and no contestant warms the
caches or the allocator of another.
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import time

import smollm2

# glibc gives large temporaries back after every call otherwise, and the kernel
# clears their pages again. For all contestants.
ALLOCATOR = {
  'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1',
  'MALLOC_MMAP_MAX_': '0',
  'MALLOC_TRIM_THRESHOLD_': '1000000000000',
}
STEPS_PER_TURN = 3  # timed ones


def serve(take_step) -> None:
  """A contestant's process: takes a step for every line of its input.

  Args:
    take_step: does the work to its end, and returns its loss.
  """
  for _ in sys.stdin:
    start, cpu = time.perf_counter(), time.process_time()
    loss = take_step()
    step = {
      'seconds': time.perf_counter() - start,
      'cpu_seconds': time.process_time() - cpu,
      'loss': loss,
      'gib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    print('step', json.dumps(step), flush=True)


def race(commands, steps: int) -> dict[str, dict]:
  """Runs contestants in turns of one untimed step and a few timed ones.

  While it waits, a contestant's memory may leave the caches, and the kernel may
  reclaim it: the first step of a turn pays for the wait, which is no part of
  the work.

  Args:
    commands: name -> the command that starts its process.
    steps: timed ones of each contestant.

  Returns:
    name -> medians of 'seconds' and 'cpu_seconds', and the peak 'gib'.
  """
  running = {
    name: subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=os.environ | ALLOCATOR | {'JAX_PLATFORMS': 'cpu'},
    )
    for name, command in commands.items()
  }
  seen = {name: [] for name in running}
  for first in range(1, steps + 1, STEPS_PER_TURN):
    for name, process in running.items():
      for number in range(first - 1, min(first + STEPS_PER_TURN, steps + 1)):
        step = _take_step(process)
        timed = number >= first
        if timed:
          seen[name].append(step)
        print(
          f'{name:12} {"step " + str(number) if timed else "untimed"}:'
          f' {step["seconds"]:6.2f} s, {step["cpu_seconds"]:6.2f} s of CPU,'
          f' loss {step["loss"]:.3f}, {step["gib"]:.2f} GiB',
          flush=True,
        )
  for process in running.values():
    process.stdin.close()
    process.wait()
  return {
    name: {
      'seconds': statistics.median(step['seconds'] for step in taken),
      'cpu_seconds': statistics.median(step['cpu_seconds'] for step in taken),
      'gib': taken[-1]['gib'],
    }
    for name, taken in seen.items()
  }


def _take_step(process) -> dict:
  process.stdin.write('\n')
  process.stdin.flush()
  for line in process.stdout:
    if line.startswith('step '):
      return json.loads(line.removeprefix('step '))
  raise SystemExit(f'{process.args} ended with exit code {process.wait()}')


def main(doc: str, name: str, contestants, *, tokens: int, steps: int) -> None:
  """The command of a benchmark whose contestants process the same tokens.

  Args:
    doc: of its script, for --help.
    name: of the benchmark.
    contestants: name -> (its peer, 'hf' or 'tunix', or 'ours'; a function of
      the number of layers that returns `take_step`). The best of a peer's
      counts; those of 'tunix' run if --tunix says where it is installed.
    tokens: that a step processes.
    steps: timed ones, by default.
  """
  options = _options(doc, steps)
  if options.contestant:
    serve(contestants[options.contestant][1](options.layers))
    return
  pythons = {'ours': sys.executable, 'hf': sys.executable}
  if options.tunix:
    pythons['tunix'] = str(options.tunix / 'bin' / 'python')
  peer_of = {k: peer for k, (peer, _) in contestants.items() if peer in pythons}
  seen = race(
    {
      each: [
        pythons[peer],
        sys.argv[0],
        f'--contestant={each}',
        f'--layers={options.layers}',
      ]
      for each, peer in peer_of.items()
    },
    options.steps,
  )
  cores = os.cpu_count()
  rate = {each: tokens / found['seconds'] for each, found in seen.items()}
  # On a machine that is shared, the time on its cores says more.
  cpu_rate = {
    each: tokens * cores / found['cpu_seconds'] for each, found in seen.items()
  }

  def best(rates, peer):
    return max(rates[each] for each in rates if peer_of[each] == peer)

  def ratios(rates):
    return {
      peer: round(rates['ours'] / best(rates, peer), 2)
      for peer in pythons
      if peer != 'ours'
    }

  result = {
    'name': f'{name}, {options.layers} layers',
    'ours': round(rate['ours'], 1),
    'peer': round(best(rate, 'hf'), 1),
    'ratio': ratios(rate)['hf'],
    'ratios': ratios(rate),
    'cpu_ratios': ratios(cpu_rate),
    'tokens_per_second': {k: round(v, 1) for k, v in rate.items()},
    'tokens_per_second_of_all_cores': {
      k: round(v, 1) for k, v in cpu_rate.items()
    },
    'peak_gib': {each: round(found['gib'], 2) for each, found in seen.items()},
    'machine': machine(),
  }
  print(json.dumps(result))


def machine() -> str:
  """For the last line of a benchmark: the machine, and how busy it is."""
  load = os.getloadavg()[1]
  return f'{os.cpu_count()} cores, {platform.machine()}, load {load:.1f}'


def _options(doc, steps):
  parser = argparse.ArgumentParser(
    description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--steps', type=int, default=steps, help='timed ones')
  parser.add_argument('--layers', type=int, default=smollm2.LAYERS)
  parser.add_argument('--tunix', type=pathlib.Path, help='its environment')
  parser.add_argument('--contestant', help=argparse.SUPPRESS)
  return parser.parse_args()

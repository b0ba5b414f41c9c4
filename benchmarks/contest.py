"""Contestants of a benchmark: processes that take steps in turns.

What else the machine does then hits all alike, and no contestant warms the
caches or the allocator of another.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time

# glibc gives large temporaries back after every call otherwise, and the kernel
# clears their pages again. For all contestants.
ALLOCATOR = {
  'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1',
  'MALLOC_MMAP_MAX_': '0',
  'MALLOC_TRIM_THRESHOLD_': '1000000000000',
}


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
  """Runs contestants in turns: one step to warm up, then `steps` timed ones.

  Args:
    commands: name -> the command that starts its process.
    steps: timed ones.

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
  for number in range(steps + 1):
    for name, process in running.items():
      step = _take_step(process)
      if number:
        seen[name].append(step)
      print(
        f'{name:12} {"step " + str(number) if number else "warm-up"}:'
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

"""Compiles the 7B for every pod and writes the tables of docs/pods.md.

`python benchmarks/pods.py` compiles the cases that benchmarks/pods.json has no
result of (a minute or two each, one at a time; killed, it goes on where it was)
and rewrites the tables. A result is of one version of the code: --again
compiles all cases anew, --only=TEXT those whose name has TEXT in it.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'benchmarks' / 'pods.json'
PAGE = ROOT / 'docs' / 'pods.md'

PODS = ('v5e:4x4', 'v5e:8x8', 'v5p:2x2x1', 'v6e:2x4')
SFT, RL, PPO = (f'configs/qwen25_7b_{name}.py' for name in ('sft', 'rl', 'ppo'))
FOUR = ('rl.states_per_batch=4',)

# name: (config, function, topology, overrides)
CASES = {
  'sft 16,384 x 16': (SFT, 'sft_step', 'v5e:4x4', ('sft.batch_size=16',)),
  'sft 32,768 x 4': (
    SFT,
    'sft_step',
    'v5e:4x4',
    ('sft.max_length=32768', 'sft.batch_size=4'),
  ),
  'rl 4 states': (RL, 'rl_step', 'v5e:4x4', FOUR),
  **{f'sft on {pod}': (SFT, 'sft_step', pod, ()) for pod in PODS},
  **{f'rl on {pod}': (RL, 'rl_step', pod, ()) for pod in PODS},
  'logps': (RL, 'logps', 'v5e:4x4', ()),
  **{
    f'ppo {part} on {pod}': (PPO, f'{part}_step', pod, ())
    for pod in ('v5e:4x4', 'v5e:4x8', 'v6e:2x4')
    for part in ('rl', 'critic')
  },
}
# The paper's runs: (row of the table, case of one step, steps).
TRAJECTORIES, EPOCHS, STEPS_OF_ONE, BATCH = 10_000, 2, 15, 64


def compile_case(case) -> dict:
  config, function, topology, overrides = case
  command = [
    sys.executable,
    '-m',
    'mlagent_jax.compile',
    f'--config={config}',
    f'--function={function}',
    f'--topology={topology}',
    '--json',
    *(f'--config.{override}' for override in overrides),
  ]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  lines = done.stdout.splitlines()
  if not lines or not lines[-1].startswith('{'):
    raise RuntimeError(f'{" ".join(command)}:\n{done.stdout}{done.stderr}')
  return json.loads(lines[-1])


def cells(result) -> list[str]:
  mesh = ' x '.join(str(size) for size in result['mesh'].values())
  spare = result['capacity_gib'] - result['peak_gib']
  fits = (
    f'yes, {spare:.1f} spare' if result['fits'] else f'**no**, {-spare:.1f}'
  )
  row = [
    f'{result["topology"]} ({mesh})',
    f'{result["tokens"]:,}',
    f'{result["arguments_gib"]:.2f}',
    f'{result["beside_gib"]:.2f}',
    f'{result["temporaries_gib"]:.2f}',
    f'{result["peak_gib"]:.2f} / {result["capacity_gib"]}',
    fits,
  ]
  if 'mfu' not in result:
    return [*row, '', '', '', '']
  parts = ('compute', 'hbm', 'interconnect')
  return [
    *row,
    ' / '.join(f'{result[f"{part}_seconds"]:.2f}' for part in parts),
    result['binds'],
    f'{result["mfu"]:.0%}',
    f'{result["tokens_per_second"]:,.0f}',
  ]


def table(header, rows) -> str:
  lines = [header, ['---'] * len(header), *rows]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def memory_table(results) -> str:
  header = ['program', 'topology (data x fsdp x model)', 'tokens']
  header += ['arguments', 'beside', 'temporaries', 'peak / capacity', 'fits']
  header += ['compute / memory / interconnect, s', 'binds', 'MFU', 'tokens/s']
  rows = [[name, *cells(results[name])] for name in CASES if name in results]
  return table(header, rows)


def time_table(results) -> str:
  """Hours of the paper's runs, were the roofline reached and at half of it."""
  rows = []
  for pod in PODS:
    sft, rl = results.get(f'sft on {pod}'), results.get(f'rl on {pod}')
    row = [f'{pod} ({sft["chips"]} chips)'] if sft else None
    if not sft or 'mfu' not in sft:
      continue
    # A row is one example: every step of every trajectory, cut off at 16,384.
    updates = -(-TRAJECTORIES * EPOCHS // BATCH)
    for result, steps in ((sft, updates), (rl, 200)):
      if not result or 'mfu' not in result:
        row += ['', '']
        continue
      hours = result['roofline_seconds'] * steps / 3600
      row += [
        f'{hours:.1f} to {2 * hours:.1f} h',
        f'{hours * result["chips"]:,.0f} to {2 * hours * result["chips"]:,.0f}',
      ]
    rows.append(row)
  header = ['pod', f'SFT, {updates} updates', 'chip-hours']
  return table([*header, 'RL, 200 updates', 'chip-hours'], rows)


def replace_part(page: str, name: str, text: str) -> str:
  start, end = f'<!-- {name} -->', f'<!-- end of {name} -->'
  before, _, rest = page.partition(start)
  _, found, after = rest.partition(end)
  if not found:
    raise ValueError(f'{PAGE} has no {start} … {end}')
  return f'{before}{start}\n{text}\n{end}{after}'


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--again', action='store_true', help='compile all anew')
  parser.add_argument('--only', default='', help='part of a name')
  args = parser.parse_args()
  results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
  for number, (name, case) in enumerate(CASES.items(), start=1):
    if args.only not in name or (name in results and not args.again):
      continue
    start = time.monotonic()
    results[name] = compile_case(case)
    RESULTS.write_text(json.dumps(results, indent=1) + '\n')
    fits = 'fits' if results[name]['fits'] else 'does not fit'
    seconds = time.monotonic() - start
    print(
      f'[{number}/{len(CASES)}] {name}: {fits}, {seconds:.0f} s', flush=True
    )
  page = PAGE.read_text()
  page = replace_part(page, 'memory', memory_table(results))
  page = replace_part(page, 'time', time_table(results))
  PAGE.write_text(page)


if __name__ == '__main__':
  main()

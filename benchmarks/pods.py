"""Compiles the 7B for every pod and writes the tables of docs/pods.md.

`python benchmarks/pods.py` compiles the cases that benchmarks/pods.json has no
result of (a minute or two each, one at a time; killed, it goes on where it was)
and rewrites the tables. A result is of one version of the code: --again
compiles all cases anew, --only=TEXT those with TEXT in their name, and --tables
none.
"""

import argparse
import importlib
import json
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for configs
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
  'prefill': (RL, 'prefill', 'v5e:4x4', ()),
  'decode': (RL, 'decode', 'v5e:4x4', ()),
  **{
    f'ppo {part} on {pod}': (PPO, f'{part}_step', pod, ())
    for pod in ('v5p:2x2x1', 'v6e:2x4', 'v5e:4x4')
    for part in ('rl', 'critic')
  },
}
# The paper's SFT: 10k trajectories, 2 epochs, batches of 64.
UPDATES = {'sft': -(-10_000 * 2 // 64), 'rl': 200}


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


def arithmetic(case) -> tuple[int, float]:
  """(chips, seconds of compute at the peak) of a case: nothing is compiled."""
  from mlagent_jax.aot import programs, roofline, topologies
  from mlagent_jax.stages import session

  path, function, topology, overrides = case
  config = importlib.import_module(path[:-3].replace('/', '.')).get_config()
  for override in overrides:
    key, value = override.split('=')
    config.update_from_flattened_dict({key: int(value)})
  devices = topologies.devices_of(topology)
  session.fill_in(config, len(devices))
  session.check_config(config, len(devices))
  program, learner = programs.make_program(config, function, devices)
  flops = program.work.executed_flops(learner.model) / len(devices)
  return len(devices), flops / roofline.CHIPS[devices[0].device_kind].flops


def time_table(results) -> str:
  """Hours and chip-hours of the paper's runs, at the roofline."""
  rows = []
  for pod in PODS:
    row = [pod]
    for stage, updates in UPDATES.items():
      case = f'{stage} on {pod}'
      chips, seconds = arithmetic(CASES[case])
      bound = 'compute'
      compiled = results.get(case, {})
      if compiled.get('roofline_seconds', 0) > seconds:
        seconds, bound = compiled['roofline_seconds'], compiled['binds']
      hours = seconds * updates / 3600
      row += [f'{seconds:.1f} ({bound})', f'{hours:.1f} h']
      row += [f'{hours * chips:,.0f}']
    rows.append(row)
  header = ['pod']
  for stage, updates in UPDATES.items():
    header += [f'{stage} update, s', f'{updates} updates', 'chip-hours']
  return table(header, rows)


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
  parser.add_argument('--tables', action='store_true', help='compile nothing')
  args = parser.parse_args()
  results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
  for number, (name, case) in enumerate(CASES.items(), start=1):
    known = name in results and not args.again
    if args.tables or args.only not in name or known:
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

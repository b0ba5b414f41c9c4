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
SAMPLING = ('logps', 'prefill', 'decode')
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
  **{
    f'{function} on {pod}': (RL, function, pod, ())
    for function in SAMPLING
    for pod in PODS
  },
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
    ' / '.join(f'{result[f"{part}_seconds"]:.3g}' for part in parts),
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


def batch_seconds(results, pod: str) -> dict[str, float]:
  """Device seconds of one RL batch, by what they are spent on.

  Prompts that are prefilled one for each group of chips, chunks of tokens of
  all samples at once, the reference's log-probabilities, the update.
  """
  config = importlib.import_module(RL[:-3].replace('/', '.')).get_config()
  by = {name: results[f'{name} on {pod}'] for name in (*SAMPLING, 'rl')}
  prompts = config.rl.states_per_batch * config.agent.max_prompt_tokens
  samples = config.rl.states_per_batch * config.rl.samples_per_state
  tokens = samples * config.agent.max_action_tokens
  return {
    'prefill': by['prefill']['roofline_seconds']
    * (prompts / by['prefill']['tokens']),
    'decode': by['decode']['roofline_seconds']
    * (tokens / by['decode']['tokens']),
    'logps': by['logps']['roofline_seconds'],
    'update': by['rl']['roofline_seconds'],
  }


def time_table(results) -> str:
  """Hours and chip-hours of the paper's runs, at the roofline."""
  rows = []
  for pod in PODS:
    needed = [f'{p} on {pod}' for p in ('sft', 'rl', *SAMPLING)]
    if not all(name in results for name in needed):
      continue
    sft = results[f'sft on {pod}']
    spent = batch_seconds(results, pod)
    row = [pod, f'{sft["roofline_seconds"]:.1f} ({sft["binds"]})']
    row += hours(sft['roofline_seconds'] * UPDATES['sft'], sft['chips'])
    row += [' + '.join(f'{seconds:.1f}' for seconds in spent.values())]
    row += hours(sum(spent.values()) * UPDATES['rl'], sft['chips'])
    rows.append(row)
  header = ['pod', 'SFT update, s', f'{UPDATES["sft"]} updates', 'chip-hours']
  header += ['RL batch: prefill + decode + reference + update, s']
  header += [f'{UPDATES["rl"]} batches', 'chip-hours']
  return table(header, rows)


def hours(seconds: float, chips: int) -> list[str]:
  return [f'{seconds / 3600:.1f} h', f'{seconds / 3600 * chips:,.0f}']


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

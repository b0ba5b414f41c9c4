"""Writes docs/demo.md from the work directories of the demo's seeds.

  python benchmarks/demo_table.py runs/demo-seed0 runs/demo-seed1 … \
    --out=docs/demo.md

Every figure is read from results.json and timings.json of a run; the picture
is the first run's curves.png. Falls short: a figure below its target is
marked, never left out.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil

TARGETS = (
  # label, path in results.json (or a function), target
  ('valid after SFT', lambda r: r['rl']['valid_rate_first'], 0.80),
  ('valid after RL', lambda r: r['rl']['valid_rate_last'], 0.90),
  (
    'reward, RL gain',
    lambda r: r['rl']['reward_last'] - r['rl']['reward_first'],
    0.10,
  ),
  (
    'edit reward, RL gain',
    lambda r: r['rl']['edit_reward_last'] - r['rl']['edit_reward_first'],
    0.05,
  ),
  (
    'share of edits, change',
    lambda r: r['rl']['edit_share_last'] - r['rl']['edit_share_first'],
    0.0,
  ),
  (
    'distinct edits, least of a task',
    lambda r: min(r['rl']['distinct_edits_last'].values()),
    5,
  ),
  (
    'held-in gain, RL over starter',
    lambda r: r['evaluate']['held_in']['rl'],
    0.05,
  ),
  (
    'held-in gain, RL over SFT: low end of 95 % interval',
    lambda r: r['evaluate']['rl_over_sft']['held_in']['interval'][0],
    0.0,
  ),
)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('workdirs', nargs='+', type=pathlib.Path)
  parser.add_argument('--out', type=pathlib.Path, required=True)
  args = parser.parse_args()
  runs = [
    json.loads((folder / 'results.json').read_text())
    for folder in args.workdirs
  ]
  seeds = [run['seed'] for run in runs]
  lines = [
    '# The demo, measured',
    '',
    f'`make demo-seeds` on {os.cpu_count()} cores ({platform.machine()}),'
    f' Python {platform.python_version()}. Fixed set: 64 states × 8 fresh'
    ' samples at temperature 1 that RL never saw, executed for real'
    ' before and after RL. Episodes: 8 a task, at most 5 steps. A figure that'
    ' misses its target is marked **short**.',
    '',
    '| figure | target | ' + ' | '.join(f'seed {s}' for s in seeds) + ' |',
    '|---|---|' + '---|' * len(runs),
  ]
  for label, read, target in TARGETS:
    cells = []
    for run in runs:
      value = read(run)
      # "above zero" for the interval, "at least" for the others.
      met = value > target if 'interval' in label else value >= target
      cells.append(f'{value:.3g}' + ('' if met else ' **short**'))
    relation = '> ' if 'interval' in label else '≥ '
    lines.append(f'| {label} | {relation}{target} | {" | ".join(cells)} |')
  totals = [sum(run['seconds'].values()) for run in runs]
  seconds = [
    f'{total:.0f} s' + ('' if total <= 480 else ' **short**')
    for total in totals
  ]
  lines.append(f'| whole run | ≤ 480 s | {" | ".join(seconds)} |')
  for stage in runs[0]['seconds']:
    cells = [f'{run["seconds"][stage]:.0f} s' for run in runs]
    lines.append(f'| of that: {stage} | | {" | ".join(cells)} |')
  lines += ['', '## Fixed set, before and after RL', '']
  lines += ['| figure | ' + ' | '.join(f'seed {s}' for s in seeds) + ' |']
  lines += ['|---|' + '---|' * len(runs)]
  for name in ('valid_rate', 'reward', 'edit_reward', 'edit_share'):
    cells = [
      f'{run["rl"][name + "_first"]:.3f} → {run["rl"][name + "_last"]:.3f}'
      for run in runs
    ]
    lines.append(f'| {name} | {" | ".join(cells)} |')
  lines += ['', '## Episodes: mean normalised gain on test scores', '']
  lines += ['| agent | ' + ' | '.join(f'seed {s}' for s in seeds) + ' |']
  lines += ['|---|' + '---|' * len(runs)]
  for split in ('held_in', 'held_out'):
    for agent in ('starter', 'base', 'sft', 'rl'):
      cells = [f'{run["evaluate"][split][agent]:+.3f}' for run in runs]
      name = f'{agent}, {split.replace("_", "-")}'
      lines.append(f'| {name} | {" | ".join(cells)} |')
  picture = args.out.with_name('demo_curves.png')
  shutil.copyfile(args.workdirs[0] / 'curves.png', picture)
  lines += ['', f'![curves of seed {seeds[0]}]({picture.name})', '']
  args.out.write_text('\n'.join(lines))
  print('\n'.join(lines))


if __name__ == '__main__':
  main()

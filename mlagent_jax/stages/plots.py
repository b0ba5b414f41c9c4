"""curves.png: the whole run in one picture."""

import pathlib

import matplotlib
import numpy as np

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402

from mlagent_jax.stages import run_log, timeline  # noqa: E402

# Outcome kinds by what they mean; green edits, grey looks, red mistakes.
SHARES = (
  ('edits that ran', '#2a9d5c', ('edited',)),
  (
    'valid, no edit',
    '#9aa5b1',
    ('looked', 'executed', 'copied', 'undone', 'final_answer'),
  ),
  ('stopped by a limit', '#e9a23b', ('time_limit', 'memory_limit')),
  (
    'script failed or no submission',
    '#d1605e',
    (
      'script_failed',
      'missing_submission',
      'stale_submission',
      'refused_submission',
    ),
  ),
  (
    'not a valid action',
    '#7d2e2e',
    ('unparsed', 'unknown_action', 'bad_arguments', 'edit_failed'),
  ),
)


def _series(rows, stage, name):
  points = [
    (r['step'], r[name]) for r in rows if r['stage'] == stage and name in r
  ]
  return zip(*sorted(points)) if points else ((), ())


def draw_curves(workdir: pathlib.Path, results: dict) -> pathlib.Path:
  """Draws what metrics.jsonl and the results have so far; returns the path."""
  rows = run_log.read_metrics(workdir)
  figure, axes = plt.subplots(2, 4, figsize=(20, 8), constrained_layout=True)
  _draw_sft(axes[0, 0], rows)
  _draw_rewards(axes[0, 1], rows, results.get('rl', {}))
  _draw_shares(axes[0, 2], rows)
  _draw_kl(axes[1, 0], rows)
  _draw_executions(axes[1, 1], rows)
  _draw_evaluation(axes[1, 2], results.get('evaluate', {}))
  _draw_seconds(axes[0, 3], rows)
  _draw_staleness(axes[1, 3], rows)
  path = workdir / 'curves.png'
  figure.savefig(path, dpi=110)
  plt.close(figure)
  return path


def _draw_sft(axis, rows):
  axis.plot(*_series(rows, 'sft', 'loss'), color='#33658a', lw=1)
  axis.set(title='Fine-tuning: loss', xlabel='step', ylabel='nats a token')
  axis.set_yscale('log')


def _draw_rewards(axis, rows, result):
  for name, color in (('reward', '#33658a'), ('edit_reward', '#2a9d5c')):
    axis.plot(*_series(rows, 'rl', name), color=color, label=name, lw=1.2)
    if f'{name}_first' in result:
      steps = [r['step'] for r in rows if r['stage'] == 'rl']
      ends = [0, max(steps, default=1)]
      values = [result[f'{name}_first'], result[f'{name}_last']]
      axis.plot(ends, values, 'o--', color=color, label=f'{name}, fixed set')
  axis.set(title='RL: mean reward', xlabel='step', ylim=(0, 1))
  axis.legend(fontsize=8)


def _draw_shares(axis, rows):
  rl = sorted((r for r in rows if r['stage'] == 'rl'), key=lambda r: r['step'])
  steps = [r['step'] for r in rl]
  stacks = [
    [sum(r.get(f'share/{kind}', 0.0) for kind in kinds) for r in rl]
    for _, _, kinds in SHARES
  ]
  if steps:
    axis.stackplot(
      steps,
      stacks,
      colors=[color for _, color, _ in SHARES],
      labels=[label for label, _, _ in SHARES],
    )
    axis.legend(fontsize=7, loc='lower left')
  axis.set(title='RL: what became of the actions', xlabel='step', ylim=(0, 1))


def _draw_kl(axis, rows):
  axis.plot(*_series(rows, 'rl', 'kl'), color='#86569a', label='KL to SFT')
  axis.plot(*_series(rows, 'rl', 'entropy'), color='#c98b2b', label='entropy')
  axis.set(title='RL: distance and diversity', xlabel='step', ylabel='nats')
  axis.legend(fontsize=8)


def _draw_executions(axis, rows):
  for name, color in (('executions', '#33658a'), ('reused', '#9aa5b1')):
    axis.plot(*_series(rows, 'rl', name), color=color, label=name)
  axis.set(title='RL: scripts run and results reused', xlabel='step')
  axis.legend(fontsize=8)


def _draw_seconds(axis, rows):
  kinds = ('sample', 'update', 'checkpoint', 'wait')
  rl = sorted((r for r in rows if r['stage'] == 'rl'), key=lambda r: r['step'])
  stacks = [[r.get(f'{kind}_seconds', 0.0) for r in rl] for kind in kinds]
  if rl:
    axis.stackplot(
      [r['step'] for r in rl],
      stacks,
      colors=[timeline.COLOURS[kind] for kind in kinds],
      labels=kinds,
    )
    # The first steps compile: they would flatten the others.
    totals = np.sum(stacks, axis=0)
    axis.set_ylim(0, 1.5 * max(np.quantile(totals, 0.8), 1e-3))
    axis.legend(fontsize=7, loc='upper right')
  axis.set(title='RL: what the device does', xlabel='step', ylabel='seconds')


def _draw_staleness(axis, rows):
  for name, color in (('staleness', '#33658a'), ('staleness_max', '#9aa5b1')):
    axis.plot(*_series(rows, 'rl', name), color=color, label=name)
  for name, color in (('late', '#e9a23b'), ('dropped', '#d1605e')):
    axis.plot(*_series(rows, 'rl', name), '.', color=color, label=name)
  axis.set(title='RL: staleness, late samples', xlabel='step')
  axis.legend(fontsize=8)


def _draw_evaluation(axis, evaluate):
  agents = ('starter', 'base', 'sft', 'rl')
  width = 0.38
  for offset, split, color in (
    (-width / 2, 'held_in', '#33658a'),
    (width / 2, 'held_out', '#c98b2b'),
  ):
    gains = evaluate.get(split, {})
    shown = [agent for agent in agents if agent in gains]
    places = [agents.index(agent) + offset for agent in shown]
    axis.bar(
      places,
      [gains[agent] for agent in shown],
      width,
      color=color,
      label=split.replace('_', '-'),
    )
  axis.axhline(0, color='black', lw=0.8)
  axis.set_xticks(range(len(agents)), agents)
  axis.set(title='Episodes: mean normalised gain (test)')
  axis.legend(fontsize=8)

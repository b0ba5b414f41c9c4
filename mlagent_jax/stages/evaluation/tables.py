"""An evaluation as tables: CSV, Markdown and LaTeX, like the paper's Table 1.

One row a task, one column an agent, avg@N / best@N in each cell, held-in and
held-out tasks apart, gains below. The paper's own figures stand beside ours
where the task is the paper's, by name; a stand-in says what it stands for.
"""

import csv
import io
from collections.abc import Mapping, Sequence

from mlagent_jax.stages.evaluation import paper

SPLITS = {'held_in': 'Held-in', 'held_out': 'Held-out'}
TITLES = {
  'starter': 'Starter',
  'untrained': 'Untrained',
  'sft': 'SFT',
  'rl': 'SFT + RL',
  'scripted': 'Scripted expert',
  'random': 'Random actions',
}


def score(value: float) -> str:
  """A score with as many digits as tell scores apart."""
  if abs(value) >= 1000:
    return f'{value:.0f}'
  return f'{value:.4f}' if abs(value) < 10 else f'{value:.2f}'


def interval(pair: Sequence[float] | None, digits: int = 3) -> str:
  """An interval in brackets; a dash for none."""
  if pair is None:
    return '–'
  low, high = pair
  return f'[{low:+.{digits}f}, {high:+.{digits}f}]'


def p_value(value: float) -> str:
  """A p-value as it is usually written."""
  return '< 0.001' if value < 0.001 else f'{value:.3f}'


def title(agent: str) -> str:
  """How an agent is called in a table."""
  return TITLES.get(agent, agent)


def to_csv(results: Mapping) -> str:
  """One row a task and agent, every figure a column."""
  flat = []
  for task, card in results['tasks'].items():
    for agent, figures in card['agents'].items():
      row = {
        'task': task,
        'split': card['split'],
        'metric': card['metric'],
        'higher_is_better': card['higher_is_better'],
        'stands_for': card['stands_for'],
        'agent': agent,
      }
      for name, value in figures.items():
        if name in ('mean_interval', 'normalised_gain_interval'):
          row[f'{name}_low'], row[f'{name}_high'] = value
        elif name == 'win_rate_interval':
          row['win_rate_low'], row['win_rate_high'] = value
        elif name == 'per_episode':
          row |= {f'{key}_per_episode': item for key, item in value.items()}
        elif name == 'kinds':
          row |= {f'share_{kind}': item for kind, item in value.items()}
        elif name == 'scores':
          row['scores'] = ' '.join(map(repr, value))
        else:
          row[name] = value
      flat.append(row)
  names = list(dict.fromkeys(name for row in flat for name in row))
  shares = [name for name in names if name.startswith('share_')]
  names = [name for name in names if name not in shares] + sorted(shares)
  out = io.StringIO()
  writer = csv.DictWriter(out, names, restval='', lineterminator='\n')
  writer.writeheader()
  writer.writerows(flat)
  return out.getvalue()


def to_markdown(results: Mapping) -> str:
  """The whole evaluation as a page of Markdown tables."""
  parts = [
    f'# Evaluation of {len(results["agents"])} agents on'
    f' {len(results["tasks"])} tasks',
    _how(results),
    '## Scores',
    _markdown_rows(main_table(results), bold='**'),
    _notes(results),
    '## Gains over tasks',
    _markdown_rows(gain_table(results)),
    '## What it took, a mean episode',
    _markdown_rows(cost_table(results)),
    '## What became of the actions',
    _markdown_rows(kind_table(results)),
    '## Which agent is better',
    _tests(),
    _markdown_rows(comparison_table(results)),
    '## Does gain depend on complexity?',
    _markdown_rows(complexity_table(results)),
    '',
    _markdown_rows(correlation_table(results)),
  ]
  return '\n\n'.join(parts) + '\n'


def main_table(results: Mapping) -> list[list[str]]:
  """Rows of the table of scores; '*' marks the best mean of a task."""
  agents = list(results['agents'])
  n = results['settings']['episodes']
  known = any(paper.scores_of(task) for task in results['tasks'])
  theirs = [f'paper: {name}' for name in paper.AGENTS] if known else []
  rows = [
    [
      f'Task (avg@{n} / best@{n})',
      'stands for',
      *map(title, agents),
      *theirs,
    ]
  ]
  for split, words in SPLITS.items():
    cards = {t: c for t, c in results['tasks'].items() if c['split'] == split}
    if not cards:
      continue
    rows.append([words] + [''] * (len(rows[0]) - 1))
    for task, card in cards.items():
      rows.append(_score_row(task, card, agents, bool(theirs)))
  return rows


def _score_row(task, card, agents, with_paper) -> list[str]:
  arrow = '↑' if card['higher_is_better'] else '↓'
  means = {agent: card['agents'][agent]['mean'] for agent in agents}
  best = (max if card['higher_is_better'] else min)(means.values())
  cells = []
  for agent in agents:
    figures = card['agents'][agent]
    # As shown: p_init is rounded, and equal scores would not be equal.
    mark = '*' if score(means[agent]) == score(best) else ''
    cells.append(f'{mark}{score(figures["mean"])} / {score(figures["best"])}')
  if with_paper:
    found = paper.scores_of(task)
    cells += [
      f'{score(found[i][0])} / {score(found[i][1])}' if found else '–'
      for i in range(len(paper.AGENTS))
    ]
  return [f'{task} ({card["metric"]} {arrow})', card['stands_for'], *cells]


def gain_table(results: Mapping) -> list[list[str]]:
  """Agents as rows: gains over the tasks of each split, and of all."""
  rows = [
    [
      'Agent',
      'tasks',
      'normalised gain, mean',
      '95 %, other episodes',
      '95 %, other tasks',
      'median',
      'best@N',
      'relative gain avg@N',
      'relative gain best@N',
      'wins against the starter',
    ]
  ]
  for split, words in {'all': 'all', **SPLITS}.items():
    for agent, by_split in results['agents'].items():
      if split not in by_split:
        continue
      f = by_split[split]
      low, high = f['win_rate_interval']
      rows.append(
        [
          title(agent),
          f'{words} ({f["tasks"]})',
          f'{f["normalised_gain_mean"]:+.3f}',
          interval(f['interval_episodes']),
          interval(f['interval_tasks']),
          f'{f["normalised_gain_median"]:+.3f}',
          f'{f["normalised_gain_best"]:+.3f}',
          f'{f["relative_gain_mean"]:+.1f} %',
          f'{f["relative_gain_best"]:+.1f} %',
          f'{f["win_rate"]:.0%} [{low:.0%}, {high:.0%}]',
        ]
      )
  return rows


def cost_table(results: Mapping) -> list[list[str]]:
  """Agents as rows: means an episode over all tasks."""
  names = {
    'steps': ('steps', '.1f'),
    'script_seconds': ('script s', '.1f'),
    'wall_seconds': ('wall s', '.1f'),
    'prompt_tokens': ('prompt tokens', ',.0f'),
    'completion_tokens': ('written tokens', ',.0f'),
    'dollars': ('dollars', '.4f'),
    'accelerator_seconds': ('accelerator s', '.2f'),
    'refused_prompts': ('prompts too long', '.2f'),
  }
  rows = [['Agent', *(words for words, _ in names.values())]]
  for agent, by_split in results['agents'].items():
    costs = by_split['all']['per_episode']
    rows.append(
      [title(agent), *(f'{costs[n]:{form}}' for n, (_, form) in names.items())]
    )
  return rows


def kind_table(results: Mapping) -> list[list[str]]:
  """Agents as rows: shares of outcome kinds over all tasks."""
  of = {a: by_split['all'] for a, by_split in results['agents'].items()}
  kinds = sorted({kind for figures in of.values() for kind in figures['kinds']})
  rows = [['Agent', 'steps', 'valid', *(k.replace('_', ' ') for k in kinds)]]
  for agent, figures in of.items():
    if figures['steps']:
      shares = (figures['kinds'].get(kind, 0.0) for kind in kinds)
      rows.append(
        [
          title(agent),
          str(figures['steps']),
          f'{figures["valid_rate"]:.0%}',
          *(f'{share:.0%}' for share in shares),
        ]
      )
  return rows


def comparison_table(results: Mapping) -> list[list[str]]:
  """Pairs of agents as rows."""
  rows = [
    [
      'Agent',
      'against',
      'difference',
      '95 %',
      'tasks better / worse',
      'p, these tasks (Holm)',
      'p, other tasks (Holm)',
    ]
  ]
  for row in results['comparisons']:
    rows.append(
      [
        title(row['agent']),
        title(row['against']),
        f'{row["difference"]:+.3f}',
        interval(row['interval_episodes']),
        f'{row["tasks_better"]} / {row["tasks_worse"]}',
        f'{p_value(row["p_episodes"])} ({p_value(row["p_episodes_holm"])})',
        f'{p_value(row["p_tasks"])} ({p_value(row["p_tasks_holm"])})',
      ]
    )
  return rows


def complexity_table(results: Mapping) -> list[list[str]]:
  """Tasks as rows, the simplest first."""
  agents = [agent for agent in results['agents'] if agent != 'starter']
  rows = [
    [
      'Task',
      'complexity (mean rank)',
      'data, kB',
      'columns',
      'script lines',
      'headroom',
      *(f'gain: {title(agent)}' for agent in agents),
    ]
  ]
  for task, c in results['complexity']['tasks'].items():
    card = results['tasks'][task]
    gains = (card['agents'][a]['normalised_gain_mean'] for a in agents)
    rows.append(
      [
        task,
        f'{c["complexity"]:.1f}',
        f'{c["bytes"] / 1000:,.0f}',
        '–' if c['columns'] is None else f'{c["columns"]:,}',
        str(c['lines']),
        f'{c["headroom"]:.0%}',
        *(f'{gain:+.3f}' for gain in gains),
      ]
    )
  return rows


def correlation_table(results: Mapping) -> list[list[str]]:
  """Agents as rows: Spearman's correlation of gain with each measure."""
  found = results['complexity']['spearman']
  names = list(dict.fromkeys(name for row in found.values() for name in row))
  rows = [['Spearman, gain with', *names]]
  for agent, by_measure in found.items():
    cells = []
    for name in names:
      cell = by_measure[name]
      value = cell['spearman']
      shown = '–' if value is None else f'{value:+.2f}'
      cells.append(f'{shown} (p {p_value(cell["p"])})')
    rows.append([title(agent), *cells])
  return rows


def to_latex(results: Mapping) -> str:
  """The table of scores as LaTeX (booktabs), laid out like Table 1."""
  header, *rows = main_table(results)
  columns = len(header)
  lines = [
    r'% \usepackage{booktabs}',
    rf'\begin{{tabular}}{{ll{"r" * (columns - 2)}}}',
    r'\toprule',
    ' & '.join(map(_latex, header)) + r' \\',
  ]
  for row in rows:
    if not any(row[1:]):
      lines += [
        r'\midrule',
        rf'\multicolumn{{{columns}}}{{l}}{{\emph{{{_latex(row[0])}}}}} \\',
      ]
      continue
    cells = [
      rf'\textbf{{{_latex(cell[1:])}}}'
      if cell.startswith('*')
      else _latex(cell)
      for cell in row
    ]
    lines.append(' & '.join(cells) + r' \\')
  lines.append(r'\midrule')
  for split, words in SPLITS.items():
    figures = [by.get(split) for by in results['agents'].values()]
    if not all(figures):
      continue
    for name, text in (
      ('relative_gain_mean', 'relative gain, avg (\\%)'),
      ('normalised_gain_mean', 'normalised gain, avg'),
    ):
      digits = 1 if name.startswith('relative') else 3
      cells = [f'${f[name]:+.{digits}f}$' for f in figures]
      cells += [''] * (columns - 2 - len(cells))
      lines.append(f'{words}: {text} & & ' + ' & '.join(cells) + r' \\')
  return '\n'.join([*lines, r'\bottomrule', r'\end{tabular}']) + '\n'


def _latex(text: str) -> str:
  for old, new in (
    ('\\', r'\textbackslash{}'),
    ('&', r'\&'),
    ('%', r'\%'),
    ('_', r'\_'),
    ('#', r'\#'),
    ('↑', r'$\uparrow$'),
    ('↓', r'$\downarrow$'),
    ('–', '--'),
  ):
    text = text.replace(old, new)
  return text


def _markdown_rows(rows: list[list[str]], bold: str = '') -> str:
  header, *body = rows
  lines = [
    '| ' + ' | '.join(map(_cell, header)) + ' |',
    '|' + '---|' * len(header),
  ]
  for row in body:
    cells = [
      f'{bold}{_cell(cell[1:])}{bold}'
      if bold and cell.startswith('*')
      else _cell(cell)
      for cell in row
    ]
    if not any(row[1:]):
      cells[0] = f'_{cells[0]}_'
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def _cell(text: str) -> str:
  return text.replace('|', '\\|').replace('\n', ' ')


def _how(results) -> str:
  s = results['settings']
  return (
    f'{s["episodes"]} episodes a task of at most {s["max_steps"]} steps;'
    f' sandbox: {s["sandbox"]}; devices: {s["devices"]}. Scores are of the'
    ' test rows, which neither agents nor rewards ever see. An episode scores'
    ' what its last valid submission does, the starter if there was none.'
  )


def _notes(results) -> str:
  notes = ['The best mean of a task is bold.']
  if any(card['stands_for'] for card in results['tasks'].values()):
    notes.append(
      '"Stands for" names the task of the paper whose kind a task has; its data'
      " are others, and so the paper's figures say nothing about it."
    )
  if any(paper.scores_of(task) for task in results['tasks']):
    notes.append('Columns "paper" are arXiv 2505.23723 v1, Table 1 (8 runs).')
  return ' '.join(notes)


def _tests() -> str:
  return (
    'Difference: of the mean normalised gains, each task counting alike.'
    ' Interval and first p: would other episodes on these tasks say the same'
    ' (bootstrap of the episodes paired by number; permutation of episodes'
    ' between the agents within each task)? Second p: would other tasks'
    " (Fisher's randomization test on the tasks' paired differences)? In"
    " parentheses the p-values after Holm's correction for all pairs."
  )

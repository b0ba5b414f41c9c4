"""Writes report.html: one file, no network, nothing of an agent executes.

What agents wrote reaches the page in two ways: through Jinja2 with autoescape,
and as compressed JSON that the page's script shows by `textContent` alone. A
Content-Security-Policy allows the page's own script and style by their hashes
and nothing else, so that a script that slipped in all the same would not run.
"""

import base64
import dataclasses
import gzip
import hashlib
import json
import pathlib
from collections.abc import Mapping

import jinja2
import markupsafe

from mlagent_jax import trajectories
from mlagent_jax.environment import blobs
from mlagent_jax.stages import plots, run_log, session, workdir
from mlagent_jax.stages.evaluation import tables
from mlagent_jax.stages.report import steps

HERE = pathlib.Path(__file__).parent
MAX_SPANS = 1200  # of the timeline, the last ones
_POINTS = 400  # of a curve


@dataclasses.dataclass(frozen=True)
class Written:
  """Where the page is, and what it shows."""

  path: pathlib.Path
  trajectories: int
  steps: int
  bytes: int


def write(folder: pathlib.Path, out: pathlib.Path | None = None) -> Written:
  """Writes the page of a work directory; `out` is FOLDER/report.html if None.

  Raises:
    ConfigError: if there is nothing to report.
    WorkdirError, TrajectoryError: if a file is damaged.
  """
  if not folder.is_dir():
    raise session.ConfigError(f'there is no folder {folder}')
  found = gather(folder)
  if not found['metrics'] and not found['steps']['steps']:
    raise session.ConfigError(
      f'{folder} has neither metrics.jsonl nor trajectories: there is nothing'
      ' to report; train or evaluate with --workdir first'
    )
  page = render(found)
  path = out or folder / 'report.html'
  partial = path.with_suffix('.partial')
  partial.write_text(page, encoding='utf-8')
  partial.replace(path)
  data = found['steps']
  return Written(
    path, len(data['trajectories']), len(data['steps']), path.stat().st_size
  )


def gather(folder: pathlib.Path) -> dict:
  """Everything that the page shows, read from the work directory."""
  config = workdir.read_json(folder / 'config.json') or {}
  options = {
    key.removeprefix('reward.'): value
    for key, value in config.items()
    if key.startswith('reward.')
  }
  store = (
    blobs.BlobStore(folder / 'blobs') if (folder / 'blobs').is_dir() else None
  )
  collected = steps.Tables(store, options, folder / 'task')
  for source, place in steps.stores(folder):
    for trajectory in trajectories.TrajectoryStore(place):
      collected.add(source, trajectory)
  return {
    'name': folder.resolve().name,
    'config': config,
    'metrics': curves(run_log.read_metrics(folder)),
    'results': workdir.read_json(folder / 'results.json') or {},
    'evaluation': workdir.read_json(folder / 'evaluation' / 'results.json'),
    'ideas': workdir.read_json(folder / 'collect' / 'ideas.json') or {},
    'timeline': _timeline(folder),
    'rewards': [
      {
        'source': source,
        'agent': agent,
        'task': task,
        'reward': sum(values) / len(values),
        'steps': len(values),
        'edits': len(collected.trees[source, agent, task]),
      }
      for (source, agent, task), values in sorted(collected.rewards.items())
    ],
    'steps': collected.data(),
  }


def curves(rows: list[dict]) -> dict[str, dict[str, list]]:
  """Stage -> figure -> [[step, value], …], at most `_POINTS` of each."""
  found: dict[str, dict[str, list]] = {}
  for row in sorted(rows, key=lambda row: row['step']):
    for name, value in row.items():
      if name in ('stage', 'step') or not isinstance(value, (int, float)):
        continue
      series = found.setdefault(row['stage'], {}).setdefault(name, [])
      series.append([row['step'], value])
  return {
    stage: {
      name: series[:: max(1, -(-len(series) // _POINTS))]
      for name, series in by_name.items()
    }
    for stage, by_name in found.items()
  }


def _timeline(folder: pathlib.Path) -> list[list]:
  """[track, name, start, seconds] of the last spans of rl/timeline.json."""
  for path in (folder / 'rl' / 'timeline.json', folder / 'timeline.json'):
    trace = workdir.read_json(path)
    if trace is not None:
      break
  else:
    return []
  events = trace['traceEvents']
  names = {
    event['tid']: event['args']['name']
    for event in events
    if event.get('ph') == 'M' and event.get('name') == 'thread_name'
  }
  spans = [
    [
      names.get(e['tid'], str(e['tid'])),
      e['name'],
      e['ts'] / 1e6,
      e['dur'] / 1e6,
    ]
    for e in events
    if e.get('ph') == 'X'
  ]
  spans.sort(key=lambda span: span[2])
  return spans[-MAX_SPANS:]


def render(found: Mapping) -> str:
  """The page as text."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  style = (HERE / 'page.css').read_text(encoding='utf-8')
  script = (HERE / 'page.js').read_text(encoding='utf-8')
  charts = {
    'metrics': found['metrics'],
    'shares': [[label, list(kinds)] for label, _, kinds in plots.SHARES],
    'timeline': found['timeline'],
    'seconds': found['results'].get('seconds', {}),
    'rewards': found['rewards'],
    'evaluation': _forest(found['evaluation']),
    'fixed': found['results'].get('rl', {}),
  }
  return environment.get_template('page.html.jinja').render(
    name=found['name'],
    # Both are files of ours; the hash in the policy is of exactly this text.
    style=markupsafe.Markup(style),
    script=markupsafe.Markup(script),
    style_hash=_hash(style),
    script_hash=_hash(script),
    charts=packed(charts),
    steps=packed(found['steps']),
    tiles=tiles(found),
    evaluation=_tables(found['evaluation']),
    training=found['results'].get('evaluate', {}),
    ideas=found['ideas'],
    rewards=found['rewards'],
    has_metrics=bool(found['metrics']),
    has_steps=bool(found['steps']['steps']),
  )


def tiles(found: Mapping) -> list[tuple[str, str, str]]:
  """(label, figure, remark) of the figures at the top."""
  shown = []
  data = found['steps']
  if data['steps']:
    count = len(data['trajectories'])
    shown.append(
      ('Steps', f'{len(data["steps"]):,}', f'{count:,} trajectories')
    )
  rl = found['results'].get('rl', {})
  if 'valid_rate_last' in rl:
    for label, key, form in (
      ('Valid actions', 'valid_rate', '.0%'),
      ('Mean reward', 'reward', '.2f'),
    ):
      before, after = rl[f'{key}_first'], rl[f'{key}_last']
      shown.append((label, f'{after:{form}}', f'{before:{form}} before RL'))
  evaluation = found['evaluation']
  if evaluation:
    gains = {
      agent: by['all']['normalised_gain_mean']
      for agent, by in evaluation['agents'].items()
    }
    best = max(gains, key=gains.get)
    shown.append(
      (
        'Best mean gain',
        f'{gains[best]:+.2f}',
        f'{tables.title(best)}, {len(evaluation["tasks"])} tasks',
      )
    )
  seconds = found['results'].get('seconds', {})
  if seconds:
    shown.append(
      ('Training', f'{sum(seconds.values()) / 60:.1f} min', 'all stages')
    )
  return shown


def packed(value) -> str:
  """JSON, gzip, base64: short, and no character in it means anything."""
  text = json.dumps(value, separators=(',', ':'), ensure_ascii=False)
  data = gzip.compress(text.encode('utf-8', 'replace'), 6, mtime=0)
  return base64.b64encode(data).decode()


def _forest(evaluation: Mapping | None) -> list:
  """[agent, split, mean, low, high] of mean normalised gains."""
  if not evaluation:
    return []
  return [
    [
      tables.title(agent),
      split,
      f['normalised_gain_mean'],
      *f['interval_tasks'],
    ]
    for split in ('all', 'held_in', 'held_out')
    for agent, by_split in evaluation['agents'].items()
    if (f := by_split.get(split)) is not None
  ]


def _tables(evaluation: Mapping | None) -> list[tuple[str, list, list]]:
  """(title, header, rows) of the evaluation's tables."""
  if not evaluation:
    return []
  made = (
    ('Final test scores', tables.main_table),
    ('Gains', tables.gain_table),
    ('Pairs of agents', tables.comparison_table),
    ('Outcomes', tables.kind_table),
    ('Cost of a mean episode', tables.cost_table),
    ('Gain and complexity', tables.complexity_table),
  )
  return [
    (title, rows[0], rows[1:])
    for title, make in made
    if len(rows := make(evaluation)) > 1
  ]


def _hash(text: str) -> str:
  digest = hashlib.sha256(text.encode('utf-8')).digest()
  return 'sha256-' + base64.b64encode(digest).decode()

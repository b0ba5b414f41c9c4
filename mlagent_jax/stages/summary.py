"""results.json and the table at the end of a run."""

import rich.table

from mlagent_jax.stages import evaluate, plots, workdir
from mlagent_jax.stages.session import Session


def results(session: Session) -> dict:
  """What the completed stages reported, in one object."""
  place = session.workdir
  found = {'seed': session.config.seed}
  for stage in ('collect', 'sft', 'rl', 'evaluate'):
    if place.result(stage) is not None:
      found[stage] = place.result(stage)['result']
  if 'rl' in found:
    # Measured on the same states and parameters.
    found['sft']['valid_rate'] = found['rl']['valid_rate_first']
  found['seconds'] = {
    stage: place.result(stage)['seconds']
    for stage in ('collect', 'sft', 'rl', 'evaluate')
    if place.result(stage) is not None
  }
  return found


def write(session: Session) -> dict:
  """Writes results.json and curves.png, prints the table; returns results."""
  found = results(session)
  workdir.write_json(session.workdir.folder / 'results.json', found)
  plots.draw_curves(session.workdir.folder, found)
  if 'evaluate' in found:
    session.log.console.print(table(session, found['evaluate']))
  return found


def table(session: Session, evaluated: dict) -> rich.table.Table:
  """Per task and agent: mean and best final test score, relative gain."""
  shown = [a for a in evaluate.AGENTS if a in evaluated['held_in']]
  grid = rich.table.Table(
    title='Final test scores: mean / best of'
    f' {session.config.evaluate.episodes} episodes (relative gain)'
  )
  grid.add_column('task')
  names = {'base': 'before training', 'sft': 'after SFT', 'rl': 'after RL'}
  for agent in shown:
    grid.add_column(names.get(agent, agent), justify='right')
  for split, tasks in (
    ('held-in', session.config.tasks.train),
    ('held-out', session.config.tasks.held_out),
  ):
    grid.add_section()
    grid.add_row(f'[bold]{split}')
    for name in tasks:
      task = session.tasks[name]
      arrow = '↑' if task.scale.higher_is_better else '↓'
      cells = []
      for agent in shown:
        figures = evaluated['tasks'][name][agent]
        cells.append(
          f'{figures["mean"]:.4g} / {figures["best"]:.4g}'
          f' ({figures["relative_gain_mean"]:+.1f} %)'
        )
      grid.add_row(f'{name} ({task.metric} {arrow})', *cells)
    gains = evaluated[split.replace('-', '_')]
    if gains:
      grid.add_row(
        'mean normalised gain', *(f'{gains[agent]:+.3f}' for agent in shown)
      )
  return grid

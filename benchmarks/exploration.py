"""Does diversity pay? One expert and one budget, four ways to choose ideas.

The scripted expert plays the same number of episodes with ideas drawn from

  furthest   10 that are far apart in embedding space (the method)
  random     10 drawn at random
  nearest    10 near-duplicates
  one        a single one

of the 100 or more of a task. Compared are, per task: mean distance of the
chosen ideas, different edits, kinds of outcome, different scores, and the best
validation score as a normalised gain (0 starter, 1 best known).

  python benchmarks/exploration.py --out=docs/exploration.md

Every episode is kept in --workdir: a stopped run goes on where it was. Ends
with one line of JSON; `ours` and `peer` are different edits of 'furthest' and
'random' over all tasks.
"""

import json
import pathlib
import platform

import numpy as np
import rich.progress
from absl import app, flags

from mlagent_jax import trajectories
from mlagent_jax.environment import (
  blobs,
  cache,
  episode,
  prepared,
  records,
  sandbox,
  task_folder,
  workers,
)
from mlagent_jax.exploration import diversity, embeddings, expert, ideas

_TASKS = flags.DEFINE_list(
  'tasks',
  ['mnist5k', 'cells', 'ames', 'diamonds', 'tweet-affect', 'elpv-defect'],
  'Offline tasks.',
)
_EPISODES = flags.DEFINE_integer('episodes', 12, 'A task and a choice.')
_STEPS = flags.DEFINE_integer('steps', 5, 'Of an episode, at most.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of draws and of the expert.')
_EMBEDDING = flags.DEFINE_enum(
  'embedding', 'sentence', embeddings.KINDS, 'Of the ideas.'
)
_SANDBOX = flags.DEFINE_string('sandbox', 'auto', 'Where scripts run.')
_WORKERS = flags.DEFINE_integer('workers', 2, 'Scripts at once.')
_WORKDIR = flags.DEFINE_string(
  'workdir', 'runs/exploration', 'Episodes, blobs and executions.'
)
_OUT = flags.DEFINE_string('out', '', 'Markdown file for the tables.')

ARMS = ('furthest', 'random', 'nearest', 'one')
TITLES = {
  'furthest': '10 diverse',
  'random': '10 random',
  'nearest': '10 near-duplicates',
  'one': 'one idea',
}


def chosen_ideas(written, vectors, arm: str, seed: int) -> list[int]:
  if arm == 'one':
    return diversity.choose(vectors, 1, 'random', seed=seed)
  return diversity.choose(vectors, min(10, len(written)), arm, seed=seed)


def play(environment, pool, task, arm, chosen, folder, on_done):
  """Plays what the folder does not hold; returns all episodes."""
  store = trajectories.TrajectoryStore(folder)
  running = []
  for number in range(_EPISODES.value):
    name = f'{arm}-{task.name}-{number}'
    if name in store:
      on_done()
      continue
    rng = np.random.default_rng([_SEED.value, number])
    count = min(len(chosen), int(rng.integers(1, 4)))
    own = [chosen[i] for i in rng.choice(len(chosen), count, replace=False)]
    agent = expert.ScriptedExpert(
      own, others=chosen, seed=int(rng.integers(2**31))
    )
    running.append(
      pool.play(
        task.name,
        agent,
        seed=number,
        max_steps=_STEPS.value,
        ideas=[idea.text for idea in own],
        trajectory_id=name,
      )
    )
  for future in running:
    store.append(future.result())
    on_done()
  return [t for t in store if t.seed < _EPISODES.value]


def figures(task, played, vectors, picked) -> dict:
  steps = [step for trajectory in played for step in trajectory.steps]
  scale = task.scale
  edits = {step.after.tree for step in steps if step.outcome.edited}
  ran = [
    step.outcome.score
    for step in steps
    if step.outcome.kind is records.OutcomeKind.EDITED
  ]
  gains = [
    scale.sign * (score - scale.m_init) / abs(scale.m_best - scale.m_init)
    for score in ran
  ]
  return {
    'distance': diversity.mean_distance(vectors[picked]),
    'steps': len(steps),
    'edits': len(edits),
    'kinds': len({step.outcome.kind for step in steps}),
    'scores': len({round(score, 6) for score in ran}),
    'best_gain': max([0.0, *gains]),
  }


def tables(found: dict) -> str:
  """Markdown: one table a measure, a task a row."""
  measures = {
    'distance': ('Mean distance of the chosen ideas', '{:.2f}'),
    'edits': ('Different edits', '{:.0f}'),
    'scores': ('Different scores', '{:.0f}'),
    'kinds': ('Kinds of outcome', '{:.0f}'),
    'best_gain': (
      'Best validation score, normalised (0 starter, 1 best known)',
      '{:.2f}',
    ),
  }
  lines = []
  for key, (title, form) in measures.items():
    lines += [f'### {title}', '']
    lines.append('| task | ' + ' | '.join(TITLES[a] for a in ARMS) + ' |')
    lines.append('|---|' + '---:|' * len(ARMS))
    for task, arms in found.items():
      cells = [form.format(arms[arm][key]) for arm in ARMS]
      lines.append(f'| {task} | ' + ' | '.join(cells) + ' |')
    means = [
      np.mean([arms[arm][key] for arms in found.values()]) for arm in ARMS
    ]
    cells = [f'**{form.format(mean)}**' for mean in means]
    lines += ['| **mean** | ' + ' | '.join(cells) + ' |', '']
  return '\n'.join(lines)


def main(argv):
  del argv
  place = pathlib.Path(_WORKDIR.value)
  tasks = {name: task_folder.load_task(name) for name in _TASKS.value}
  for task in tasks.values():
    prepared.prepare_task(task)
  embed = embeddings.make_embedding(_EMBEDDING.value)
  found: dict[str, dict] = {}
  total = len(tasks) * len(ARMS) * _EPISODES.value
  with (
    sandbox.make_sandbox(_SANDBOX.value) as box,
    rich.progress.Progress() as bar,
  ):
    environment = episode.Environment(
      tasks,
      box,
      blobs.BlobStore(place / 'blobs'),
      cache=cache.ExecutionCache(place / 'executions'),
    )
    progress = bar.add_task('episodes', total=total)
    with workers.make_pool(
      environment, kind='local', workers=_WORKERS.value
    ) as pool:
      for name, task in tasks.items():
        script = environment.script(name, environment.initial(name))
        written = ideas.write_ideas(task, script)
        vectors = embed([idea.text for idea in written])
        found[name] = {}
        for arm in ARMS:
          picked = chosen_ideas(written, vectors, arm, _SEED.value)
          played = play(
            environment,
            pool,
            task,
            arm,
            tuple(written[i] for i in picked),
            place / arm / name,
            lambda: bar.advance(progress),
          )
          found[name][arm] = figures(task, played, vectors, picked)
  if _OUT.value:
    write(pathlib.Path(_OUT.value), found)
  sums = {arm: sum(t[arm]['edits'] for t in found.values()) for arm in ARMS}
  print(
    json.dumps(
      {
        'name': 'exploration',
        'ours': sums['furthest'],
        'peer': sums['random'],
        'ratio': round(sums['furthest'] / max(1, sums['random']), 3),
        'edits': sums,
        'best_gain': {
          arm: round(
            float(np.mean([t[arm]['best_gain'] for t in found.values()])), 3
          )
          for arm in ARMS
        },
        'machine': f'{platform.machine()}, {platform.system()}',
      }
    )
  )


MARK = '<!-- figures -->'


def write(path: pathlib.Path, found: dict) -> None:
  """Puts the tables behind the mark of the page, in place of older ones."""
  text = path.read_text(encoding='utf-8') if path.exists() else f'{MARK}\n'
  head = text.partition(MARK)[0]
  note = (
    f'{_EPISODES.value} episodes of at most {_STEPS.value} steps for each cell,'
    f' seed {_SEED.value}, {_EMBEDDING.value} embedding.'
  )
  path.write_text(
    f'{head}{MARK}\n\n{note}\n\n{tables(found)}', encoding='utf-8'
  )


if __name__ == '__main__':
  app.run(main)

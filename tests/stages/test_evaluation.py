"""The evaluation as a user runs it: whole, killed, continued, misused."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
import types

import endpoint_server
import numpy as np
import pytest
import rich.console
from line_task import write_task

from configs import base
from mlagent_jax import trajectories
from mlagent_jax.environment import (
  actions,
  blobs,
  episode,
  prepared,
  task_folder,
)
from mlagent_jax.environment.records import ActionName, OutcomeKind, Snapshot
from mlagent_jax.exploration import random_agent
from mlagent_jax.stages import session, workdir
from mlagent_jax.stages.evaluation import contestants, paper, run, tables

VALID = {
  OutcomeKind.LOOKED,
  OutcomeKind.COPIED,
  OutcomeKind.UNDONE,
  OutcomeKind.EXECUTED,
  OutcomeKind.EDITED,
  OutcomeKind.FINAL_ANSWER,
  # What an edit did to the script is chance; the action itself is valid.
  OutcomeKind.SCRIPT_FAILED,
  OutcomeKind.MISSING_SUBMISSION,
  OutcomeKind.REFUSED_SUBMISSION,
}


def plan(suite, folder, **changes):
  options = {
    'agents': ('starter', 'random'),
    'tasks': run.suite_tasks(str(suite)),
    'episodes': 3,
    'max_steps': 4,
    'sandbox': 'process',
    'bootstrap_samples': 500,
  }
  return run.Plan(workdir=folder, checkpoint=None, **options | changes)


def evaluate(*arguments, **changes):
  return run.evaluate(
    plan(*arguments, **changes), rich.console.Console(quiet=True)
  )


def played(folder):
  """What was played: without times, and without whether it was reused."""
  store = trajectories.TrajectoryStore(folder / 'evaluation' / 'random')
  return {
    t.trajectory_id: [
      (s.reply, s.outcome.kind, s.outcome.score, s.after.tree) for s in t.steps
    ]
    for t in store
  }


@pytest.fixture
def reference(suite, cache_home, tmp_path):
  folder = tmp_path / 'reference'
  return evaluate(suite, folder), folder


def test_results_are_what_the_episodes_say(reference):
  results, folder = reference
  assert results == json.loads(
    (folder / 'evaluation' / 'results.json').read_text()
  )
  store = trajectories.TrajectoryStore(folder / 'evaluation' / 'random')
  for name in ('line', 'slope'):
    finals = []
    for t in sorted((t for t in store if t.task == name), key=lambda t: t.seed):
      scores = [s.outcome.test_score for s in t.steps]
      finals.append(([20.5] + [s for s in scores if s is not None])[-1])
    figures = results['tasks'][name]['agents']['random']
    assert figures['scores'] == finals
    assert figures['mean'] == pytest.approx(np.mean(finals))
    assert figures['best'] == min(finals)  # the metric is an error
    gains = (20.5 - np.array(finals)) / (20.5 - 0.2)
    assert figures['normalised_gain_mean'] == pytest.approx(gains.mean())
    assert figures['relative_gain_mean'] == pytest.approx(
      100 * (20.5 - np.mean(finals)) / 20.5
    )
    assert figures['win_rate'] == pytest.approx(np.mean(gains > 1e-3))
    steps = [s for t in store if t.task == name for s in t.steps]
    assert figures['per_episode']['steps'] == pytest.approx(len(steps) / 3)
    assert figures['per_episode']['script_seconds'] == pytest.approx(
      sum(s.outcome.seconds for s in steps) / 3
    )
    assert sum(figures['kinds'].values()) == pytest.approx(1)
  of_all = results['agents']['random']['all']
  tasks = [results['tasks'][n]['agents']['random'] for n in ('line', 'slope')]
  assert of_all['normalised_gain_mean'] == pytest.approx(
    np.mean([t['normalised_gain_mean'] for t in tasks])
  )
  (pair,) = results['comparisons']
  assert pair['difference'] == pytest.approx(of_all['normalised_gain_mean'])
  starter = results['agents']['starter']['all']
  assert starter['normalised_gain_mean'] == 0
  assert starter['interval_tasks'] == [0, 0]


def test_the_files_agree_with_the_results(reference):
  results, folder = reference
  place = folder / 'evaluation'
  rows = list(csv.DictReader((place / 'results.csv').open()))
  assert len(rows) == 4
  for row in rows:
    figures = results['tasks'][row['task']]['agents'][row['agent']]
    assert float(row['mean']) == figures['mean']
    assert [float(s) for s in row['scores'].split()] == figures['scores']
  page = (place / 'results.md').read_text()
  assert 'line (mae ↓)' in page
  assert 'Random actions' in page
  assert 'paper:' not in page
  latex = (place / 'results.tex').read_text()
  body = [line for line in latex.splitlines() if line.endswith(r'\\')]
  assert all(line.count('&') == 3 for line in body if 'multicolumn' not in line)
  assert (place / 'complexity.png').read_bytes()[:4] == b'\x89PNG'


def test_more_episodes_keep_those_that_are_there(reference, suite):
  results, folder = reference
  before = played(folder)
  more = evaluate(suite, folder, episodes=4)
  after = played(folder)
  assert len(after) == 8
  assert {name: after[name] for name in before} == before
  line = more['tasks']['line']['agents']['random']
  assert line['episodes'] == 4
  assert (
    line['scores'][:3]
    == (results['tasks']['line']['agents']['random']['scores'])
  )
  # And fewer are the first of them, not whatever is there.
  assert evaluate(suite, folder)['tasks'] == results['tasks']


def test_killed_and_started_again_is_the_same_evaluation(
  reference, suite, tmp_path, cache_home
):
  folder = tmp_path / 'killed'
  command = [
    sys.executable,
    '-m',
    'mlagent_jax.evaluate',
    f'--workdir={folder}',
    '--agents=starter,random',
    f'--suite={suite}',
    '--episodes=3',
    '--max_steps=4',
    '--sandbox=process',
    '--workers=1',
    '--at_once=2',
    '--bootstrap_samples=500',
  ]
  environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''}
  store = folder / 'evaluation' / 'random' / 'trajectories.jsonl'
  with subprocess.Popen(
    command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL
  ) as process:
    deadline = time.monotonic() + 200
    while not store.exists() or not store.read_bytes().count(b'\n'):
      assert process.poll() is None, 'it ended before it could be killed'
      assert time.monotonic() < deadline
      time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
  kept = played(folder)
  assert 0 < len(kept) < 6
  done = subprocess.run(
    command, env=environment, capture_output=True, text=True, timeout=200
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert played(folder) == played(reference[1])
  assert 'mean normalised gain' in ' '.join(done.stdout.split())


def test_other_settings_are_refused(reference, suite):
  _, folder = reference
  with pytest.raises(workdir.WorkdirError, match='max_steps: 4 there, 2 now'):
    evaluate(suite, folder, max_steps=2)
  assert len(played(folder)) == 6


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'agents': ('starter', 'rnadom')}, "no agent 'rnadom'; there are starter"),
    ({'agents': ('random', 'random')}, 'twice'),
    ({'agents': ('sft',)}, "'sft' is a policy of a training run"),
    ({'episodes': 0}, '--episodes must be at least 1, not 0'),
    ({'bootstrap_samples': 0}, '--bootstrap_samples must be at least 1, not 0'),
    ({'temperature': float('nan')}, '--temperature must be at least 0, not n'),
    ({'max_seconds': 0.0}, '--max_minutes must be above 0, not 0'),
    ({'tasks': ()}, 'no task'),
  ],
)
def test_what_cannot_work_stops_at_start_up(suite, tmp_path, changes, words):
  with pytest.raises(session.ConfigError, match=words):
    evaluate(suite, tmp_path / 'x', **changes)
  assert not (tmp_path / 'x').exists()


def test_two_tasks_of_one_name_are_told(suite, tmp_path):
  other = write_task(tmp_path / 'other')
  with pytest.raises(session.ConfigError, match="two tasks are called 'line'"):
    evaluate(suite, tmp_path / 'x', tasks=(str(suite / 'line'), str(other)))


FULL = 'Reflection: r\nResearch Plan and Status: p\nFact Check: f\nThought: t\n'


def test_an_endpoint_speaks_the_full_protocol_beside_a_compact_agent(
  suite, cache_home, tmp_path, monkeypatch
):
  monkeypatch.setenv('OPENAI_API_KEY', 'good')
  long = '\\n'.join(['# ' + 'x' * 100] * 90)

  def answer(body):
    assert 'The tools, each with an example' in body['messages'][1]['content']
    return (
      f'{FULL}Action: Edit Script\nAction Input: {{"script_name": "train.py",'
      f' "search": "SLOPE = 1.0", "replace": "{long}\\nSLOPE = 2.5"}}'
    )

  with endpoint_server.serve(answer=answer) as served:
    results = evaluate(
      suite,
      tmp_path / 'run',
      agents=('random', 'endpoint:toy'),
      tasks=(str(suite / 'line'),),
      episodes=1,
      endpoint=contestants.EndpointOptions(
        base_url=served.url, max_prompt_tokens=4000
      ),
    )
  # One edit, which makes the script longer than the prompt may be.
  assert len(served.requests) == 1
  figures = results['agents']['endpoint:toy']['all']
  assert figures['kinds'] == {'unparsed': 0.75, 'edited': 0.25}
  assert figures['per_episode']['refused_prompts'] == 3
  assert results['agents']['random']['all']['kinds'].get('unparsed', 0) == 0


def test_actions_of_a_second_model_are_left_out(suite, tmp_path):
  config = base.get_config()
  config.agent.actions = ('Edit Script (AI)', 'Edit Script Lines')
  config.agent.protocol = 'full'
  trained = types.SimpleNamespace(config=config)  # a run is more than this
  options = run.options_of(plan(suite, tmp_path), trained, 'random')
  assert options.allowed == {ActionName.EDIT_SCRIPT_LINES}
  assert options.protocol == 'full'


def test_a_folder_without_tasks_is_no_suite(tmp_path):
  with pytest.raises(task_folder.TaskError, match='holds no task folder'):
    run.suite_tasks(str(tmp_path))
  with pytest.raises(task_folder.TaskError, match="no suite 'offlien'"):
    run.suite_tasks('offlien')


@pytest.mark.parametrize('protocol', ['compact', 'full'])
def test_every_random_action_is_valid(
  suite, cache_home, tmp_path, process_sandbox, protocol
):
  task = task_folder.load_task(suite / 'line')
  prepared.prepare_task(task)
  environment = episode.Environment(
    {'line': task},
    process_sandbox,
    blobs.BlobStore(tmp_path / 'blobs'),
    protocol=protocol,
  )
  kinds = set()
  for seed in range(12):
    agent = random_agent.RandomAgent(protocol=protocol, seed=seed)
    done = environment.play('line', agent, max_steps=8)
    for step in done.steps:
      assert step.outcome.kind in VALID, (step.reply, step.outcome)
    kinds |= {step.outcome.kind for step in done.steps}
  assert {OutcomeKind.COPIED, OutcomeKind.LOOKED} <= kinds
  assert {OutcomeKind.EDITED, OutcomeKind.SCRIPT_FAILED} & kinds


def test_where_nothing_is_possible_a_random_agent_gives_up():
  agent = random_agent.RandomAgent({ActionName.EDIT_SCRIPT})
  card = types.SimpleNamespace(entry='train.py')
  reply = agent.reply(card, Snapshot(''), 'x = 1\nx = 1\n', ())
  assert actions.parse_reply(reply).name is ActionName.FINAL_ANSWER


def test_the_papers_figures_stand_beside_its_own_tasks_alone():
  def card(stands_for):
    figures = {'mean': 0.7, 'best': 0.8}
    return {
      'split': 'held_in',
      'metric': 'accuracy',
      'higher_is_better': True,
      'stands_for': stands_for,
      'agents': {'rl': figures},
    }

  results = {
    'settings': {'episodes': 8},
    'agents': {'rl': {}},
    'tasks': {'cifar-10': card(''), 'fashion': card('cifar-10')},
  }
  header, _, own, stand_in = tables.main_table(results)
  assert header[-1] == 'paper: ML-Agent (7B)'
  assert own[-1] == '0.6888 / 0.8145'
  assert stand_in[-4:] == ['–'] * 4
  assert stand_in[1] == 'cifar-10'


def test_the_papers_table_is_whole():
  assert len(paper.SCORES) == 13
  assert all(len(row) == len(paper.AGENTS) for row in paper.SCORES.values())
  # Its claim, which a slip of the pen would break: ML-Agent is the best mean.
  falling = ('home', 'feedback', 'denoising', 'leaf', 'statoil', 'spooky')
  for task, row in paper.SCORES.items():
    sign = -1 if task.startswith(falling) else 1
    means = [sign * mean for mean, _ in row]
    if not task.startswith('learning-agency'):
      assert max(means) == means[-1], task

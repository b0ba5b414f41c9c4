"""Solving a person's folder, with an agent over real HTTP and real runs."""

import csv
import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rich.console

from mlagent_jax.environment import blobs, task_wish, workspace
from mlagent_jax.stages import session, workdir
from mlagent_jax.stages.evaluation import contestants
from mlagent_jax.stages.solving import place, run
from mlagent_jax.stages.solving import result as result_lib

sys.path.append(str(Path(__file__).parent / 'exploration'))
import endpoint_server  # noqa: E402

TABLE = """import csv

SLOPE = 1.0

with open('test.csv') as file:
  rows = list(csv.DictReader(file))
with open('submission.csv', 'w') as file:
  print('id,y', file=file)
  for row in rows:
    print(f"{row['id']},{SLOPE * float(row['x'])}", file=file)
"""
PRINTED = """import csv

SLOPE = 1.0

with open('train.csv') as file:
  rows = list(csv.DictReader(file))
errors = [abs(SLOPE * float(row['x']) - float(row['y'])) for row in rows]
print('MAE:', sum(errors) / len(errors))
"""
PARTS = 'Reflection: r\nResearch Plan and Status: p\nFact Check: f\n'


def answer(body):
  """Tries slope 2.5, then 3.5, then 3.0, one a step; then ends."""
  seen = sum(
    m['content'].startswith('Observation: ')
    or '\n\nObservation: ' in m['content']
    for m in body['messages']
  )
  if seen >= 3:
    return (
      f'{PARTS}Thought: t\nAction: Final Answer\n'
      'Action Input: {"final_answer": "done"}'
    )
  content = body['messages'][-1]['content']
  number = re.search(r'^(\d+) SLOPE = ', content, re.MULTILINE)[1]
  return (
    f'{PARTS}Thought: t\nAction: Edit Script Lines\nAction Input: train.py'
    f' {number}-{number}\nSLOPE = {(2.5, 3.5, 3.0)[seen]}'
  )


@pytest.fixture
def served(monkeypatch, tmp_path):
  monkeypatch.setenv('OPENAI_API_KEY', 'good')
  monkeypatch.setenv('MLAGENT_CACHE', str(tmp_path / 'cache'))
  with endpoint_server.serve(answer=answer) as served:
    yield served


def folder_of(tmp_path, script):
  folder = tmp_path / 'my-lines'
  folder.mkdir()
  (folder / 'train.py').write_text(script)
  rng = np.random.default_rng(0)
  with (folder / 'train.csv').open('w', newline='') as stream:
    writer = csv.writer(stream)
    writer.writerow(['id', 'x', 'y'])
    for number in range(200):
      x = rng.uniform(1, 9)
      writer.writerow([number, x, 3 * x + rng.normal(scale=0.1)])
  return folder


def plan_of(folder, served, out, **changes):
  fields = {'data': 'train.csv', 'seconds': 20.0, 'memory_mb': 512}
  fields |= changes.pop('wish', {})
  options = {
    'agent': 'endpoint:toy',
    'budget_seconds': 300.0,
    'best_of': 2,
    'max_steps': 4,
    'endpoint': contestants.EndpointOptions(base_url=served.url),
    'sandbox': 'process',
    **changes,
  }
  return run.Plan(wish=task_wish.Wish(folder, **fields), out=out, **options)


BY_TABLE = {'target': 'y', 'id_column': 'id', 'metric': 'mae'}
BY_PRINT = {'score_pattern': r'MAE: (\S+)', 'higher_is_better': 'false'}


def fingerprint(folder):
  return {
    path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat())
    for path in folder.iterdir()
  }


@pytest.mark.parametrize(
  'script, wish', [(TABLE, BY_TABLE), (PRINTED, BY_PRINT)]
)
def test_the_best_script_comes_back_as_a_patch(served, tmp_path, script, wish):
  folder = folder_of(tmp_path, script)
  before = {name: digest for name, (digest, _) in fingerprint(folder).items()}
  plan = plan_of(folder, served, tmp_path / 'out', wish=wish)
  result = run.solve(plan, rich.console.Console(quiet=True))
  assert result['improved_on_unseen']
  # Slope 3 is right: what is left is the noise, of mean 0.08.
  assert result['best']['validation'] < 0.12
  assert result['best']['test'] < 0.12 < 5 < result['starter']['test']
  assert result['attempts'] == [result['best']['validation']] * 2
  assert result['found_at_step'] == 2
  after = {name: digest for name, (digest, _) in fingerprint(folder).items()}
  assert after == before
  # A person applies it with a tool of their own.
  mine = tmp_path / 'applied'
  shutil.copytree(folder, mine)
  with (tmp_path / 'out' / 'solution.patch').open() as patch:
    subprocess.run(['patch', '-p1'], cwd=mine, stdin=patch, check=True)
  assert (mine / 'train.py').read_text() == script.replace(
    'SLOPE = 1.0', 'SLOPE = 3.0'
  )
  # Started again, nothing is asked or played anew.
  asked = len(served.requests)
  again = run.solve(plan, rich.console.Console(quiet=True))
  assert again == result
  assert len(served.requests) == asked


@pytest.mark.parametrize('moment', ['copytree', 'write_json', 'rename'])
def test_a_start_that_was_killed_while_it_set_up_goes_on(
  served, tmp_path, moment
):
  """A real process dies in the middle; the same command then works."""
  folder = folder_of(tmp_path, PRINTED)
  out = tmp_path / 'out'
  code = f"""
import os, pathlib, shutil, sys, types
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_solve
from mlagent_jax.stages import workdir
def die(*arguments, **options):
  os._exit(9)
owner = {{'copytree': shutil, 'write_json': workdir, 'rename': pathlib.Path}}
setattr(owner[{moment!r}], {moment!r}, die)
plan = test_solve.plan_of(
  pathlib.Path({str(folder)!r}),
  types.SimpleNamespace(url={served.url!r}),
  pathlib.Path({str(out)!r}),
  wish=test_solve.BY_PRINT)
test_solve.run.solve(plan, test_solve.rich.console.Console(quiet=True))
"""
  done = subprocess.run([sys.executable, '-c', code], capture_output=True)
  assert done.returncode == 9, done.stderr.decode()
  assert list(out.iterdir())
  plan = plan_of(folder, served, out, wish=BY_PRINT)
  result = run.solve(plan, rich.console.Console(quiet=True))
  assert result['improved_on_unseen']
  assert not list(out.glob('.*'))


def test_a_script_that_fails_on_unseen_rows_gives_way_to_the_next(
  served, tmp_path
):
  worked_on = np.random.RandomState(0).permutation(200)[0]
  fragile = f'3.0 if "\\n{worked_on}," in open("train.csv").read() else 1 / 0'
  slopes = ('2.5', fragile)

  def answer(body):
    seen = sum('Observation: ' in m['content'] for m in body['messages'])
    if seen >= len(slopes):
      return (
        f'{PARTS}Thought: t\nAction: Final Answer\n'
        'Action Input: {"final_answer": "done"}'
      )
    return (
      f'{PARTS}Thought: t\nAction: Edit Script Lines\nAction Input: train.py'
      f' 3-3\nSLOPE = {slopes[seen]}'
    )

  served.answer = answer
  folder = folder_of(tmp_path, PRINTED)
  plan = plan_of(folder, served, tmp_path / 'out', wish=BY_PRINT, best_of=1)
  result = run.solve(plan, rich.console.Console(quiet=True))
  assert result['attempts'][0] < 0.12  # the fragile one, on what it saw
  assert result['failed_on_unseen'] == 1
  assert result['found_at_step'] == 0
  assert result['improved_on_unseen']
  assert 'SLOPE = 2.5' in (tmp_path / 'out' / 'solution.patch').read_text()


@pytest.mark.parametrize(
  'name', ['train.py', 'sub/train model.py', 'caf\u00e9.py']
)
@pytest.mark.parametrize(
  'text',
  [
    'a = 1\n\x0c\nb = 2\n',  # a form feed, as old sources have them
    'a = "\u2028\x85\x1c"\nb = 2\n',
    'a = 1\r\nb = 2\r\n',
    'a = 1\nb = 2',
  ],
)
def test_a_patch_gives_exactly_the_best_script(tmp_path, name, text):
  store = blobs.BlobStore(tmp_path / 'blobs')
  better = text.replace('b = 2', 'b = 3')
  before = {'model.bin': bytes([255, 0, 1]), name: text.encode()}
  after = {'model.bin': bytes([255, 0, 2]), name: better.encode()}
  after |= {'new.py': b'x = 1\n', 'odd\nname.py': b'', 'log.txt': b'done\n'}
  trees = []
  for files in (before, after):
    tree = {}
    for path, content in files.items():
      tree = workspace.with_file(tree, path, content, store)
    trees.append(workspace.write_tree(tree, store))
  patch, changed = result_lib.difference(store, *trees)
  assert sorted(changed) == sorted([name, 'new.py'])
  theirs = tmp_path / 'theirs'
  for path, content in before.items():
    (theirs / path).parent.mkdir(parents=True, exist_ok=True)
    (theirs / path).write_bytes(content)
  subprocess.run(
    ['patch', '-p1'], cwd=theirs, input=patch.encode(), check=True, timeout=20
  )
  assert (theirs / name).read_bytes() == better.encode()
  assert (theirs / 'new.py').read_bytes() == b'x = 1\n'
  assert (theirs / 'model.bin').read_bytes() == before['model.bin']


def test_nothing_better_is_said_so(served, tmp_path):
  served.answer = lambda body: (
    f'{PARTS}Thought: t\nAction: Final Answer\n'
    'Action Input: {"final_answer": "fine as it is"}'
  )
  folder = folder_of(tmp_path, TABLE)
  plan = plan_of(folder, served, tmp_path / 'out', wish=BY_TABLE)
  result = run.solve(plan, rich.console.Console(quiet=True))
  assert result['best'] is None
  assert not result['improved_on_unseen']
  assert (tmp_path / 'out' / 'solution.patch').read_text() == ''


def test_a_script_that_fails_is_an_error_with_what_it_printed(served, tmp_path):
  folder = folder_of(tmp_path, 'raise SystemExit("no such thing")\n')
  plan = plan_of(folder, served, tmp_path / 'out', wish=BY_TABLE)
  with pytest.raises(place.SolveError, match='no such thing'):
    run.solve(plan, rich.console.Console(quiet=True))
  assert served.requests == []


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'agent': 'nobody'}, "'nobody' is none of scripted"),
    ({'best_of': 0}, 'best_of must be at least 1'),
    ({'temperature': -1.0}, 'temperature must be at least 0'),
    (
      {'endpoint': contestants.EndpointOptions(prompt_price=-1.0)},
      'price prompt is -1.0, less than 0',
    ),
    (
      {
        'endpoint': contestants.EndpointOptions(max_cost=1.0),
      },
      'prices of tokens are 0',
    ),
  ],
)
def test_wrong_options_stop_at_start_up(served, tmp_path, changes, message):
  folder = folder_of(tmp_path, TABLE)
  plan = plan_of(folder, served, tmp_path / 'out', wish=BY_TABLE, **changes)
  with pytest.raises(session.ConfigError, match=message):
    run.solve(plan, rich.console.Console(quiet=True))


def test_out_is_never_inside_the_folder_or_somebody_elses(served, tmp_path):
  folder = folder_of(tmp_path, TABLE)
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full' / 'thesis.tex').write_text('precious')
  for out, message in (
    (folder / 'out', 'is never written to'),
    (tmp_path / 'full', 'is not empty'),
  ):
    plan = plan_of(folder, served, out, wish=BY_TABLE)
    with pytest.raises(workdir.WorkdirError, match=message):
      run.solve(plan, rich.console.Console(quiet=True))
  assert sorted(p.name for p in folder.iterdir()) == ['train.csv', 'train.py']

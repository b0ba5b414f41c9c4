"""The training entry as a user starts it: whole, killed, resumed, misused."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests import object_store

# A run takes half a minute, and compiles more slowly on a busy machine.
pytestmark = pytest.mark.timeout(900)

ROOT = pathlib.Path(__file__).resolve().parent.parent
# A whole run in miniature: one task, real scripts in the process sandbox.
SMALL = (
  'tasks.train=("cells",)',
  'tasks.held_out=("ames",)',
  'environment.sandbox=process',
  'model.num_layers=2',
  'model.embed_dim=64',
  'model.num_heads=2',
  'model.num_kv_heads=2',
  'model.ffn_dim=128',
  'tokenizer.vocab_size=2400',
  'collect.trajectories_per_task=12',
  'collect.max_steps=3',
  'fixed_set.states=4',
  'fixed_set.samples=2',
  'sft.steps=30',
  'sft.batch_size=4',
  'sft.warmup_steps=2',
  'sft.checkpoint_every=7',
  'rl.steps=5',
  'rl.states_per_batch=2',
  'rl.batch_size=2',
  'rl.samples_per_state=4',
  'rl.checkpoint_every=2',
  'rl.max_staleness=1',
  'rl.entropy_coef=0.01',  # so that there is a loss whatever the rewards are
  'rl.epochs=2',
  'evaluate.episodes=2',
  'evaluate.max_steps=2',
)


def command(workdir, *overrides):
  flags = [f'--config.{item}' for item in (*SMALL, *overrides)]
  return [
    sys.executable,
    '-m',
    'mlagent_jax.train',
    f'--config={ROOT / "configs" / "toy.py"}',
    f'--workdir={workdir}',
    *flags,
  ]


@pytest.fixture(scope='module')
def environment(tmp_path_factory):
  # Every run compiles the same programs.
  folder = tmp_path_factory.mktemp('compiled')
  return os.environ | {
    'JAX_COMPILATION_CACHE_DIR': str(folder),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '0',
    # One device; quick compiles, as `conftest` has them.
    'XLA_FLAGS': '--xla_backend_optimization_level=0',
    'JAX_PLATFORMS': 'cpu',
  }


def run(environment, workdir, *overrides, timeout=600):
  return subprocess.run(
    command(workdir, *overrides),
    env=environment,
    cwd='/',
    capture_output=True,
    text=True,
    timeout=timeout,
  )


@pytest.fixture(scope='module')
def reference(tmp_path_factory, environment):
  """A run that nobody disturbed."""
  workdir = tmp_path_factory.mktemp('reference') / 'run'
  done = run(environment, workdir)
  assert done.returncode == 0, done.stdout + done.stderr
  return workdir, done.stdout


def losses(workdir, stage):
  """{step: loss} as written; every step that was repeated must be equal."""
  found = {}
  for line in (workdir / 'metrics.jsonl').read_text().splitlines():
    row = json.loads(line)
    if row['stage'] == stage:
      value = found.setdefault(row['step'], row['loss'])
      assert value == row['loss'], f'step {row["step"]} differs after resuming'
  return found


def test_a_whole_run_leaves_what_it_promises(reference):
  workdir, printed = reference
  results = json.loads((workdir / 'results.json').read_text())
  assert 0 <= results['sft']['valid_rate'] <= 1
  for figure in ('reward', 'valid_rate'):
    for end in ('first', 'last'):
      assert 0 <= results['rl'][f'{figure}_{end}'] <= 1
  assert {'edit_reward_first', 'edit_reward_last'} <= results['rl'].keys()
  evaluated = results['evaluate']
  assert evaluated['held_in'].keys() == {'starter', 'base', 'sft', 'rl'}
  assert evaluated['held_in']['starter'] == 0.0
  assert evaluated['tasks'].keys() == {'cells', 'ames'}
  assert (workdir / 'curves.png').read_bytes()[:4] == b'\x89PNG'
  assert list((workdir / 'tensorboard').glob('events*'))
  assert 'held-out' in printed
  assert 'after RL' in printed


def test_a_complete_run_is_skipped(reference, environment, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(reference[0], workdir)
  before = json.loads((workdir / 'results.json').read_text())
  done = run(environment, workdir)
  assert done.returncode == 0, done.stderr
  assert done.stdout.count('complete, skipped') == 4
  assert json.loads((workdir / 'results.json').read_text()) == before


@pytest.mark.parametrize('stage, after', [('sft', 10), ('rl', 3)])
def test_killed_and_resumed_is_the_same_run(
  reference, environment, tmp_path, stage, after
):
  workdir = tmp_path / 'run'
  done_before = {'sft': ('collect',), 'rl': ('collect', 'sft')}[stage]
  workdir.mkdir()
  for name in (*done_before, 'tokenizer', 'blobs'):
    shutil.copytree(reference[0] / name, workdir / name)
  shutil.copy(reference[0] / 'config.json', workdir)
  with subprocess.Popen(
    command(workdir),
    env=environment,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    start_new_session=True,
  ) as process:
    deadline = time.monotonic() + 400
    metrics = workdir / 'metrics.jsonl'
    while not metrics.exists() or after not in losses_so_far(metrics, stage):
      assert process.poll() is None, 'the run ended before it could be killed'
      assert time.monotonic() < deadline
      time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
  done = run(environment, workdir)
  assert done.returncode == 0, done.stdout + done.stderr
  assert f'{stage}: resumed at step' in done.stdout
  for each in ('sft', 'rl'):
    if each not in done_before:
      assert losses(workdir, each) == losses(reference[0], each)
  ours, theirs = (
    json.loads((folder / 'results.json').read_text())
    for folder in (workdir, reference[0])
  )
  assert ours['evaluate'] == theirs['evaluate']


def test_a_bucket_alone_is_enough_to_go_on(reference, environment, tmp_path):
  executions = f'environment.executions={reference[0] / "executions"}'
  with object_store.serving() as server:
    url, mirror = f'gs://{object_store.BUCKET}/run', tmp_path / 'mirror'
    log = tmp_path / 'log'
    with (
      log.open('w') as stream,
      subprocess.Popen(
        [*command(url, executions), f'--mirror={mirror}'],
        env=environment | server,
        stdout=stream,
        stderr=stream,
        start_new_session=True,
      ) as process,
    ):
      deadline = time.monotonic() + 800
      metrics = mirror / 'workdir' / 'metrics.jsonl'
      while not metrics.exists() or 3 not in losses_so_far(metrics, 'rl'):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.005)
      os.killpg(process.pid, signal.SIGKILL)
    shutil.rmtree(mirror)
    done = subprocess.run(
      [*command(url, executions), f'--mirror={mirror}'],
      env=environment | server,
      capture_output=True,
      text=True,
      timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
  assert 'rl: resumed at step' in done.stdout, done.stdout
  workdir = mirror / 'workdir'
  assert losses(workdir, 'sft') == losses(reference[0], 'sft')
  ours, theirs = losses(workdir, 'rl'), losses(reference[0], 'rl')
  assert 5 in ours
  assert ours == {step: theirs[step] for step in ours}
  ours, theirs = (
    json.loads((folder / 'results.json').read_text())
    for folder in (workdir, reference[0])
  )
  assert ours['evaluate'] == theirs['evaluate']


def losses_so_far(metrics, stage):
  rows = [json.loads(line) for line in metrics.read_text().splitlines()[:-1]]
  return {row['step'] for row in rows if row['stage'] == stage}


def refused(environment, workdir, *overrides):
  """Error text of a start that must fail, quickly and before any work."""
  start = time.monotonic()
  done = run(environment, workdir, *overrides)
  assert done.returncode != 0
  assert time.monotonic() - start < 120
  return done.stdout + done.stderr


@pytest.mark.parametrize(
  'override, words',
  [
    ('stages=("collect","tune")', ['stages', 'tune', 'sft']),
    ('stages=("rl","sft")', ['order']),
    ('sft.micro_batches=3', ['sft.batch_size', '4', '3']),
    ('mesh.fsdp=3', ['mesh', '3 places', '1 devices']),
    ('rl.samples_per_state=1', ['rl.samples_per_state', 'grpo', '2']),
    ('environment.sandbox=docker-in-docker', ['sandbox', 'docker-in-docker']),
    ('tasks.train=("cellz",)', ['cellz', 'cells']),
    ('agent.actions=("Understand File",)', ['Understand File', 'agent.editor']),
    ('agent.protocol=terse', ['agent.protocol', 'terse', 'compact']),
  ],
)
def test_a_bad_config_stops_at_start_up(environment, tmp_path, override, words):
  text = refused(environment, tmp_path / 'run', override)
  for word in words:
    assert word in text
  assert 'Traceback' not in text
  assert not (tmp_path / 'run' / 'metrics.jsonl').exists()


def test_a_key_that_does_not_exist_is_refused(environment, tmp_path):
  text = refused(environment, tmp_path / 'run', 'rl.kl_coefficient=0.1')
  assert '--config.rl.kl_coefficient: there is no such key' in text
  assert "did you mean 'kl_coef'?" in text
  assert 'Traceback' not in text
  assert not (tmp_path / 'run').exists()


def test_a_file_with_a_key_that_does_not_exist_is_refused(tmp_path):
  file = tmp_path / 'mine.py'
  file.write_text(
    'from configs import base\n'
    'def get_config():\n'
    '  config = base.get_config()\n'
    '  config.rl.kl_coefficient = 0.1\n'
    '  return config\n'
  )
  flags = [f'--config={file}', f'--workdir={tmp_path / "run"}']
  done = subprocess.run(
    [sys.executable, '-m', 'mlagent_jax.train', *flags],
    cwd=tmp_path,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode != 0
  assert f'File "{file}", line 4' in done.stderr
  assert 'Key "kl_coefficient" does not exist' in done.stderr
  assert not (tmp_path / 'run').exists()


def test_a_workdir_of_another_config_is_refused(
  reference, environment, tmp_path
):
  workdir = tmp_path / 'run'
  workdir.mkdir()
  shutil.copy(reference[0] / 'config.json', workdir)
  text = refused(environment, workdir, 'rl.learning_rate=0.5')
  assert 'another config' in text
  assert 'rl.learning_rate' in text
  assert '0.5' in text


def test_a_folder_of_something_else_is_refused(environment, tmp_path):
  (tmp_path / 'thesis.tex').write_text('hello')
  text = refused(environment, tmp_path)
  assert 'not a work directory' in text
  assert [p.name for p in tmp_path.iterdir()] == ['thesis.tex']


def test_a_stage_without_what_it_needs_is_refused(environment, tmp_path):
  text = refused(environment, tmp_path / 'run', 'stages=("rl",)')
  assert "stage 'rl' needs 'sft'" in text


def test_damaged_trajectories_are_refused(reference, environment, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(reference[0], workdir)
  (workdir / 'sft' / 'done.json').unlink()
  file = workdir / 'collect' / 'trajectories.jsonl'
  lines = file.read_text().splitlines(keepends=True)
  lines[2] = lines[2].replace('"reply":"', '"reply":"x', 1)
  file.write_text(''.join(lines))
  text = refused(environment, workdir)
  assert 'trajectories.jsonl:3' in text


def test_a_damaged_checkpoint_is_refused(reference, environment, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(reference[0], workdir)
  (workdir / 'rl' / 'done.json').unlink()
  steps = workdir / 'rl' / 'checkpoints'
  newest = max((p for p in steps.iterdir() if p.name.isdigit()), key=str)
  largest = max(
    (p for p in newest.rglob('*') if p.is_file()),
    key=lambda p: p.stat().st_size,
  )
  largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
  text = refused(environment, workdir)
  assert 'checkpoint' in text.lower()
  assert str(newest) in text

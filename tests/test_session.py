"""What a config's environment keys make of a session."""

import pathlib
import subprocess
import sys

import pytest

from configs import base
from mlagent_jax.environment import cache
from mlagent_jax.environment.records import SandboxUnavailable
from mlagent_jax.environment.workers import LocalPool
from mlagent_jax.stages import errors, session, workdir

sys.path.append(str(pathlib.Path(__file__).parent / 'environment'))
from line_task import SLOPE_LINE, write_task  # noqa: E402

EDIT = (
  'Thought: t\nAction: Edit Script Lines\n'
  f'Action Input: train.py {SLOPE_LINE}-{SLOPE_LINE}\nSLOPE = 1.5'
)


@pytest.fixture
def config(tmp_path, monkeypatch):
  monkeypatch.setenv('MLAGENT_CACHE', str(tmp_path / 'cache'))
  config = base.get_config()
  config.tasks.train = (str(write_task(tmp_path / 'tasks')),)
  config.tasks.held_out = ()
  config.environment.sandbox = 'process'
  return config


def step(config, folder):
  """Takes one step in a session of its own; its outcome and the counts."""
  with session.open_session(config, folder, 1) as opened:
    (name,) = opened.environment.tasks
    start = opened.environment.initial(name)
    outcome, _ = opened.pool.submit(name, start, EDIT).result(timeout=240)
    assert outcome.score == 5.0
    return type(opened.pool), outcome.cached


@pytest.mark.ray
def test_a_pool_of_ray_gives_the_same(config, tmp_path, monkeypatch):
  monkeypatch.setenv('RAY_USAGE_STATS_ENABLED', '0')
  monkeypatch.setenv('RAY_raylet_start_wait_time_s', '180')
  assert step(config, tmp_path / 'run') == (LocalPool, False)
  config.environment.pool = 'ray'
  config.environment.ray_address = 'local'
  config.environment.workers = 0
  # The same work directory, and what was executed there.
  kind, cached = step(config, tmp_path / 'run')
  assert (kind.__name__, cached) == ('RayPool', True)


def test_scripts_find_imported_what_the_config_says(config, tmp_path):
  config.environment.preload = ('json', 'xml.dom')
  with session.open_session(config, tmp_path / 'run', 1) as opened:
    (name,) = opened.environment.tasks
    start = opened.environment.initial(name)
    reply = f"{EDIT}; import sys; print('imported:', 'xml.dom' in sys.modules)"
    outcome, _ = opened.pool.submit(name, start, reply).result(timeout=240)
  assert outcome.score == 5.0
  assert 'imported: True' in outcome.observation


@pytest.mark.ray
def test_a_cluster_that_is_not_there_is_told(config, tmp_path):
  config.environment.pool = 'ray'
  config.environment.ray_address = '127.0.0.1:1'
  with pytest.raises(
    session.ConfigError, match=r'no Ray cluster.*127\.0\.0\.1'
  ):
    step(config, tmp_path / 'run')


def test_runs_share_what_was_executed(config, tmp_path):
  config.environment.executions = str(tmp_path / 'executions')
  config.environment.executions_gb = 0.5
  assert step(config, tmp_path / 'one') == (LocalPool, False)
  assert step(config, tmp_path / 'two') == (LocalPool, True)
  assert not (tmp_path / 'two' / 'executions').exists()
  config.environment.reuse_executions = False
  assert step(config, tmp_path / 'three') == (LocalPool, False)


def test_a_cache_of_another_version_is_refused(config, tmp_path):
  cache.ExecutionCache(tmp_path / 'executions')
  (tmp_path / 'executions' / 'format').chmod(0o644)
  (tmp_path / 'executions' / 'format').write_text('1\n')
  config.environment.executions = str(tmp_path / 'executions')
  with pytest.raises(cache.CacheError, match=r"format '1'.*reads '2'"):
    step(config, tmp_path / 'run')
  # Nothing is lost: it is as it was.
  assert (tmp_path / 'executions' / 'format').read_text() == '1\n'


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'sft.schedule': 'cosin'}, "sft.schedule: 'cosin' is none of"),
    ({'rl.schedule': 'cosin'}, "rl.schedule: 'cosin' is none of"),
    ({'rl.critic.schedule': 'x'}, "rl.critic.schedule: 'x' is none of"),
    ({'sft.min_reward': 2.0}, 'sft.min_reward is 2.0, and no reward is above'),
    ({'sft.steps': 10}, 'sft.warmup_steps is 20, but there are 10 updates'),
    ({'sft.steps': 0}, 'sft.steps is 0; it must be at least 1'),
    ({'sft.micro_batches': 0}, 'sft.micro_batches is 0'),
    ({'sft.checkpoint_every': 0}, 'sft.checkpoint_every is 0'),
    ({'sft.actions_per_prompt': 0}, 'sft.actions_per_prompt is 0'),
    ({'fixed_set.states': 0}, 'fixed_set.states is 0'),
    ({'fixed_set.samples': 0}, 'fixed_set.samples is 0'),
    ({'optimizer.clip_norm': 0.0}, 'optimizer.clip_norm is 0.0; .* above 0'),
    ({'optimizer.b2': 1.0}, 'optimizer.b2 is 1.0; it must be .* below 1'),
    ({'rl.weight_decay': -0.1}, 'rl.weight_decay is -0.1; it must be 0 or'),
    ({'model.dtype': 'bf16'}, "model: dtype 'bf16' is none of"),
    ({'model.remat': 'x'}, "model: remat 'x' is none of"),
    ({'model.num_heads': 3}, 'model: num_heads 3 is not a multiple of'),
    ({'collect.diverse_ideas': 2}, r'1 to 3 ideas .* of 2 \(diverse_ideas\)'),
    ({'evaluate.episodes': 0}, 'evaluate.episodes is 0'),
  ],
)
def test_sizes_and_schedules_are_checked_at_start_up(config, changes, words):
  config.update_from_flattened_dict(changes)
  with pytest.raises(session.ConfigError, match=words):
    session.check_config(config, 1)


def test_another_number_of_chips_goes_on_with_a_run(config):
  config.update_from_flattened_dict(
    {
      'mesh.fsdp': -1,
      'sft.prompts_per_batch': 16,
      'sft.micro_batches': -1,
      'rl.micro_batches': -1,
    }
  )
  marks = set()
  for devices in (1, 2, 8):
    filled = config.copy_and_resolve_references()
    session.fill_in(filled, devices)
    session.check_config(filled, devices)
    marks.add(workdir.fingerprint(filled))
  assert len(marks) == 1


@pytest.mark.parametrize(
  'key, value, words',
  [
    ('pool', 'slurm', "environment.pool: 'slurm' is none of"),
    ('sandbox', 'jail', "environment.sandbox: 'jail' is none of"),
    (
      'preload',
      ('json', 'sklearn.numpi', 'no.such'),
      r"there is no module \['sklearn.numpi', 'no.such'\]",
    ),
    ('executions_gb', 0.0, 'environment.executions_gb: 0.0 must be above 0'),
    ('docker_image', 'x/y', "'x/y' needs environment.sandbox 'docker', found"),
    ('workers', 0, r'environment.workers = 0: workers \(0\)'),
  ],
)
def test_bad_keys_are_told_at_start_up(config, tmp_path, key, value, words):
  setattr(config.environment, key, value)
  with pytest.raises(session.ConfigError, match=words):
    step(config, tmp_path / 'run')
  assert not (tmp_path / 'run' / 'metrics.jsonl').exists()


def test_an_editor_on_many_nodes_is_told_at_start_up(config):
  config.agent.editor = 'endpoint'
  config.environment.pool = 'ray'
  with pytest.raises(
    session.ConfigError, match="agent.editor 'endpoint' needs"
  ):
    session.check_config(config, 1)


def test_the_keys_may_differ_when_a_run_is_resumed(config, tmp_path):
  step(config, tmp_path / 'run')
  config.environment.workers = 1
  config.environment.executions_gb = 1.0
  assert step(config, tmp_path / 'run') == (LocalPool, True)


@pytest.mark.docker
def test_an_image_that_is_not_built_is_told(config, tmp_path):
  config.environment.sandbox = 'docker'
  config.environment.docker_image = 'mlagent_jax/task:none'
  with pytest.raises(SandboxUnavailable, match='task:none.*build'):
    step(config, tmp_path / 'run')


def test_a_full_disk_stops_a_run_that_can_go_on(config, tmp_path):
  """The executions are on a disk that is full, then on one that is not."""
  disk = tmp_path / 'disk'
  disk.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', str(disk)]
  if subprocess.run(mount, capture_output=True).returncode:
    pytest.skip('only root may mount a small disk')
  try:
    config.environment.executions = str(disk / 'executions')
    with session.open_session(config, tmp_path / 'run', 1) as opened:
      (disk / 'ballast').write_bytes(bytes(40 << 10))
      (name,) = opened.environment.tasks
      start = opened.environment.initial(name)
      future = opened.pool.submit(name, start, EDIT)
      with pytest.raises(errors.EXPECTED, match='No space left.*is whole'):
        future.result(timeout=60)
      (disk / 'ballast').unlink()
      outcome, _ = opened.pool.submit(name, start, EDIT).result(timeout=60)
      assert outcome.score == 5.0
  finally:
    subprocess.run(['umount', '--lazy', str(disk)], check=True)


def test_minus_one_is_what_the_devices_leave():
  config = base.get_config()
  config.mesh.fsdp = -1
  config.mesh.model = 2
  config.sft.layout = 'packed'
  config.sft.batch_size = 24
  config.sft.micro_batches = -1
  config.rl.micro_batches = -1
  config.rl.mini_batches = 2
  session.fill_in(config, 8)
  assert config.mesh.fsdp == 4
  assert config.sft.micro_batches == 6  # one row a device at a time
  assert config.rl.micro_batches == 2  # 16 states in 2 mini-batches
  packed = config.copy_and_resolve_references()
  packed.rl.layout, packed.rl.micro_batches = 'packed_groups', -1
  session.fill_in(packed, 8)
  assert packed.rl.micro_batches == 1  # rows have several states
  session.check_config(config, 8)
  config.sft.batch_size = 26
  with pytest.raises(session.ConfigError, match='batch_size 26 .* 4 devices'):
    session.check_config(config, 8)
  config.mesh.fsdp = -1
  with pytest.raises(session.ConfigError, match='9 devices .* model=2'):
    session.fill_in(config, 9)

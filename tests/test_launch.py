"""launch/: scripts that shellcheck passes, commands and manifests that fit."""

import os
import pathlib
import re
import shlex
import subprocess

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAUNCH = ROOT / 'launch'
SCRIPTS = sorted(LAUNCH.rglob('*.sh')) + [LAUNCH / 'slurm.sbatch']
# As defined there: config_flags and absl parse any other as an error.
TRAINER_FLAGS = {
  flag
  for module in ('train.py', 'config_flag.py')
  for flag in re.findall(
    r"DEFINE_\w+\(\s*'(\w+)'", (ROOT / 'mlagent_jax' / module).read_text()
  )
}


def dry_run(*command, **environment):
  return subprocess.run(
    [*command, '--dry-run'],
    env=os.environ | environment,
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=60,
  )


def check_trainer_flags(text):
  """Every flag that the trainer is given exists, and config and workdir are."""
  given = set(re.findall(r'--([a-z_]+)', text))
  assert {'config', 'workdir'} <= given <= TRAINER_FLAGS, given
  config = re.search(r'--config=(\S+)', text).group(1)
  assert (ROOT / config).is_file(), config


@pytest.mark.shellcheck
def test_shellcheck_passes():
  subprocess.run(['shellcheck', '-x', *SCRIPTS], check=True, cwd=ROOT)


def test_each_says_what_it_costs():
  for file in (*SCRIPTS, *LAUNCH.glob('*.yaml')):
    if file.name in ('docker_engine.sh', 'gpu_xla_flags.sh', 'build.sh'):
      continue  # of this machine
    assert re.search(r'billed|counts against', file.read_text()), file


def test_the_tpu_pod_is_created_used_and_deleted():
  known = {'PROJECT': 'p', 'SHARED': '10.0.0.2:/runs', 'SPOT': '1'}
  printed = {
    command: dry_run('launch/tpu_pod.sh', command, **known)
    for command in ('create', 'install', 'run', 'logs', 'stop', 'delete')
  }
  for command, done in printed.items():
    assert done.returncode == 0, command + done.stderr
    for line in done.stdout.splitlines():
      words = shlex.split(line)
      assert words[0] in ('gcloud', 'git')
      if words[0] == 'gcloud':
        assert words[1:4] == ['compute', 'tpus', words[3]]
        assert {'--project=p', '--zone=us-west4-a'} <= set(words)
  assert '--spot' in printed['create'].stdout
  assert '--worker=all' in printed['run'].stdout
  train_command = shlex.split(printed['run'].stdout)[-1]
  check_trainer_flags(train_command.partition('mlagent_jax.train')[2])


def test_the_tpu_pod_asks_for_what_it_needs():
  done = dry_run('launch/tpu_pod.sh', 'create', PROJECT='')
  assert done.returncode == 2
  assert 'PROJECT is not set' in done.stderr
  help_text = dry_run('launch/tpu_pod.sh', 'nothing')
  assert 'launch/tpu_pod.sh create' in help_text.stdout


def test_slurm_starts_one_process_a_node():
  done = dry_run('bash', 'launch/slurm.sbatch', SLURM_GPUS_ON_NODE='4')
  devices, command = done.stdout.splitlines()
  assert devices == 'JAX_LOCAL_DEVICE_IDS=0,1,2,3'
  words = shlex.split(command)
  assert words[0] == 'srun'
  check_trainer_flags(' '.join(words[words.index('mlagent_jax.train') :]))
  text = (LAUNCH / 'slurm.sbatch').read_text()
  assert '#SBATCH --ntasks-per-node=1' in text
  assert '#SBATCH --requeue' in text


def test_the_jobset_has_a_pod_for_every_host():
  jobset = yaml.safe_load((LAUNCH / 'gke_jobset.yaml').read_text())
  assert jobset['apiVersion'] == 'jobset.x-k8s.io/v1alpha2'
  assert jobset['kind'] == 'JobSet'
  (job,) = jobset['spec']['replicatedJobs']
  spec = job['template']['spec']
  pod = spec['template']['spec']
  topology = pod['nodeSelector']['cloud.google.com/gke-tpu-topology']
  rows, columns = map(int, topology.split('x'))
  (container,) = pod['containers']
  chips = container['resources']['limits']['google.com/tpu']
  assert spec['parallelism'] == spec['completions']
  assert spec['parallelism'] * int(chips) == rows * columns
  # All fail together, and start again together.
  assert spec['backoffLimit'] == 0
  assert pod['restartPolicy'] == 'Never'
  assert jobset['spec']['failurePolicy']['maxRestarts'] > 0
  assert pod['terminationGracePeriodSeconds'] >= 60
  check_trainer_flags(' '.join(container['args']))
  check_mounts(pod)


def test_the_gpu_jobset_tells_every_node_who_it_is():
  jobset = yaml.safe_load((LAUNCH / 'gke_gpu_jobset.yaml').read_text())
  assert jobset['apiVersion'] == 'jobset.x-k8s.io/v1alpha2'
  assert jobset['kind'] == 'JobSet'
  (job,) = jobset['spec']['replicatedJobs']
  spec = job['template']['spec']
  pod = spec['template']['spec']
  (container,) = pod['containers']
  known = {entry['name']: entry.get('value') for entry in container['env']}
  # JobSet gives pods these host names, and Indexed jobs these annotations.
  name = jobset['metadata']['name']
  address, port = known['JAX_COORDINATOR_ADDRESS'].split(':')
  assert address == f'{name}-{job["name"]}-0-0.{name}'
  assert container['ports'] == [{'containerPort': int(port)}]
  assert spec['completionMode'] == 'Indexed'
  assert spec['parallelism'] == spec['completions']
  assert spec['completions'] == int(known['JAX_NUM_PROCESSES'])
  (index,) = [e for e in container['env'] if e['name'] == 'JAX_PROCESS_ID']
  path = index['valueFrom']['fieldRef']['fieldPath']
  assert 'batch.kubernetes.io/job-completion-index' in path
  # The flags of the other launchers.
  script = '. launch/gpu_xla_flags.sh; echo $XLA_FLAGS'
  flags = subprocess.run(
    ['bash', '-c', script],
    env=os.environ | {'XLA_FLAGS': ''},
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  assert known['XLA_FLAGS'].split() == flags.stdout.split()
  assert container['resources']['limits'] == {'nvidia.com/gpu': '8'}
  assert spec['backoffLimit'] == 0
  assert pod['restartPolicy'] == 'Never'
  assert jobset['spec']['failurePolicy']['maxRestarts'] > 0
  assert pod['terminationGracePeriodSeconds'] >= 60
  check_trainer_flags(' '.join(container['args']))
  check_mounts(pod)


def test_the_ray_workers_share_the_work_directory():
  cluster = yaml.safe_load((LAUNCH / 'ray_workers.yaml').read_text())
  assert cluster['apiVersion'] == 'ray.io/v1'
  assert cluster['kind'] == 'RayCluster'
  spec = cluster['spec']
  assert spec['headGroupSpec']['rayStartParams']['num-cpus'] == '0'
  (group,) = spec['workerGroupSpecs']
  assert group['minReplicas'] <= group['replicas'] <= group['maxReplicas']
  jobset = yaml.safe_load((LAUNCH / 'gke_jobset.yaml').read_text())
  trainer = jobset['spec']['replicatedJobs'][0]['template']['spec']
  for part in (spec['headGroupSpec'], group):
    pod = part['template']['spec']
    check_mounts(pod)
    assert mounts(pod)['runs'] == mounts(trainer['template']['spec'])['runs']


def mounts(pod):
  return {
    m['name']: m['mountPath'] for m in pod['containers'][0]['volumeMounts']
  }


def check_mounts(pod):
  assert mounts(pod).keys() == {volume['name'] for volume in pod['volumes']}


def test_sky_tells_every_node_who_it_is():
  task = yaml.safe_load((LAUNCH / 'sky.yaml').read_text())
  assert task.keys() <= {
    'name',
    'resources',
    'num_nodes',
    'workdir',
    'envs',
    'setup',
    'run',
  }
  script = task['run'].replace('exec .venv/bin/python', 'echo "$@"')
  done = subprocess.run(
    ['bash', '-euc', script + '\nenv'],
    env=os.environ
    | task['envs']
    | {
      'SKYPILOT_NODE_IPS': '10.0.0.1\n10.0.0.2',
      'SKYPILOT_NUM_NODES': '2',
      'SKYPILOT_NODE_RANK': '1',
    },
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  assert 'JAX_COORDINATOR_ADDRESS=10.0.0.1:8476' in done.stdout
  assert 'JAX_NUM_PROCESSES=2' in done.stdout
  assert 'JAX_PROCESS_ID=1' in done.stdout
  (command,) = [l for l in done.stdout.splitlines() if 'mlagent_jax.train' in l]
  check_trainer_flags(command.partition('mlagent_jax.train')[2])


def test_the_image_has_what_setup_py_reads():
  text = (LAUNCH / 'trainer' / 'Dockerfile').read_text()
  copied = re.findall(r'^COPY (.+) \S+$', text, re.MULTILINE)
  sources = {source for line in copied for source in line.split()}
  for source in sources:
    assert (ROOT / source).exists(), source
  assert {'setup.py', 'README.md', 'mlagent_jax', 'configs', 'tasks'} <= sources

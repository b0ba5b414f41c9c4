"""What the benchmarks of the RL loop share: one fine-tuned start, many runs.

Collecting and fine-tuning are done once for all runs of a benchmark. A
checkpoint belongs to a config; `start_of` gives a run with other keys of `rl`
a copy of it under its own config.
"""

import hashlib
import json
import os
import pathlib
import platform
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

COMMON = ('collect', 'sft', 'tokenizer', 'blobs')


def tuned(config, folder: pathlib.Path) -> pathlib.Path:
  """Collects and fine-tunes in `folder`, as far as that is not done."""
  from mlagent_jax import train
  from mlagent_jax.stages import processes

  config = config.copy_and_resolve_references()
  config.stages = ('collect', 'sft')
  train.train(config, folder, processes.Processes())
  return folder


def start_of(config, tuned_folder: pathlib.Path, folder: pathlib.Path):
  """Makes `folder` a work directory of `config` that has been fine-tuned."""
  from mlagent_jax.stages import workdir

  shutil.rmtree(folder, ignore_errors=True)
  for name in COMMON:
    shutil.copytree(tuned_folder / name, folder / name)
  workdir.write_json(folder / 'config.json', workdir.flatten(config))
  for path in folder.glob('sft/checkpoints/*/manifest/metadata'):
    manifest = json.loads(path.read_text())
    del manifest['sha256']
    manifest['fingerprint'] = workdir.fingerprint(config)
    text = json.dumps(manifest, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(manifest | {'sha256': digest}))


def run_rl(
  config, folder: pathlib.Path, change_learner=lambda learner: learner
):
  """The RL stage; returns its rows of metrics.jsonl, by step."""
  import jax

  from mlagent_jax.stages import learner as learner_lib
  from mlagent_jax.stages import rl, run_log, session, states, vocabulary

  config = config.copy_and_resolve_references()
  config.stages = ('rl',)
  with session.open_session(config, folder, jax.device_count()) as live:
    tokenizer = vocabulary.load_or_train(live)
    learner = learner_lib.make_learner(config, tokenizer, live.processes)
    known = states.load_states(live, tokenizer)
    rl.run(live, change_learner(learner), known)
  rows = run_log.read_metrics(folder)
  return [row for row in rows if row['stage'] == 'rl']


def machine() -> str:
  """For the last line of a benchmark."""
  return f'{os.cpu_count()} cores, {platform.machine()}, CPU only'

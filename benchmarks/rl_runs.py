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
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

COMMON = ('collect', 'sft', 'tokenizer', 'blobs')


def run_stages(config, folder: pathlib.Path, *stages: str) -> None:
  """Runs the stages that are not complete."""
  import jax

  from mlagent_jax import train
  from mlagent_jax.stages import session

  config = config.copy_and_resolve_references()
  config.stages = stages
  with session.open_session(config, folder, jax.device_count()) as live:
    for stage in stages:
      if live.workdir.result(stage) is None:
        start = time.monotonic()
        result = train.run_stage(live, stage)
        seconds = time.monotonic() - start
        live.workdir.finish(stage, {'result': result, 'seconds': seconds})


def start_of(config, tuned_folder: pathlib.Path, folder: pathlib.Path):
  """Makes `folder` a work directory of `config` that has been fine-tuned.

  One that is there goes on where it stopped.
  """
  from mlagent_jax.stages import workdir

  if (folder / 'config.json').exists():
    return
  for name in COMMON:
    shutil.copytree(tuned_folder / name, folder / name)
  for path in folder.glob('sft/checkpoints/*/manifest/metadata'):
    manifest = json.loads(path.read_text())
    del manifest['sha256']
    manifest['fingerprint'] = workdir.fingerprint(config)
    text = json.dumps(manifest, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(manifest | {'sha256': digest}))
  workdir.write_json(folder / 'config.json', workdir.flatten(config))


def run_rl(config, folder: pathlib.Path) -> list[dict]:
  """The RL stage; returns its rows of metrics.jsonl."""
  from mlagent_jax.stages import run_log

  run_stages(config, folder, 'rl')
  return [row for row in run_log.read_metrics(folder) if row['stage'] == 'rl']


def machine() -> str:
  """For the last line of a benchmark."""
  return f'{os.cpu_count()} cores, {platform.machine()}, CPU only'

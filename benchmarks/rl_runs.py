"""What the benchmarks of the RL loop share: one fine-tuned start, many runs.

Collecting and fine-tuning are done once for all runs of a benchmark. A
checkpoint belongs to a config; `start_of` gives a run with other keys of `rl`
a copy of it under its own config.
"""

import argparse
import hashlib
import json
import pathlib
import shutil
import sys
import time

import contest

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


def compare(
  config,
  folder: pathlib.Path,
  key: str,
  values,
  figures,
  before=lambda: None,
):
  """Runs RL with other values of a key of `rl`, from one fine-tuned start.

  Args:
    config: the whole config; `rl.KEY` is changed in place.
    folder: of all runs; one that is there goes on where it stopped.
    key: of section `rl`.
    values: that it takes in turn.
    figures: (rows of metrics.jsonl, config) -> what a run showed.
    before: called after fine-tuning, before the first of the runs.

  Returns:
    value -> its figures.
  """
  tuned = folder / 'tuned'
  run_stages(config, tuned, 'collect', 'sft')
  before()
  found = {}
  for value in values:
    config.rl[key] = value
    start_of(config, tuned, folder / f'{key}-{value}')
    rows = run_rl(config, folder / f'{key}-{value}')
    found[value] = figures(rows, config)
    print(f'{key}={value}: {json.dumps(found[value], indent=2)}', flush=True)
  return found


def report(name: str, ours: float, peer: float, **figures) -> None:
  """Prints the last line of a benchmark."""
  result = {'name': name, 'ours': ours, 'peer': peer, 'ratio': ours / peer}
  print(json.dumps(result | figures | {'machine': contest.machine()}))


def parser(doc: str) -> argparse.ArgumentParser:
  """With --workdir, and the script's text as its help."""
  made = argparse.ArgumentParser(
    description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  made.add_argument('--workdir', type=pathlib.Path, required=True)
  return made

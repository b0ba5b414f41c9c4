"""Trains an agent: `python -m mlagent_jax.train --config=C --workdir=DIR`.

Runs the stages that the config lists (collect, sft, rl, evaluate), skips those
that the work directory has completed, and resumes one that was killed. Any key
of the config can be overridden: --config.rl.steps=48. Leaves results.json,
metrics.jsonl, TensorBoard files and curves.png in the work directory.

The work directory is a folder, or gs://BUCKET/NAME: then process 0 works in a
folder of its own disk (--mirror) and keeps the bucket up to date.

With several hosts, start it on each of them, with one work directory that all
of them see. On a TPU pod, under SLURM and in a Kubernetes job they find each
other; elsewhere give --coordinator_address, --num_processes and --process_id.
SIGTERM saves a checkpoint at the next step and exits with 0.
"""

import pathlib
import sys
import time

from absl import app, flags, logging

from mlagent_jax import config_flag

_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Folder of the run, or gs://BUCKET/NAME; made if missing, resumed if not.',
)
_MIRROR = flags.DEFINE_string(
  'mirror',
  None,
  'With a --workdir at gs://: the folder that process 0 works in; by default'
  ' one in $MLAGENT_CACHE or ~/.cache/mlagent_jax. Nodes of a Ray cluster must'
  ' see it.',
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator_address', None, 'host:port of process 0, with several processes.'
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'Processes of all hosts together.', lower_bound=1
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'This process, from 0.', lower_bound=0
)
flags.mark_flags_as_required(['config', 'workdir'])
flags.adopt_module_key_flags(config_flag)


def main(argv):
  """Wires the stages together."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)
  # Here and not above, so that --help answers at once.
  from mlagent_jax.stages import errors, processes

  try:
    here = processes.start(
      _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    )
    with processes.ending_together(here), processes.stopping_on_sigterm(here):
      try:
        train(config_flag.CONFIG.value, *_place(), here)
      except errors.EXPECTED as error:
        # What a person can put right needs no traceback.
        sys.exit(f'{type(error).__name__}: {error}')
      except processes.Stopped as stopped:
        print(f'stopped by SIGTERM: {stopped}; the next start goes on')
  except processes.StartError as error:
    sys.exit(f'{type(error).__name__}: {error}')


def _place() -> tuple[pathlib.Path, str]:
  """(folder, URL if it is only the mirror of one) of the flags."""
  from mlagent_jax.stages import mirror

  if not mirror.is_url(_WORKDIR.value):
    return pathlib.Path(_WORKDIR.value), ''
  folder = _MIRROR.value or mirror.folder_for(_WORKDIR.value)
  environment = config_flag.CONFIG.value.environment
  nodes = environment.pool == 'ray' and environment.ray_address != 'local'
  if nodes and not _MIRROR.value:
    raise mirror.MirrorError(
      f"--workdir={_WORKDIR.value} with environment.pool 'ray': give a --mirror"
      ' that all nodes of the cluster see'
    )
  return pathlib.Path(folder), _WORKDIR.value.rstrip('/')


def train(config, folder: pathlib.Path, url: str, processes) -> None:
  """Runs the config's stages that the work directory has not completed."""
  import jax

  from mlagent_jax.serving import policy_chat
  from mlagent_jax.stages import session as session_lib
  from mlagent_jax.stages import summary

  session_lib.fill_in(config, jax.device_count())
  with session_lib.open_session(
    config,
    folder,
    jax.device_count(),
    processes,
    open_policy=policy_chat.open_policy,
    url=url,
  ) as session:
    for stage in config.stages:
      if session.result(stage) is not None:
        session.log.say(f'{stage}: complete, skipped')
        continue
      start = time.monotonic()
      result = run_stage(session, stage)
      seconds = time.monotonic() - start
      processes.leader_does(
        session.workdir.finish, stage, {'result': result, 'seconds': seconds}
      )
      session.log.say(f'{stage}: {seconds:.0f} s')
    processes.leader_does(summary.write, session)
    session.log.say(f'wrote results.json and curves.png in {session.workdir}')


def run_stage(session, stage: str) -> dict:
  """Runs one stage to its end; returns what it reports."""
  from mlagent_jax.stages import collect, evaluate, rl, sft, states, vocabulary
  from mlagent_jax.stages import learner as learner_lib

  if stage == 'collect':
    return collect.run(session)
  tokenizer = vocabulary.load_or_train(session)
  learner = learner_lib.make_learner(
    session.config, tokenizer, processes=session.processes
  )
  if stage == 'evaluate':
    return evaluate.run(session, learner, session.prompt_ids(tokenizer))
  known = states.load_states(session, tokenizer)
  stages = {'sft': sft.run, 'rl': rl.run}
  return stages[stage](session, learner, known)


if __name__ == '__main__':
  app.run(main, flags_parser=config_flag.parse)

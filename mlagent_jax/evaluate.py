"""Evaluates agents: `python -m mlagent_jax.evaluate --workdir=DIR`.

Plays whole episodes of every agent on every task of a suite, and says who is
better: avg@8 and best@8, relative and normalised gain, wins against the
starter, what became of the actions, what they cost, with 95 % intervals and
paired tests, and whether gain depends on how complex a task is.

  starter           the task's script as it is
  untrained sft rl  the policy of a training run (--checkpoint)
  scripted          the expert that writes the trajectories for training
  random            valid actions, drawn at random
  endpoint:MODEL    a model behind an OpenAI-compatible endpoint (--base_url …)

An episode is on disk when it ends: the same command goes on where it was
stopped, and a larger --episodes plays the new ones only. Leaves
evaluation/results.{json,csv,md,tex} and complexity.png in the work directory;
`python -m mlagent_jax.report --workdir=DIR` makes a page of it.

  python -m mlagent_jax.evaluate --workdir=runs/demo
  python -m mlagent_jax.evaluate --workdir=DIR --agents=random --suite=FOLDER
"""

import pathlib
import sys

from absl import app, flags, logging

from mlagent_jax import agent_flags

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder for the results; made if missing.'
)
_CHECKPOINT = flags.DEFINE_string(
  'checkpoint',
  None,
  'Work directory of a training run, whose policies are evaluated; --workdir'
  ' itself if it is one and this is not given. It is only read.',
)
_AGENTS = flags.DEFINE_list(
  'agents',
  None,
  'Who plays, in the order of the tables. Default: starter, random, scripted'
  ' and what the training run has.',
)
_SUITE = flags.DEFINE_string(
  'suite', 'offline', 'A suite of tasks/, or a folder that holds task folders.'
)
_TASKS = flags.DEFINE_list(
  'tasks', None, 'Names or folders of tasks, in place of a suite.'
)
_EPISODES = flags.DEFINE_integer('episodes', 8, 'A task and agent.')
_MAX_STEPS = flags.DEFINE_integer('max_steps', 15, 'Of an episode.')
_MAX_MINUTES = flags.DEFINE_float('max_minutes', 30.0, 'Of an episode.')
_MAX_PROMPT_TOKENS = flags.DEFINE_integer(
  'max_prompt_tokens', 0, "That policies may read; 0: the training run's."
)
_AT_ONCE = flags.DEFINE_integer(
  'at_once', 16, 'Episodes in flight; also the batch of a policy.'
)
_REUSE = flags.DEFINE_boolean(
  'reuse_executions', True, 'Whether what ran once is not run again.'
)
_DOLLARS = flags.DEFINE_float(
  'dollars_per_accelerator_hour', 0.0, 'Price of one, for the table of costs.'
)
_SAMPLES = flags.DEFINE_integer(
  'bootstrap_samples', 10_000, 'Of intervals and tests.'
)
flags.mark_flag_as_required('workdir')
flags.adopt_module_key_flags(agent_flags)


def main(argv):
  """Reads the flags and evaluates."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)
  # Here and not above, so that --help answers at once.
  import rich.console

  from mlagent_jax.stages import errors
  from mlagent_jax.stages.evaluation import run

  try:
    run.evaluate(_plan(run), rich.console.Console())
  except errors.EXPECTED as error:
    sys.exit(f'{type(error).__name__}: {error}')
  except KeyboardInterrupt:
    sys.exit('stopped; the same command goes on from here')


def _plan(run):
  folder = pathlib.Path(_WORKDIR.value)
  checkpoint = _CHECKPOINT.value and pathlib.Path(_CHECKPOINT.value)
  if checkpoint is None and (folder / 'config.json').exists():
    checkpoint = folder
  agents = _AGENTS.value or run.default_agents(checkpoint)
  tasks = _TASKS.value or run.suite_tasks(_SUITE.value)
  return run.Plan(
    workdir=folder,
    checkpoint=checkpoint,
    agents=tuple(agents),
    tasks=tuple(tasks),
    episodes=_EPISODES.value,
    max_steps=_MAX_STEPS.value,
    max_seconds=60 * _MAX_MINUTES.value,
    seed=agent_flags.SEED.value,
    temperature=agent_flags.TEMPERATURE.value,
    protocol=agent_flags.PROTOCOL.value,
    max_prompt_tokens=_MAX_PROMPT_TOKENS.value,
    sandbox=agent_flags.SANDBOX.value,
    workers=agent_flags.WORKERS.value,
    at_once=_AT_ONCE.value,
    reuse_executions=_REUSE.value,
    dollars_per_hour=_DOLLARS.value,
    bootstrap_samples=_SAMPLES.value,
    endpoint=agent_flags.endpoint_options(
      folder, max_prompt_tokens=_MAX_PROMPT_TOKENS.value or 12_000
    ),
  )


if __name__ == '__main__':
  app.run(main)

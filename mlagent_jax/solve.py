r"""Works on your own folder: `python -m mlagent_jax.solve --task=DIR …`.

Several attempts of an agent at improving one of your scripts; you get the best
one as a patch, with its score and yours on rows that no attempt ever saw, and
the report. Your folder is only read.

Say how a result is scored, in one of two ways:

  a table   the script reads --data, predicts the rows of --test (test.csv) and
            writes submission.csv with the columns --id and --target

    python -m mlagent_jax.solve --task=houses --agent=runs/demo \
      --data=train.csv --target=price --id=id --metric=mae --out=runs/houses

  printed   the script prints its score, and --score_pattern finds it

    python -m mlagent_jax.solve --task=houses --agent=endpoint:gpt-4o-mini \
      --data=houses.csv --score_pattern='MAE: ([-+.0-9e]+)' \
      --higher_is_better=false --budget=30m --out=runs/houses

What is missing is asked for at once. The same command goes on where it was
stopped.
"""

import os
import pathlib
import re
import sys

from absl import app, flags, logging

from mlagent_jax import agent_flags

_TASK = flags.DEFINE_string('task', None, 'Your folder; it is only read.')
_AGENT = flags.DEFINE_string(
  'agent',
  None,
  'The work directory of a training run (or DIR:sft, DIR:rl), endpoint:MODEL,'
  ' scripted, or random.',
)
_OUT = flags.DEFINE_string('out', None, 'Folder of the results.')
_BUDGET = flags.DEFINE_string(
  'budget', '30m', 'Time of all attempts together: 90s, 30m, 2h.'
)
_BEST_OF = flags.DEFINE_integer('best_of', 8, 'Attempts, side by side.')
flags.DEFINE_alias('best-of', 'best_of')
_MAX_STEPS = flags.DEFINE_integer('max_steps', 15, 'Of an attempt.')
_SCRIPT = flags.DEFINE_string('script', '', 'The script to improve.')
_DATA = flags.DEFINE_string('data', '', 'The CSV table with your rows.')
_TARGET = flags.DEFINE_string('target', '', 'Its column to predict.')
_ID = flags.DEFINE_string('id', '', 'Its column that names the rows.')
_TEST = flags.DEFINE_string(
  'test', 'test.csv', 'Under which name the script reads rows to predict.'
)
_METRIC = flags.DEFINE_string(
  'metric', '', 'accuracy, auc, log_loss, mae, rmse, rmsle, pearson, qwk, …'
)
_PATTERN = flags.DEFINE_string(
  'score_pattern', '', 'Regular expression with one group: the printed score.'
)
_HIGHER = flags.DEFINE_string(
  'higher_is_better', '', 'true or false, of the printed score.'
)
_DESCRIPTION = flags.DEFINE_string(
  'description', '', 'What the script is for, in your words.'
)
_SECONDS = flags.DEFINE_float('seconds', 600.0, 'Limit of one run.')
_MEMORY = flags.DEFINE_integer('memory_mb', 8192, 'Limit of one run, MiB.')
_CPUS = flags.DEFINE_float('cpus', 1.0, 'Of one run.')
flags.mark_flags_as_required(['task', 'agent', 'out'])
flags.adopt_module_key_flags(agent_flags)

_UNITS = {'s': 1, 'm': 60, 'h': 3600}


def main(argv):
  """Reads the flags and solves."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)
  out = pathlib.Path(_OUT.value).expanduser()
  # The copied rows stay with the results, not in the cache of all tasks.
  os.environ['MLAGENT_CACHE'] = str((out / 'cache').resolve())
  # Here and not above, so that --help answers at once.
  import rich.console

  from mlagent_jax.stages import errors
  from mlagent_jax.stages.report import page
  from mlagent_jax.stages.solving import place, run

  try:
    result = run.solve(_plan(run, out), rich.console.Console())
    page.write(out)
  except (*errors.EXPECTED, place.SolveError) as error:
    sys.exit(f'{type(error).__name__}: {error}')
  except KeyboardInterrupt:
    sys.exit('stopped; the same command goes on from here')
  if result['best'] is None:
    sys.exit(1)


def budget_seconds(text: str) -> float:
  """Seconds of '90s', '30m' or '2h'.

  Raises:
    UsageError: if it is not of that form.
  """
  match = re.fullmatch(r'(\d+(?:\.\d+)?)([smh])', text)
  if not match:
    raise app.UsageError(f'--budget={text}: write it like 90s, 30m or 2h')
  return float(match[1]) * _UNITS[match[2]]


def _plan(run, out: pathlib.Path):
  from mlagent_jax.environment import task_wish

  return run.Plan(
    wish=task_wish.Wish(
      folder=pathlib.Path(_TASK.value).expanduser(),
      script=_SCRIPT.value,
      data=_DATA.value,
      target=_TARGET.value,
      id_column=_ID.value,
      test=_TEST.value,
      metric=_METRIC.value,
      score_pattern=_PATTERN.value,
      higher_is_better=_HIGHER.value,
      description=_DESCRIPTION.value,
      seconds=_SECONDS.value,
      memory_mb=_MEMORY.value,
      cpus=_CPUS.value,
    ),
    agent=_AGENT.value,
    out=out,
    budget_seconds=budget_seconds(_BUDGET.value),
    best_of=_BEST_OF.value,
    max_steps=_MAX_STEPS.value,
    endpoint=agent_flags.endpoint_options(out),
    protocol=agent_flags.PROTOCOL.value,
    sandbox=agent_flags.SANDBOX.value,
    workers=agent_flags.WORKERS.value,
    temperature=agent_flags.TEMPERATURE.value,
    seed=agent_flags.SEED.value,
  )


if __name__ == '__main__':
  app.run(main)

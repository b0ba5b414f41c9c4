"""A run as one web page: `python -m mlagent_jax.report --workdir=DIR`.

Writes DIR/report.html: training curves, outcomes over time, reward per task,
diversity, the evaluation with its intervals, the timeline, and every step of
every trajectory: thought, action, diff, output, score, reward, time. One file
that opens without network, on a phone too; nothing an agent wrote can run in
it. It reads what is there: a run that has not ended gives a page as well.
"""

import pathlib
import sys

from absl import app, flags, logging

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Work directory of a training run or an evaluation.'
)
_OUT = flags.DEFINE_string('out', None, 'The page; default: DIR/report.html.')
flags.mark_flag_as_required('workdir')


def main(argv):
  """Reads the flags and writes the page."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)
  # Here and not above, so that --help answers at once.
  from mlagent_jax.stages import errors, mirror
  from mlagent_jax.stages.report import page

  try:
    written = page.write(
      mirror.open_for_reading(_WORKDIR.value).folder,
      _OUT.value and pathlib.Path(_OUT.value),
    )
  except errors.EXPECTED as error:
    sys.exit(f'{type(error).__name__}: {error}')
  print(
    f'wrote {written.path}: {written.trajectories} trajectories,'
    f' {written.steps} steps, {written.bytes / 1e6:.1f} MB'
  )


if __name__ == '__main__':
  app.run(main)

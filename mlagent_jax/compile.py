"""Does it fit? `python -m mlagent_jax.compile --config=C --topology=T`.

Compiles the very functions that training runs, for a TPU pod that is not here,
and reports for one chip: memory against what there is, the collectives and
their bytes, and a roofline. What does not fit says by how much, and what would
make it fit. Needs libtpu, and no TPU. For example:

  python -m mlagent_jax.compile --config=configs/qwen25_7b_sft.py \
    --topology=v5e:4x4 --config.sft.max_length=16384 --config.sft.batch_size=16

A topology is a generation and a shape in chips (v5e:4x4, v5p:2x2x1, v6e:2x4) or
the name of a pod (v5e-16, v5e-64, v5p-8, v6e-8). Any key of the config can be
overridden. With --json the last line of the output is one JSON object.
"""

import json
import sys

from absl import app, flags, logging

from mlagent_jax import config_flag

_FUNCTIONS = (
  'sft_step',
  'rl_step',
  'critic_step',
  'logps',
  'prefill',
  'decode',
)
_TOPOLOGY = flags.DEFINE_string(
  'topology', None, 'What to compile for, e.g. v5e:4x4 or v5e-16.'
)
_FUNCTION = flags.DEFINE_enum(
  'function', 'sft_step', _FUNCTIONS, 'The program to compile.'
)
_JSON = flags.DEFINE_bool('json', False, 'End with one line of JSON.')
flags.mark_flags_as_required(['config', 'topology'])
flags.adopt_module_key_flags(config_flag)


def main(argv):
  """Compiles and reports; exits with 1 if the program does not fit."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)
  # Here and not above, so that --help answers at once.
  from mlagent_jax.aot import report as report_lib
  from mlagent_jax.aot import topologies
  from mlagent_jax.stages import errors, session

  config = config_flag.CONFIG.value
  try:
    devices = topologies.devices_of(_TOPOLOGY.value)
    session.fill_in(config, len(devices))
    session.check_config(config, len(devices))
    report = report_lib.make_report(
      config, _FUNCTION.value, _TOPOLOGY.value, devices
    )
  except (*errors.EXPECTED, topologies.TopologyError) as error:
    sys.exit(f'{type(error).__name__}: {error}')
  print(report_lib.as_text(report))
  if _JSON.value:
    print(json.dumps(report_lib.as_json(report)))
  sys.exit(0 if report.fits else 1)


if __name__ == '__main__':
  app.run(main, flags_parser=config_flag.parse)

"""The flag --config of whoever runs a config (`train`, `collect`)."""

import difflib
import re
import sys
from collections.abc import Sequence

from absl import app
from ml_collections import config_dict, config_flags

from mlagent_jax import paths

# Configs import each other as `configs.NAME`, from wherever this was started.
sys.path.insert(0, str(paths.top_folder('configs').parent))

CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'The config file, e.g. configs/toy.py.', lock_config=True
)


def parse(argv: Sequence[str]) -> list[str]:
  """Reads the flags, for `app.run`; a key that does not exist ends it.

  Keys exist if configs/base.py has them: all configs are differences from it.
  """
  try:
    return app.parse_flags_with_usage(argv)
  except (AttributeError, KeyError):
    from configs import base

    unknown = unknown_key(argv, base.get_config())
    if not unknown:
      raise  # the mistake is in the file, and the traceback names its line
    sys.exit(unknown)


def unknown_key(argv: Sequence[str], config: config_dict.ConfigDict) -> str:
  """Which --config.KEY does not exist and what there is; '' if all do."""
  for argument in argv:
    found = re.match(r'--?config\.([\w.]+)', argument)
    place, here = 'config', config
    for name in found[1].split('.') if found else ():
      known = sorted(here) if isinstance(here, config_dict.ConfigDict) else []
      if name not in known:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f'; did you mean {close[0]!r}?' if close else '.'
        return (
          f'--{place}.{name}: there is no such key{hint} {place} has'
          f' {", ".join(known) or "no keys below it"}'
        )
      place, here = f'{place}.{name}', here[name]
  return ''

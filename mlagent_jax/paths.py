"""Where the top-level folders tasks/ and configs/ are, and the cache is."""

import os
import pathlib

_PACKAGE = pathlib.Path(__file__).resolve().parent


def top_folder(name: str) -> pathlib.Path:
  """The folder `name` ('tasks' or 'configs') of a checkout or an install.

  Raises:
    FileNotFoundError: if the package was installed without it.
  """
  candidates = (_PACKAGE.parent / name, _PACKAGE / '_top' / name)
  for folder in candidates:
    # A site-packages folder may hold somebody else's `tasks`: ours is beside
    # our setup.py.
    if folder.is_dir() and (
      folder is candidates[1] or (_PACKAGE.parent / 'setup.py').is_file()
    ):
      return folder
  raise FileNotFoundError(
    f'no folder {name!r} beside or inside {_PACKAGE}: install mlagent_jax'
    ' from its repository or its wheel'
  )


def cache_folder() -> pathlib.Path:
  """Prepared data and results: $MLAGENT_CACHE or ~/.cache/mlagent_jax."""
  chosen = os.environ.get('MLAGENT_CACHE')
  if chosen:
    return pathlib.Path(chosen).resolve()
  base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(base).resolve() / 'mlagent_jax'

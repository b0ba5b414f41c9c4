"""Removes the data sets that come inside the image's Python libraries.

Some hold a task's answers or photos. Only data files go, those of the
libraries' own tests too: the modules that read them stay, so that an import
works and reading a removed file fails.
"""

import pathlib
import sys
import sysconfig

CODE = {'.py', '.pyi', '.pyc', '.so'}
REQUIRED = ('sklearn/datasets/data', 'sklearn/datasets/images', 'skimage/data')


def main() -> None:
  """Strips this interpreter's site-packages; fails if a folder has moved."""
  site = pathlib.Path(sysconfig.get_paths()['purelib'])
  folders = [site / name for name in REQUIRED]
  if moved := [str(folder) for folder in folders if not folder.is_dir()]:
    sys.exit(f'no such data folders any more, find the new ones: {moved}')
  folders += site.glob('**/tests')
  removed = size = 0
  for folder in folders:
    for path in folder.rglob('*'):
      if path.is_file() and path.suffix not in CODE:
        size += path.stat().st_size
        path.unlink()
        removed += 1
  print(f'removed {removed} data files, {size / 2**20:.1f} MiB')


if __name__ == '__main__':
  main()

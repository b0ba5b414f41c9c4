"""A disk that is soon full."""

import contextlib
import os
import resource
import subprocess


@contextlib.contextmanager
def small_disk(folder):
  """A disk of 1 MiB; without root, a limit on the size of files."""
  folder.mkdir()
  if os.geteuid() == 0:
    command = ['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', str(folder)]
    if subprocess.run(command, capture_output=True).returncode == 0:
      try:
        yield
      finally:
        subprocess.run(['umount', str(folder)], check=True)
      return
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

"""A server of objects on this machine, with Google Cloud Storage's API."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

BUCKET = 'bucket'


@contextlib.contextmanager
def serving() -> Iterator[dict[str, str]]:
  """The environment in which gs:// leads to a new server with one bucket."""
  with socket.socket() as listener:
    listener.bind(('127.0.0.1', 0))
    port = listener.getsockname()[1]
  address = f'http://127.0.0.1:{port}'
  with subprocess.Popen(
    [
      sys.executable,
      '-m',
      'gcp_storage_emulator',
      'start',
      '--host=127.0.0.1',
      f'--port={port}',
      '--in-memory',
      f'--default-bucket={BUCKET}',
    ],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  ) as server:
    try:
      _wait_for(f'{address}/storage/v1/b/{BUCKET}', server)
      yield {
        'STORAGE_EMULATOR_HOST': address,
        'TENSORSTORE_GCS_HTTP_URL': address,
        # There are no credentials, and nobody to be asked for them.
        'GCE_METADATA_ROOT': '127.0.0.1:1',
        'NO_GCE_CHECK': 'true',
        'GOOGLE_CLOUD_PROJECT': 'test',
        'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',
      }
    finally:
      server.kill()


def _wait_for(address, server):
  deadline = time.monotonic() + 120
  while True:
    try:
      with urllib.request.urlopen(address, timeout=10):
        return
    except OSError:
      assert server.poll() is None, 'the server ended'
      assert time.monotonic() < deadline
      time.sleep(0.05)


def inside(environment: dict[str, str], monkeypatch) -> None:
  """Makes this process see that server."""
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  assert os.environ['STORAGE_EMULATOR_HOST']

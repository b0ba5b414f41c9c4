"""The server as a process of its own, and its client."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import openai

KEY = 'a-key-of-the-test'


class Server:
  """A process of `python -m mlagent_jax.serve` with these flags."""

  def __init__(self, folder, *flags):
    with socket.socket() as probe:
      probe.bind(('127.0.0.1', 0))
      self.port = probe.getsockname()[1]
    self.process = subprocess.Popen(
      [
        *(sys.executable, '-m', 'mlagent_jax.serve'),
        *(f'--checkpoint={folder}', f'--port={self.port}', *flags),
      ],
      env=os.environ | {'MLAGENT_API_KEY': KEY, 'XLA_FLAGS': ''},
    )
    self.url = f'http://127.0.0.1:{self.port}'
    self.client = openai.OpenAI(
      base_url=f'{self.url}/v1', api_key=KEY, max_retries=0, timeout=120
    )

  def wait(self):
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
      assert self.process.poll() is None, 'the server ended'
      with contextlib.suppress(OSError):
        if self.health()['status'] == 'ok':
          return self
      time.sleep(0.2)
    raise TimeoutError('the server was not ready in 600 s')

  def health(self):
    with urllib.request.urlopen(f'{self.url}/health', timeout=10) as reply:
      return json.load(reply)

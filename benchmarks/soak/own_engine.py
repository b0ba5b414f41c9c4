"""A Docker engine beside the machine's own, to be killed at will."""

import os
import pathlib
import shutil
import signal
import subprocess
import time

START_SECONDS = 120.0


class OwnEngine:
  """An engine with a socket, images and containers of its own; needs root.

  Attributes:
    host: for DOCKER_HOST.
    data: the folder of all that it stores.
    process: dockerd; None before the first start.
    orphans: command lines of processes of its own (the parents of containers)
      that it forgot when it was killed; known, and ended, at the end.
  """

  def __init__(self, folder: pathlib.Path):
    self.host = f'unix://{folder}/docker.sock'
    self.data = folder / 'data'
    self.process: subprocess.Popen | None = None
    self.orphans: list[str] = []
    self._folder = folder

  def start(self) -> None:
    """Starts it and waits until it answers."""
    with open(self._folder / 'log', 'ab') as log:
      self.process = subprocess.Popen(
        [
          *('dockerd', '--host', self.host, '--pidfile', self._folder / 'pid'),
          *('--data-root', self.data, '--exec-root', self._folder / 'exec'),
          *('--bridge', 'none', '--iptables=false'),
        ],
        stdout=log,
        stderr=log,
        start_new_session=True,
      )
    deadline = time.monotonic() + START_SECONDS
    while self.client('version', check=False).returncode:
      if self.process.poll() is not None or time.monotonic() > deadline:
        end = (self._folder / 'log').read_text()[-2000:]
        raise RuntimeError(f'the engine at {self.host} does not start: {end}')
      time.sleep(0.1)

  def client(self, *arguments: str, check: bool = True):
    """What the command `docker` says."""
    return subprocess.run(
      ['docker', '--host', self.host, *arguments],
      check=check,
      capture_output=True,
      text=True,
    )

  def load(self, image: str) -> None:
    """Copies an image of the machine's engine."""
    with subprocess.Popen(
      ['docker', 'save', image], stdout=subprocess.PIPE
    ) as save:
      subprocess.run(
        ['docker', '--host', self.host, 'load'],
        stdin=save.stdout,
        stdout=subprocess.DEVNULL,
        check=True,
      )

  def containers(self) -> list[str]:
    """Ids of all its containers, running or not."""
    return self.client('ps', '--all', '--quiet', '--no-trunc').stdout.split()

  def end(self, number: int) -> None:
    """Ends it by a signal, and waits for its containerd to end too."""
    containerd = int(
      (self._folder / 'exec/containerd/containerd.pid').read_text()
    )
    self.process.send_signal(number)
    self.process.wait()
    # A new engine would take this one, which is about to end, for its own.
    deadline = time.monotonic() + 60
    while pathlib.Path(f'/proc/{containerd}').exists():
      if time.monotonic() > deadline:
        raise RuntimeError(f'containerd {containerd} does not end')
      time.sleep(0.02)

  def close(self) -> None:
    """Ends it; what it stores stays."""
    if self.process.poll() is not None:
      self.start()  # only an engine can end the containers of another one
    self.end(signal.SIGTERM)
    mark = f'{self._folder}/exec/'.encode()
    for file in pathlib.Path('/proc').glob('[0-9]*/cmdline'):
      try:
        line = file.read_bytes()
        if mark in line:
          self.orphans.append(line.replace(b'\0', b' ').decode())
          os.kill(int(file.parent.name), signal.SIGKILL)
      except (FileNotFoundError, ProcessLookupError):
        continue  # it has ended meanwhile
    # One that was killed leaves its folder mounted on itself.
    while os.path.ismount(self.data):
      subprocess.run(['umount', self.data], check=True)

  def remove(self) -> None:
    """Ends it and removes its folder."""
    self.close()
    shutil.rmtree(self._folder)

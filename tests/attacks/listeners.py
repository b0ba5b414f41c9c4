"""Sockets of the host that no script may reach; they write down who does."""

import contextlib
import pathlib
import selectors
import socket
import threading
from typing import Self


class Listeners:
  """Listens by TCP, UDP and UNIX sockets. Use with `with`.

  Attributes:
    port: of TCP and UDP, on every address.
    abstract: name of the abstract UNIX socket.
    path: of the UNIX socket in the file system.
    heard: a line for each that was reached.
  """

  def __init__(self, path: pathlib.Path, abstract: str):
    self.path, self.abstract = str(path), abstract
    self.heard: list[str] = []
    self._stack = contextlib.ExitStack()
    self._selector = self._stack.enter_context(selectors.DefaultSelector())
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    tcp = socket.create_server(('', 0), family=family, dualstack_ipv6=dual)
    self.port = tcp.getsockname()[1]
    udp = socket.socket(family, socket.SOCK_DGRAM)
    if dual:
      udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    udp.bind(('', self.port))
    self._listen(tcp, 'TCP')
    self._listen(udp, 'UDP')
    for name in (self.path, '\0' + abstract):
      local = socket.socket(socket.AF_UNIX)
      local.bind(name)
      local.listen()
      self._listen(local, 'UNIX')
    path.chmod(0o777)
    self._stop, waker = socket.socketpair()
    self._stack.enter_context(self._stop)
    self._listen(waker, 'stop')
    self._thread = threading.Thread(target=self._serve, daemon=True)

  def __enter__(self) -> Self:
    self._thread.start()
    return self

  def __exit__(self, *exception) -> None:
    self._stop.close()
    self._thread.join()
    self._stack.close()

  def addresses(self) -> list[str]:
    """Where a script might try to reach this machine, and others."""
    known = ['127.0.0.1', '::1', '0.0.0.0', '172.17.0.1', '10.0.2.2']
    known += ['169.254.169.254', '192.0.2.1', '2001:db8::1', 'fe80::1']
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
      with contextlib.suppress(OSError):
        probe.connect(('192.0.2.1', 9))  # sends nothing
        known.append(probe.getsockname()[0])
    return known

  def _listen(self, one: socket.socket, kind: str) -> None:
    self._stack.enter_context(one)
    self._selector.register(one, selectors.EVENT_READ, kind)

  def _serve(self) -> None:
    while True:
      for key, _ in self._selector.select():
        if key.data == 'stop':
          return
        if key.data == 'UDP':
          self.heard.append(f'UDP from {key.fileobj.recvfrom(100)[1]}')
          continue
        connection, address = key.fileobj.accept()
        connection.close()
        self.heard.append(f'{key.data} from {address}')

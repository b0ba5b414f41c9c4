"""Attacks over networks. The host listens on all it can, and must hear none.

`HOST` names its ports: TCP and UDP over IPv4 and IPv6 on every address, and a
UNIX socket by path and by abstract name.
"""

from attack import Attack

ATTACKS = [
  Attack(
    'TCP and UDP',
    'calls the host by every address that it may have, and the world',
    """
    import socket
    from trick import HOST, breach, submit
    for address in HOST['addresses']:
      family = socket.AF_INET6 if ':' in address else socket.AF_INET
      with socket.socket(family) as one:
        one.settimeout(0.2)
        try:
          one.connect((address, HOST['port']))
        except OSError:
          pass
        else:
          breach(address)
      with socket.socket(family, socket.SOCK_DGRAM) as one:
        try:
          one.sendto(b'hello', (address, HOST['port']))
        except OSError:
          pass
    submit()
    """,
  ),
  Attack(
    'names',
    'asks for names, by DNS and by the services of the system',
    """
    import socket
    from trick import breach, submit
    socket.setdefaulttimeout(0.2)
    for name in ('example.com', 'metadata.google.internal', 'pypi.org',
                 'host.docker.internal', 'gateway.docker.internal'):
      try:
        breach(socket.getaddrinfo(name, 80))
      except OSError:
        pass
    submit()
    """,
  ),
  Attack(
    'UNIX sockets',
    'calls the host by the path of a socket and by an abstract name',
    """
    import socket
    from trick import HOST, breach, submit
    for name in (*HOST['sockets'], '\\0' + HOST['abstract'],
                 '\\0mlagent_jax/account/2000000000'):
      for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, kind) as one:
          try:
            one.connect(name)
          except OSError:
            continue
          breach(name)
    submit()
    """,
  ),
  Attack(
    'every family',
    'opens sockets of every family: netlink, packet, vsock, Bluetooth, …',
    """
    import socket
    from trick import breach, submit
    for family in range(46):
      for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW,
                   socket.SOCK_SEQPACKET, socket.SOCK_RDM):
        try:
          socket.socket(family, kind).close()
        except OSError:
          continue
        if family not in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6):
          breach(f'family {family}, kind {kind}')
    submit()
    """,
  ),
  Attack(
    'raw packets',
    'sends packets that it wrote itself, and listens to those of others',
    """
    import socket
    from trick import fails, submit
    fails(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    fails(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    fails(socket.socket, socket.AF_INET6, socket.SOCK_RAW, 58)
    fails(socket.socket, 17, socket.SOCK_RAW, 0x0300)  # AF_PACKET, ETH_P_ALL
    submit()
    """,
  ),
  Attack(
    'the hypervisor',
    'talks to the machine below by a socket without a network (vsock)',
    """
    import socket
    from trick import breach, submit
    for context in (0, 1, 2, 3):
      try:
        with socket.socket(40, socket.SOCK_STREAM) as one:
          one.settimeout(0.2)
          one.connect((context, 1024))
      except (OSError, TypeError) as error:
        if getattr(error, 'errno', 0) in (97, 1):
          continue  # no such family, or forbidden
        breach(f'{context}: {error}')
    submit()
    """,
  ),
  Attack(
    'network devices',
    'makes devices, takes addresses, reads what the network of the host is',
    """
    import fcntl
    import os
    import socket
    import struct
    from trick import breach, fails, submit
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
      request = struct.pack('16sH14s', b'lo', 0x41, b'')
      fails(fcntl.ioctl, one, 0x8914, request)  # SIOCSIFFLAGS
    fails(os.open, '/dev/net/tun', os.O_RDWR)
    lines = open('/proc/net/dev').read().splitlines()[2:]
    names = {line.split(':')[0].strip() for line in lines}
    if names & {'eth0', 'docker0', 'wlan0', 'ens3', 'enp0s3'}:
      breach(names)
    for name in ('tcp', 'udp', 'unix', 'route', 'arp'):
      if len(open(f'/proc/net/{name}').readlines()) > 2:
        breach(f'/proc/net/{name}')
    submit()
    """,
  ),
  Attack(
    'a server',
    'listens on every address, for somebody outside to come',
    """
    import socket
    import time
    from trick import HOST, breach, submit
    one = socket.create_server(('0.0.0.0', HOST['port']))
    one.settimeout(0.3)
    try:
      breach(one.accept())
    except OSError:
      pass
    submit()
    """,
  ),
]

"""Attacks that leave the sandbox by the kernel and by other processes."""

from attack import HONEST, Attack, Kind

ATTACKS = [
  Attack(
    'other processes',
    'looks for processes of the host and reads all that /proc shows of them',
    """
    import os
    from trick import HOST, breach, loot, submit
    mine = {os.getpid(), os.getppid(), 1}
    seen = {int(name) for name in os.listdir('/proc') if name.isdigit()}
    if len(seen) > 4:
      breach(f'{len(seen)} processes')
    for process in seen | {1, HOST['process']}:
      for name in ('environ', 'cmdline', 'maps', 'stack', 'auxv', 'mounts'):
        loot(f'/proc/{process}/{name}')
      for name in ('root', 'cwd'):
        for path in HOST['secrets']:
          loot(f'/proc/{process}/{name}{path}')
      try:
        descriptors = os.listdir(f'/proc/{process}/fd')
      except OSError:
        continue
      for number in descriptors:
        loot(f'/proc/{process}/fd/{number}{HOST["labels"]}')
    submit()
    """,
  ),
  Attack(
    'signals to the host',
    'sends signals to the process that grades, and to all',
    """
    import os
    from trick import HOST, submit
    for process in (HOST['process'], -HOST['process'], 1, os.getppid()):
      for number in (0, 2, 15, 19, 9):
        try:
          os.kill(process, number)
        except (PermissionError, ProcessLookupError):
          pass
    submit()
    """,
    expect=(*HONEST, Kind.SCRIPT_FAILED),
  ),
  Attack(
    'settings of the kernel',
    'writes to /proc/sys, /sys, sysrq, core_pattern, uevent_helper, cgroups',
    """
    import glob
    import os
    from trick import breach, submit
    paths = ['/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger',
             '/proc/sys/kernel/modprobe', '/proc/sys/vm/overcommit_memory',
             '/proc/sys/fs/binfmt_misc/register', '/sys/kernel/uevent_helper',
             '/proc/sys/kernel/hostname', '/proc/sys/net/ipv4/ip_forward',
             '/sys/kernel/mm/ksm/run', '/proc/1/oom_score_adj',
             '/proc/irq/default_smp_affinity']
    paths += glob.glob('/sys/fs/cgroup/**/release_agent', recursive=True)
    paths += glob.glob('/sys/fs/cgroup/**/cgroup.procs', recursive=True)
    paths += glob.glob('/proc/sys/kernel/*') + glob.glob('/sys/power/*')
    for path in paths:
      try:
        handle = os.open(path, os.O_WRONLY)
        # As it was: what can be written is bad enough.
        os.write(handle, open(path, 'rb').read())
      except OSError:
        continue
      breach(path)
    submit()
    """,
  ),
  Attack(
    'mounts',
    'mounts, unmounts, moves and remounts, by the old calls and the new',
    """
    from trick import refused, submit
    refused('mount', b'none', b'/tmp', b'tmpfs', 0, None)
    refused('mount', b'proc', b'/tmp', b'proc', 0, None)
    refused('mount', b'/', b'/tmp', None, 4096 | 16384, None)
    refused('mount', None, b'/', None, 32 | 4096, None)
    refused('mount', b'overlay', b'/tmp', b'overlay', 0, b'lowerdir=/')
    refused('umount2', b'/proc', 2)
    refused('pivot_root', b'/tmp', b'/tmp')
    refused('chroot', b'/tmp')
    refused('fsopen', b'tmpfs', 0)
    refused('open_tree', -100, b'/', 1)
    refused('move_mount', -100, b'/tmp', -100, b'/dev', 0)
    refused('mount_setattr', -100, b'/', 0, b'', 0)
    refused('fspick', -100, b'/', 0)
    submit()
    """,
  ),
  Attack(
    'namespaces',
    'makes and enters namespaces, where it would be root',
    """
    import os
    from trick import HOST, LIBC, breach, refused, submit
    for kind in (0x10000000, 0x00020000, 0x02000000, 0x04000000, 0x08000000,
                 0x20000000, 0x40000000, 0x7E020000):
      refused('unshare', kind)
      child = LIBC.syscall(HOST['clone'], kind | 17, 0, 0, 0, 0)
      if child == 0:
        os._exit(0)
      if child > 0:
        os.waitpid(child, 0)
        breach(f'a namespace {kind:#x}')
    for name in os.listdir('/proc/self/ns'):
      for process in ('self', '1'):
        try:
          handle = os.open(f'/proc/{process}/ns/{name}', os.O_RDONLY)
        except OSError:
          continue
        refused('setns', handle, 0)
    for name in ('uid_map', 'gid_map'):
      try:
        os.write(os.open(f'/proc/self/{name}', os.O_WRONLY), b'0 0 1')
      except OSError:
        continue
      breach(name)
    submit()
    """,
  ),
  Attack(
    'tracing',
    'traces its parent, its first process and a sibling',
    """
    import os
    import time
    from trick import refused, submit
    child = os.fork()
    if child == 0:
      time.sleep(60)
    for process in (os.getppid(), 1, child):
      refused('ptrace', 16, process, 0, 0)
      refused('ptrace', 0x4206, process, 0, 0)  # PTRACE_SEIZE
      refused('process_vm_writev', process, 0, 0, 0, 0, 0)
    refused('ptrace', 0, 0, 0, 0)
    refused('kcmp', 1, os.getpid(), 0, 0, 0)
    submit()
    """,
  ),
  Attack(
    'dangerous calls',
    'makes every system call of the list that no script needs',
    """
    from trick import HOST, breach, call, submit
    for name in HOST['calls']:
      if call(name, 0, 0, 0, 0, 0, 0) == '':
        breach(name)
    submit()
    """,
  ),
  Attack(
    'io_uring',
    'opens files and sockets by a queue that no filter looks into',
    """
    import ctypes
    from trick import refused, submit
    refused('io_uring_setup', 8, ctypes.create_string_buffer(200))
    refused('io_uring_register', 0, 0, 0, 0)
    refused('io_uring_enter', 0, 0, 0, 0, 0, 0)
    submit()
    """,
  ),
  *(
    Attack(
      f'calls of {other}',
      f'makes system calls by the numbers of {other}, past the filter',
      f"""
      import ctypes
      import mmap
      import os
      import platform
      from trick import breach, submit
      if platform.machine() != 'x86_64':
        submit()
        raise SystemExit
      code = bytes.fromhex('{code}')
      memory = mmap.mmap(-1, 4096, prot=7)
      memory.write(code)
      here = ctypes.addressof(ctypes.c_char.from_buffer(memory))
      child = os.fork()
      if child == 0:
        number = ctypes.CFUNCTYPE(ctypes.c_long)(here)()
        os._exit(0 if number == os.getpid() else 1)
      if os.waitpid(child, 0)[1] == 0:
        breach('its process id came back')
      submit()
      """,
    )
    for other, code in (
      # push rbx; mov eax, 20 (getpid); int 0x80; pop rbx; ret
      ('32-bit programs', '53b814000000cd805bc3'),
      # mov eax, 0x40000027 (getpid); syscall; ret
      ('x32 programs', 'b8270000400f05c3'),
    )
  ),
  Attack(
    'keys and secrets of the kernel',
    'reads and fills key rings',
    """
    from trick import refused, submit, loot
    refused('add_key', b'user', b'name', b'value', 5, -4)
    refused('keyctl', 0, -4, 1)
    refused('request_key', b'user', b'name', b'', -4)
    loot('/proc/keys')
    submit()
    """,
  ),
  Attack(
    'a core dump',
    'crashes so that the kernel writes its memory somewhere',
    """
    import ctypes
    import resource
    from trick import fails
    fails(resource.setrlimit, resource.RLIMIT_CORE, (1 << 30, 1 << 30))
    ctypes.string_at(0)
    """,
    expect=(Kind.SCRIPT_FAILED,),
  ),
  Attack(
    'the terminal',
    'types into the terminal of whoever started the host',
    """
    import fcntl
    import os
    import termios
    from trick import breach, submit
    for path in ('/dev/tty', '/dev/console', '/dev/pts/0', '/dev/stdin'):
      try:
        terminal = os.open(path, os.O_RDWR | os.O_NOCTTY)
        fcntl.ioctl(terminal, termios.TIOCSTI, b'x')
      except OSError:
        continue
      breach(path)
    submit()
    """,
  ),
  Attack(
    'engine sockets',
    'looks for the Docker, containerd and D-Bus sockets and talks to them',
    """
    import glob
    import os
    import socket
    from trick import HOST, breach, submit
    paths = [f'{top}/{name}'
             for top in ('/var/run', '/run', '/tmp', '/host/run')
             for name in ('docker.sock', 'containerd/containerd.sock',
                          'podman/podman.sock', 'dbus/system_bus_socket',
                          'systemd/private', 'crio/crio.sock')]
    for path in (*paths, *HOST['sockets'], *glob.glob('/run/**/*.sock')):
      with socket.socket(socket.AF_UNIX) as one:
        try:
          one.connect(path)
        except OSError:
          continue
        breach(path)
    for path in HOST['sockets']:
      if os.path.exists(path):
        breach(path)
    submit()
    """,
  ),
]

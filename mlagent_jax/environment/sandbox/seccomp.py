"""A filter of system calls for scripts, as a program of classic BPF.

It closes what a numerical script never needs and what has let others out of
sandboxes: namespaces within namespaces, mounts, tracing, kernel keys, BPF,
io_uring; sockets of families that a network namespace does not isolate
(AF_VSOCK and friends); and memory that is accounted to no process. Format:
linux/seccomp.h and linux/filter.h; numbers: the kernel's system call tables.
"""

import errno
import platform
import socket
import struct

_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_IF_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_ERROR = 0x00050000  # the low 16 bits are the error number

# Offsets in struct seccomp_data; arguments are little-endian 64-bit words.
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
_NEW_NAMESPACES = 0x7E020000
_PR_SET_DUMPABLE = 4
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)

# machine: (AUDIT_ARCH_*, column of the tables below).
_MACHINES = {'x86_64': (0xC000003E, 0), 'aarch64': (0xC00000B7, 1)}

_CLONE = (56, 220)
_CLONE3 = (435, 435)
_FALLOCATE = (285, 47)
_PRCTL = (157, 167)
_SOCKET = (41, 198)

# Refused with EPERM; None where the machine has no such call.
_REFUSED = {
  'acct': (163, 89),
  'add_key': (248, 217),
  'bpf': (321, 280),
  'chroot': (161, 51),
  'delete_module': (176, 106),
  'fanotify_init': (300, 262),
  'finit_module': (313, 273),
  'fsconfig': (431, 431),
  'fsmount': (432, 432),
  'fsopen': (430, 430),
  'fspick': (433, 433),
  'init_module': (175, 105),
  'io_uring_enter': (426, 426),
  'io_uring_register': (427, 427),
  'io_uring_setup': (425, 425),
  'ioperm': (173, None),
  'iopl': (172, None),
  'kcmp': (312, 272),
  'kexec_file_load': (320, 294),
  'kexec_load': (246, 104),
  'keyctl': (250, 219),
  'memfd_create': (319, 279),
  'memfd_secret': (447, 447),
  'modify_ldt': (154, None),
  'mount': (165, 40),
  'mount_setattr': (442, 442),
  'move_mount': (429, 429),
  'msgget': (68, 186),
  'name_to_handle_at': (303, 264),
  'open_by_handle_at': (304, 265),
  'open_tree': (428, 428),
  'perf_event_open': (298, 241),
  'pidfd_getfd': (438, 438),
  'pivot_root': (155, 41),
  'process_vm_readv': (310, 270),
  'process_vm_writev': (311, 271),
  'ptrace': (101, 117),
  'quotactl': (179, 60),
  'quotactl_fd': (443, 443),
  'reboot': (169, 142),
  'request_key': (249, 218),
  'setns': (308, 268),
  'shmget': (29, 194),
  'swapoff': (168, 225),
  'swapon': (167, 224),
  'syslog': (103, 116),
  'umount2': (166, 39),
  'unshare': (272, 97),
  'userfaultfd': (323, 282),
}


def program(machine: str = platform.machine()) -> bytes:
  """The filter, an array of struct sock_filter; b'' without tables."""
  if machine not in _MACHINES:
    return b''
  architecture, column = _MACHINES[machine]
  lines = [
    (_LOAD_WORD, 0, 0, _ARCHITECTURE),
    (_IF_EQUAL, 1, 0, architecture),
    (_RETURN, 0, 0, _KILL_PROCESS),
    (_LOAD_WORD, 0, 0, _NUMBER),
  ]
  if machine == 'x86_64':
    # The x32 calls are the same ones under other numbers.
    lines += [(_IF_AT_LEAST, 0, 1, 1 << 30), (_RETURN, 0, 0, _KILL_PROCESS)]
  for numbers in _REFUSED.values():
    if numbers[column] is not None:
      lines += _if_number(numbers[column], [_refuse(errno.EPERM)])
  # Its flags are in memory, out of a filter's sight. Told that it does not
  # exist, the C library uses clone.
  lines += _if_number(_CLONE3[column], [_refuse(errno.ENOSYS)])
  # Gigabytes in a moment, before anybody can look. Told that the file system
  # has no such thing, programs write instead.
  lines += _if_number(_FALLOCATE[column], [_refuse(errno.EOPNOTSUPP)])
  argument = (_LOAD_WORD, 0, 0, _FIRST_ARGUMENT)
  allow = (_RETURN, 0, 0, _ALLOW)
  lines += _if_number(
    _CLONE[column],
    [
      argument,
      (_IF_ANY_BIT, 0, 1, _NEW_NAMESPACES),
      _refuse(errno.EPERM),
      allow,
    ],
  )
  # A process that hides its details from the host could hide its memory.
  lines += _if_number(
    _PRCTL[column],
    [
      argument,
      (_IF_EQUAL, 0, 1, _PR_SET_DUMPABLE),
      _refuse(errno.EPERM),
      allow,
    ],
  )
  families = [
    (_IF_EQUAL, len(_FAMILIES) - index, 0, int(family))
    for index, family in enumerate(_FAMILIES)
  ]
  lines += _if_number(
    _SOCKET[column],
    [argument, *families, _refuse(errno.EAFNOSUPPORT), allow],
  )
  lines.append(allow)
  return b''.join(struct.pack('<HBBI', *line) for line in lines)


def prctl_number(machine: str = platform.machine()) -> int:
  """The number of the system call that installs a filter; 0 without tables."""
  return _PRCTL[_MACHINES[machine][1]] if machine in _MACHINES else 0


def _refuse(number: int) -> tuple[int, int, int, int]:
  return (_RETURN, 0, 0, _ERROR | number)


def _if_number(number: int, block: list[tuple]) -> list[tuple]:
  """Runs the block, which returns on every path, for one system call."""
  return [(_IF_EQUAL, 0, len(block), number), *block]

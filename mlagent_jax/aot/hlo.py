"""What a compiled program moves, counted in its text (optimised HLO).

XLA's own cost analysis counts the body of a loop once. Here a loop counts as
often as it turns: the number that its condition compares the counter with. A
loop that ends early (a sampler that has nothing left to decode) counts in full.

Memory: every instruction outside of fusions reads its operands and writes its
result once, where they are in HBM; on-chip memory, S(1) in a layout, is free.
What is only sliced, or updated in place, counts as the slice. A kernel that
reads an operand several times counts once.

Interconnect: bytes that one device sends, of a ring of n devices: all-gather
and all-to-all (n-1)/n of the result, reduce-scatter (n-1)/n of the operand,
all-reduce twice that, collective-permute its operand.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

COLLECTIVES = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
)

_WIDTH = {'pred': 8, 's4': 4, 'u4': 4, 'bf16': 16, 'token': 0}
_SHAPE = re.compile(r'\b([a-z][a-z0-9]*)\[([\d,]*)\](?:\{([^}]*)\})?')
_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{$')
_INSTRUCTION = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = ')
_OPCODE = re.compile(r'\s*([\w\-]+)\(')
_OPERAND = re.compile(r'%([\w.\-]+)')
_CALLED = re.compile(
  r'\b(?:calls|body|condition|to_apply|true_computation|false_computation)='
  r'%?([\w.\-]+)'
)
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_CHANNEL = re.compile(r'channel_id=(\d+)')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
# Neither reads nor writes, or is counted where it begins.
_FREE = frozenset(
  'parameter constant tuple get-tuple-element bitcast while conditional call'
  ' after-all partition-id replica-id iota copy-done opt-barrier'.split()
)


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a program."""

  name: str
  shape: str
  opcode: str
  arguments: str  # what stands in its parentheses
  operands: tuple[str, ...]  # the names in there
  rest: str  # its attributes
  root: bool


@dataclasses.dataclass(frozen=True)
class Traffic:
  """What one device moves in one run of a program.

  Attributes:
    hbm_bytes: read from and written to its memory.
    sent_bytes: by collective, bytes sent to other devices.
    calls: by collective, how often.
  """

  hbm_bytes: float
  sent_bytes: dict[str, float]
  calls: dict[str, int]


def shape_bytes(shape: str, *, on_chip: bool = True) -> float:
  """Bytes of the arrays in a shape, with or without those on the chip."""
  total = 0.0
  for kind, dims, layout in _SHAPE.findall(shape):
    if not on_chip and re.search(r'S\([1-9]', layout):
      continue
    digits = re.search(r'\d+', kind)
    bits = _WIDTH.get(kind, int(digits[0]) if digits else 0)
    total += math.prod(int(d) for d in dims.split(',') if d) * bits / 8
  return total


def parse(text: str) -> tuple[dict[str, dict[str, Instruction]], str]:
  """The computations of a program by name, and the name of its entry."""
  computations, entry, current = {}, '', {}
  for line in text.splitlines():
    header = _HEADER.match(line)
    if header:
      current = computations[header[2]] = {}
      entry = header[2] if header[1] else entry
      continue
    start = _INSTRUCTION.match(line)
    if not start:
      continue
    shape, rest = _split_shape(line[start.end() :])
    opcode = _OPCODE.match(rest)
    if not opcode:
      continue
    arguments, attributes = _split_arguments(rest[opcode.end() :])
    current[start[2]] = Instruction(
      start[2],
      shape,
      opcode[1],
      arguments,
      tuple(_OPERAND.findall(arguments)),
      attributes,
      bool(start[1]),
    )
  return computations, entry


def _split_shape(text: str) -> tuple[str, str]:
  if not text.startswith('('):
    shape, _, rest = text.partition(' ')
    return shape, rest
  end = _closing(text, 1)
  return text[:end], text[end:]


def _split_arguments(text: str) -> tuple[str, str]:
  end = _closing(text, 1)
  return text[: end - 1], text[end:]


def _closing(text: str, depth: int) -> int:
  """Where the parenthesis that is open at the start of `text` has closed."""
  for index in range(1 if text.startswith('(') else 0, len(text)):
    depth += (text[index] == '(') - (text[index] == ')')
    if not depth:
      return index + 1
  return len(text)


def traffic(text: str, devices: int) -> Traffic:
  """Counts what a device of `devices` moves in one run of the program."""
  computations, entry = parse(text)
  hbm = 0.0
  # A collective that runs beside others stands in several fusions.
  found: dict[tuple[str, str], tuple[float, int]] = {}
  for name, times, fused in _walk(computations, entry):
    table = computations[name]
    for instruction in table.values():
      kind = instruction.opcode.removesuffix('-start')
      if kind in COLLECTIVES:
        channel = _CHANNEL.search(instruction.rest)
        key = kind, channel[1] if channel else f'{name}.{instruction.name}'
        sent = _sent(instruction, kind, table, devices)
        if key not in found or times < found[key][1]:
          found[key] = sent, times
      elif not fused:
        hbm += times * _hbm(instruction, table, computations)
  sent, calls = collections.Counter(), collections.Counter()
  for (kind, _), (size, times) in found.items():
    sent[kind] += size * times
    calls[kind] += times
  return Traffic(hbm, dict(sent), dict(calls))


def _walk(computations, entry) -> Iterator[tuple[str, int, bool]]:
  """(computation, how often it runs, whether it is part of a fusion)."""
  stack = [(entry, 1, False)]
  while stack:
    name, times, fused = stack.pop()
    yield name, times, fused
    for instruction in computations[name].values():
      called = _CALLED.findall(instruction.rest)
      for branches in _BRANCHES.findall(instruction.rest):
        called += [branch.strip(' %') for branch in branches.split(',')]
      inside = times
      if instruction.opcode == 'while':
        inside = times * _trips(instruction, computations)
      inner = fused or instruction.opcode not in (
        'while',
        'conditional',
        'call',
      )
      stack += [(c, inside, inner) for c in called if c in computations]


def _trips(loop: Instruction, computations) -> int:
  known = _TRIPS.search(loop.rest)
  if known:
    return int(known[1])
  condition = re.search(r'condition=%?([\w.\-]+)', loop.rest)[1]
  table = computations[condition]
  # The condition, or the fusion that it is.
  tables = [table] + [
    computations[c]
    for i in table.values()
    for c in _CALLED.findall(i.rest)
    if c in computations
  ]
  limits = [
    int(part[operand].arguments)
    for part in tables
    for instruction in part.values()
    if instruction.opcode in ('compare', 'fusion', 'call')
    for operand in instruction.operands
    if operand in part
    and part[operand].opcode == 'constant'
    and part[operand].arguments.isdigit()
  ]
  return max(limits, default=1)


def _sent(instruction, kind, table, devices) -> float:
  n = _group_size(instruction.rest, devices)
  operand = sum(
    shape_bytes(table[o].shape) for o in instruction.operands if o in table
  )
  if kind == 'collective-permute':
    return operand
  if kind == 'all-gather':
    return operand * (n - 1)
  share = (n - 1) / n
  return operand * share * (2 if kind == 'all-reduce' else 1)


def _group_size(rest: str, devices: int) -> int:
  """Devices of one group, in any of the notations of replica_groups."""
  listed = re.search(r'replica_groups=\{\{([\d,]*)\}', rest)
  if listed:
    return len(listed[1].split(','))
  iota = re.search(r'replica_groups=\[\d+,(\d+)\]', rest)
  if iota:
    return int(iota[1])
  mesh = re.search(r'replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}', rest)
  if mesh:
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
    return math.prod(int(sizes[a]) for a in re.findall(r"'(\w+)'", mesh[2]))
  return devices


def _hbm(instruction, table, computations) -> float:
  if instruction.opcode in _FREE or instruction.opcode.endswith('-done'):
    return 0.0
  shapes = [table[o].shape if o in table else '' for o in instruction.operands]
  sizes = [shape_bytes(shape, on_chip=False) for shape in shapes]
  if instruction.opcode == 'slice-start':  # ((source), slice, context)
    part = list(_SHAPE.finditer(instruction.shape))[-2][0]
    return shape_bytes(part) + shape_bytes(part, on_chip=False)
  if instruction.opcode.endswith('-start'):
    first = _SHAPE.search(instruction.shape)
    return sum(sizes) + (shape_bytes(first[0], on_chip=False) if first else 0.0)
  written = shape_bytes(instruction.shape, on_chip=False)
  if instruction.opcode in ('dynamic-slice', 'gather', 'slice'):
    return 2 * written
  if instruction.opcode == 'dynamic-update-slice':
    return 2 * (sizes[1] if len(sizes) > 1 else 0.0)
  if instruction.opcode == 'fusion':
    body = computations.get(_CALLED.findall(instruction.rest)[0], {})
    return _hbm_of_fusion(body, sizes, written)
  return sum(sizes) + written


def _hbm_of_fusion(body, sizes, written) -> float:
  """As `_hbm`, where operands may be sliced and the result updated in place."""
  users = collections.defaultdict(list)
  for instruction in body.values():
    for operand in instruction.operands:
      users[operand].append(instruction)
  total = 0.0
  parameters = [i for i in body.values() if i.opcode == 'parameter']
  for parameter in parameters:
    index = int(parameter.arguments)
    size = sizes[index] if index < len(sizes) else 0.0
    uses = _through_bitcasts(parameter, users)
    if uses and all(u.opcode in ('dynamic-slice', 'gather') for u in uses):
      size = min(size, sum(shape_bytes(u.shape) for u in uses))
    elif uses and all(u.opcode == 'dynamic-update-slice' for u in uses):
      size = 0.0  # it is the array that is updated in place
    total += size
  for root in body.values():
    if root.root and root.opcode == 'dynamic-update-slice':
      update = body.get(root.operands[1])
      return total + (shape_bytes(update.shape) if update else 0.0)
  return total + written


def _through_bitcasts(instruction, users):
  found = []
  for user in users[instruction.name]:
    if user.opcode == 'bitcast':
      found += _through_bitcasts(user, users)
    else:
      found.append(user)
  return found

"""Compiles a program for a topology and says what it needs of a chip."""

import dataclasses
import re
import time

import jax

from mlagent_jax.aot import advice as advice_lib
from mlagent_jax.aot import hlo, programs, roofline
from mlagent_jax.aot import program as program_lib
from mlagent_jax.model.config import ModelConfig

GIB = 2**30
_UNITS = {'': 1, 'B': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
  """GiB of one chip.

  Attributes:
    arguments: parameters, moments and the batch.
    temporaries: what the program itself needs on top at its peak, results
      included; 0 if it was not compiled, because the rest is too much already.
    beside: what else stays on the chip (the reference of RL).
  """

  arguments: float
  temporaries: float
  beside: float

  @property
  def peak(self) -> float:
    """All of it: temporaries are allocated at once."""
    return self.arguments + self.temporaries + self.beside


@dataclasses.dataclass(frozen=True)
class Report:
  """What one program needs on one topology.

  Attributes:
    function: the program's name.
    topology: as it was asked for.
    chip: its generation.
    chips: how many.
    mesh: axis -> devices.
    memory: of one chip.
    work: of the program.
    model: its shape.
    traffic: of one chip; None if the compiler refused the program.
    estimate: the roofline; None likewise.
    compile_seconds: of this machine.
    advice: what would make it fit, if it does not.
  """

  function: str
  topology: str
  chip: roofline.Chip
  chips: int
  mesh: dict[str, int]
  memory: Memory
  work: roofline.Work
  model: ModelConfig
  traffic: hlo.Traffic | None
  estimate: roofline.Estimate | None
  compile_seconds: float
  advice: tuple[str, ...]

  @property
  def fits(self) -> bool:
    """Whether a chip holds it."""
    return self.estimate is not None and self.memory.peak <= self.chip.hbm_gib


def make_report(config, function: str, topology: str, devices) -> Report:
  """Compiles one program of a config.

  Args:
    config: the whole config, without -1.
    function: its name in `programs.PROGRAMS`.
    topology: its name, for the report.
    devices: of the topology.
  """
  program, learner = programs.make_program(config, function, devices)
  chip = roofline.CHIPS[devices[0].device_kind]
  beside = program_lib.bytes_per_chip(program.beside) / GIB
  arguments = program_lib.bytes_per_chip(program.arguments) / GIB
  start = time.monotonic()
  compiled = traffic = estimate = None
  memory = Memory(arguments, 0.0, beside)
  if memory.peak <= chip.hbm_gib:  # else there is nothing to compile
    try:
      compiled = program.function.lower(*program.arguments).compile()
    except jax.errors.JaxRuntimeError as error:
      memory = Memory(arguments, _refused(error, arguments), beside)
  if compiled is not None:
    sizes = compiled.memory_analysis()
    arguments = sizes.argument_size_in_bytes / GIB
    # Not temp_size_in_bytes: that counts what never lives at the same time.
    peak = sizes.peak_memory_in_bytes / GIB
    memory = Memory(arguments, peak - arguments, beside)
    traffic = hlo.traffic(compiled.as_text(), len(devices))
    estimate = roofline.estimate(
      chip,
      len(devices),
      program.work,
      learner.model,
      traffic.hbm_bytes,
      sum(traffic.sent_bytes.values()),
    )
  return Report(
    function,
    topology,
    chip,
    len(devices),
    dict(learner.mesh.shape),
    memory,
    program.work,
    learner.model,
    traffic,
    estimate,
    time.monotonic() - start,
    advice_lib.advice(config, function, chip, len(devices), memory),
  )


def _refused(error, arguments: float) -> float:
  """GiB of temporaries of a program that the compiler says does not fit.

  Raises:
    JaxRuntimeError: the same, if the compiler says something else.
  """
  for pattern in (
    # Whatever the message says, arguments are part of it.
    r'HLO temporaries \(([\d.]+)([KMGT]?)\) exceed',
    r'Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm',
  ):
    size = re.search(pattern, str(error))
    if size:
      return max(float(size[1]) * _UNITS[size[2]] / GIB - arguments, 0.0)
  raise error


def as_json(report: Report) -> dict:
  """The report as one flat JSON object."""
  memory, estimate, traffic = report.memory, report.estimate, report.traffic
  flops = report.work.model_flops(report.model)
  found = {
    'fits': report.fits,
    'function': report.function,
    'topology': report.topology,
    'chip': report.chip.name,
    'chips': report.chips,
    'mesh': report.mesh,
    'arguments_gib': round(memory.arguments, 3),
    'temporaries_gib': round(memory.temporaries, 3),
    'beside_gib': round(memory.beside, 3),
    'peak_gib': round(memory.peak, 3),
    'capacity_gib': report.chip.hbm_gib,
    'tokens': report.work.tokens,
    'flops_per_token': flops / report.work.tokens,
    'compile_seconds': round(report.compile_seconds, 1),
    'advice': list(report.advice),
  }
  if estimate is not None:
    found |= {
      'roofline_seconds': estimate.seconds,
      'compute_seconds': estimate.compute_seconds,
      'hbm_seconds': estimate.hbm_seconds,
      'interconnect_seconds': estimate.interconnect_seconds,
      'binds': estimate.binds,
      'mfu': estimate.mfu,
      'tokens_per_second': report.work.tokens / estimate.seconds,
      'hbm_gib': traffic.hbm_bytes / GIB,
      'collectives': {
        kind: {'gib': sent / GIB, 'calls': traffic.calls[kind]}
        for kind, sent in sorted(traffic.sent_bytes.items())
      },
    }
  return found


def as_text(report: Report) -> str:
  """The report for a person."""
  memory, chip, estimate = report.memory, report.chip, report.estimate
  mesh = ' x '.join(f'{axis} {size}' for axis, size in report.mesh.items())
  room = chip.hbm_gib - memory.peak
  verdict = (
    f'fits, {room:.2f} GiB to spare'
    if report.fits
    else f'does not fit: {-room:.2f} GiB too much'
  )
  flops = report.work.model_flops(report.model) / report.work.tokens
  lines = [
    f'{report.function} on {report.topology}: {report.chips} {chip.name} chips,'
    f' mesh {mesh} (compiled in {report.compile_seconds:.0f} s)',
    f'memory of a chip: {memory.arguments:.2f} GiB of arguments,'
    f' {_temporaries(memory)} of temporaries, {memory.beside:.2f} beside;'
    f' {memory.peak:.2f} of {chip.hbm_gib} GiB: {verdict}',
    f'model FLOPs: {flops:.3g} a token, causal attention counted once,'
    f' recomputation not; {report.work.tokens:,} tokens',
  ]
  lines += [f'to make it fit: {change}' for change in report.advice]
  if estimate is None:
    return '\n'.join(lines)
  lines.append('sent by a chip:' + _collectives(report.traffic))
  lines.append(
    f'roofline: compute {estimate.compute_seconds:.3f} s, memory'
    f' {estimate.hbm_seconds:.3f} s, interconnect'
    f' {estimate.interconnect_seconds:.3f} s; {estimate.binds} binds'
  )
  lines.append(
    f'at best {report.work.tokens / estimate.seconds:,.0f} tokens/s,'
    f' MFU {estimate.mfu:.0%}'
  )
  return '\n'.join(lines)


def _temporaries(memory: Memory) -> str:
  return f'{memory.temporaries:.2f}' if memory.temporaries else 'not counted'


def _collectives(traffic: hlo.Traffic) -> str:
  parts = [
    f' {kind} {sent / GIB:.2f} GiB in {traffic.calls[kind]:,} calls'
    for kind, sent in sorted(traffic.sent_bytes.items())
  ]
  return ','.join(parts) or ' nothing'

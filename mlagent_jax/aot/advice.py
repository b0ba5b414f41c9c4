"""What would make a program fit that does not."""

import math

from mlagent_jax.aot import roofline
from mlagent_jax.stages import rl_checks


def advice(
  config, function: str, chip: roofline.Chip, chips: int, memory
) -> tuple[str, ...]:
  """Changes that would make a program fit, the cheapest first.

  Args:
    config: the whole config, without -1.
    function: the program's name.
    chip: the generation.
    chips: how many.
    memory: `report.Memory` of a chip.

  Returns:
    Sentences; none if it fits.
  """
  missing = memory.peak - chip.hbm_gib
  if missing <= 0:
    return ()
  found = []
  mesh, model = config.mesh, config.model
  if model.remat != 'full' and function.endswith('_step'):
    found.append(
      f'model.remat=full (now {model.remat}) keeps nothing of a block but its'
      ' input'
    )
  section, rows = _rows(config, function)
  if section:
    settings = config[section]
    at_once = rows // settings.micro_batches // (mesh.data * mesh.fsdp)
    if at_once > 1 and section == 'rl' and settings.layout == 'packed_groups':
      found.append(f'a smaller rl.batch_size (now {rows})')
    elif at_once > 1:
      found.append(
        f'{section}.micro_batches=-1 (now {settings.micro_batches}) computes 1'
        f' row of each device of the batch at a time, not {at_once}'
      )
  wider = 2 * mesh.model
  if model.num_kv_heads % wider == 0 and mesh.fsdp % 2 == 0:
    found.append(
      f'mesh.model={wider} mesh.fsdp={mesh.fsdp // 2} splits every row over'
      f' {wider} chips: the {memory.temporaries:.1f} GiB of temporaries nearly'
      ' halve if each chip has half as many rows at a time'
    )
  needed = _chips_needed(chip, chips, memory, function)
  if needed:
    found.append(
      f'at least {needed} chips (mesh.fsdp={mesh.fsdp * needed // chips}):'
      ' parameters, moments and gradients are split over all of them'
    )
  elif not found:
    found.append(
      'shorter rows: one row alone needs more than a chip has, however many'
      ' chips there are'
    )
  return tuple(found)


def _rows(config, function):
  """(section of the config, rows of its batch) of a program that has one."""
  if function == 'sft_step':
    shared = config.sft.layout == 'shared_prompt'
    sft = config.sft
    return 'sft', sft.prompts_per_batch if shared else sft.batch_size
  if function in ('rl_step', 'critic_step', 'logps'):
    if config.rl.layout == 'packed_groups':
      return 'rl', config.rl.batch_size
    return 'rl', rl_checks.update_rows(config) // config.rl.mini_batches
  return '', 0


def _chips_needed(chip, chips, memory, function) -> int | None:
  """The least number of chips, doubling, at which it should fit."""
  # Of an update, gradients are a third of parameters and two moments.
  trains = function.endswith('_step')
  gradients = memory.arguments / 3 if trains else 0.0
  split = memory.arguments + memory.beside + gradients
  rest = max(memory.temporaries - gradients, 0.0)
  if rest >= chip.hbm_gib:
    return None
  times = split / (chip.hbm_gib - rest)
  return chips * 2 ** max(math.ceil(math.log2(times)), 1)

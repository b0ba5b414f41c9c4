"""Every attack, by category."""

import dataclasses

from attack import Attack

from catalogue import (
  escapes,
  grading,
  kernel,
  labels,
  later,
  network,
  output,
  resources,
  storage,
  submissions,
  survivors,
)

_MODULES = {
  'label theft': labels,
  'grader and submission': grading,
  'contents of a submission': submissions,
  'CPU, memory and processes': resources,
  'disk and objects of the kernel': storage,
  'escape by files': escapes,
  'escape by the kernel': kernel,
  'network': network,
  'survivors and timing': survivors,
  'later runs and other runs': later,
  'output': output,
}

ATTACKS: list[Attack] = [
  dataclasses.replace(attack, category=category)
  for category, module in _MODULES.items()
  for attack in module.ATTACKS
]

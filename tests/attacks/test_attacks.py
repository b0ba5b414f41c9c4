"""What the suite of attacks promises of itself."""

import collections

from catalogue import ATTACKS


def test_there_are_enough_attacks():
  names = [attack.name for attack in ATTACKS]
  assert len(set(names)) == len(names) >= 40
  categories = collections.Counter(attack.category for attack in ATTACKS)
  assert len(categories) == 11
  assert min(categories.values()) >= 5


def test_each_attack_is_stated():
  for attack in ATTACKS:
    assert attack.tries, attack.name
    assert attack.expect, attack.name
    compile(attack.source, attack.name, 'exec')

"""How an attack is made, and what must be true afterwards.

Each is an edit of the starter, run, judged and rewarded as an agent's would
be. None earns more than the starter, learns a secret of the host, changes
anything on it, costs it much, or leaves anything behind; and the next honest
run gets what it deserves.
"""

import re

import pytest
from attack import Attack
from catalogue import ATTACKS
from world import MOST_MEMORY, World

# What the host may need besides the run itself; the machine may be busy.
MOST_SECONDS = 30.0
_CONTROLS = re.compile('[\x00-\x08\x0b-\x1f\x7f-\x9f]')

each_attack = pytest.mark.parametrize(
  'attack', ATTACKS, ids=[attack.name.replace(' ', '-') for attack in ATTACKS]
)


def check(world: World, attack: Attack, record_property) -> None:
  """Makes an attack and looks at everything."""
  expected = ' or '.join(attack.expect)
  record_property('sandbox', world.label)
  record_property(
    'attack', [attack.name, attack.category, attack.tries, expected]
  )
  before = world.look()
  played = world.play(attack)
  first = played.outcomes[0]
  record_property(
    'outcome',
    f'{first.kind}, reward {played.rewards[0]:.2g}, {first.seconds:.1f} s',
  )

  # It had no success, by its own word or by what it shows.
  assert 'BREACH' not in played.printed
  for text in (played.printed, *(o.observation for o in played.outcomes)):
    assert not world.secrets_in(text)
  assert world.heard == []
  # It came to what is stated, and earned nothing.
  wanted = [attack.expect, *(kinds for _, kinds in attack.then)]
  for outcome, kinds in zip(played.outcomes, wanted, strict=True):
    assert outcome.kind in kinds, outcome.observation
    assert not _CONTROLS.search(outcome.observation)
  assert max(played.rewards) <= 0.5
  # The host is as it was: files, processes, groups, mounts, descriptors.
  assert world.settled(before) == before
  assert played.memory < MOST_MEMORY
  assert played.overhead < MOST_SECONDS
  # What a submission holds is for the host alone to see.
  if attack.category != 'contents of a submission':
    assert world.play_honestly() == 0.5

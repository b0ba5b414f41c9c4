"""The same attacks on scripts that find their libraries imported."""

import pytest
from playing import check, each_attack

pytestmark = pytest.mark.bwrap
SANDBOX = 'bubblewrap'
PRELOAD = ('pandas',)


@each_attack
def test_attack(world, attack, record_property):
  check(world, attack, record_property)


def test_the_store_is_whole_after_all(world):
  assert world.damaged_blobs() == []

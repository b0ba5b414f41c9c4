"""Scripts that mean harm, through the real environment, in bubblewrap."""

import pytest
from playing import check, each_attack

pytestmark = pytest.mark.bwrap
SANDBOX = 'bubblewrap'


@each_attack
def test_attack(world, attack, record_property):
  check(world, attack, record_property)


def test_the_store_is_whole_after_all(world):
  assert world.damaged_blobs() == []

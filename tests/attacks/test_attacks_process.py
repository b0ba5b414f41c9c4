"""The suite notices what is not contained: sandbox `process` shows it.

Only attacks that read, connect to, or write what the suite itself made.
"""

import pytest
from catalogue import ATTACKS
from playing import check

SANDBOX = 'process'
NOT_PROMISED = [
  'labels by absolute paths',
  'writing by paths',
  'UNIX sockets',
]


@pytest.mark.parametrize('name', NOT_PROMISED)
def test_a_success_is_noticed(world, name):
  (attack,) = [attack for attack in ATTACKS if attack.name == name]
  with pytest.raises(AssertionError, match='BREACH'):
    check(world, attack, lambda *_: None)

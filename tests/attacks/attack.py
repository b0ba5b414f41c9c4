"""What an attack is: a script, and what must come of it."""

import dataclasses
import json
import textwrap
from collections.abc import Mapping, Sequence

from mlagent_jax.environment.records import OutcomeKind

Kind = OutcomeKind
# It was contained, and what it submitted earns what the starter earns.
HONEST = (Kind.EDITED,)
ENTRY = 'train.py'


@dataclasses.dataclass(frozen=True)
class Attack:
  """One attack. It is put in place of the starter by an edit, and so run.

  Attributes:
    name: a few words; unique.
    tries: what it attempts, in one line.
    script: Python; `trick` can be imported.
    expect: the kinds of outcome that are right.
    files: path -> content of what lies in the workspace before.
    then: (reply, kinds) of further steps in the state that it leaves.
    seconds: the time limit.
    neighbour: an honest run with secrets of its own runs at the same time.
    category: of the module it comes from.
  """

  name: str
  tries: str
  script: str
  expect: tuple[Kind, ...] = HONEST
  files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
  then: Sequence[tuple[str, tuple[Kind, ...]]] = ()
  seconds: float = 20.0
  neighbour: bool = False
  category: str = ''

  @property
  def source(self) -> str:
    """The script as it is written into the workspace."""
    return textwrap.dedent(self.script).strip() + '\n'


def reply(name: str, text: str | Mapping[str, str]) -> str:
  """A reply of an agent, in the compact protocol."""
  text = text if isinstance(text, str) else json.dumps(text)
  return f'Thought: t\nAction: {name}\nAction Input: {text}'


def replace_lines(path: str, first: int, last: int, text: str) -> str:
  """The reply that puts a text in place of some lines."""
  return reply('Edit Script Lines', f'{path} {first}-{last}\n{text}')


def show(path: str) -> str:
  """The reply that looks at the beginning of a file."""
  arguments = {'start_line_number': '1', 'end_line_number': '50'}
  return reply('Inspect Script Lines', {'script_name': path, **arguments})


def names(path: str) -> str:
  """The reply that lists a folder."""
  return reply('List Files', {'dir_path': path})


def copy(source: str, target: str) -> str:
  """The reply that copies a file."""
  return reply('Copy File', {'source': source, 'destination': target})


def run(path: str) -> str:
  """The reply that runs a script."""
  return reply('Execute Script', {'script_name': path})

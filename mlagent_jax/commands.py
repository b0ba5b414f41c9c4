"""A program of several commands: `python -m mlagent_jax.NAME COMMAND`."""

import argparse
import sys
from collections.abc import Callable, Sequence


class Commands:
  """The commands of an entry.

  Args:
    name: of its module.
    text: its docstring, which --help shows.
  """

  def __init__(self, name: str, text: str):
    self._parser = argparse.ArgumentParser(
      prog=f'python -m mlagent_jax.{name}',
      description=text,
      formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    self._commands = self._parser.add_subparsers(
      required=True, metavar='COMMAND'
    )

  def add(
    self,
    name: str,
    function: Callable[[argparse.Namespace], int],
    text: str,
  ) -> argparse.ArgumentParser:
    """A command, for its arguments; `function` returns the exit code."""
    added = self._commands.add_parser(name, help=text, description=text)
    added.set_defaults(command=function)
    return added

  def run(
    self,
    arguments: Sequence[str] | None,
    expected: Callable[[], tuple[type[Exception], ...]],
  ) -> int:
    """Runs one command.

    Args:
      arguments: of the command line; None for those of this process.
      expected: gives the errors that need no traceback; called after the
        arguments were read, so that --help answers at once.

    Returns:
      The exit code: 0 well, 1 a check failed, 2 an error.
    """
    options = self._parser.parse_args(arguments)
    errors = expected()
    try:
      return options.command(options)
    except errors as error:
      print(f'{type(error).__name__}: {error}', file=sys.stderr)
      return 2

"""Two ways of a script into the namespaces that `bwrap` made.

Either is what `supervise` and `Leash` need: `process` is the id of what waits
to become the script; `output`, `end`, `ended` and `kill` are as in `supervise`.
"""

import contextlib
import resource

from mlagent_jax.environment.records import SandboxUnavailable
from mlagent_jax.environment.sandbox import warden, wrapped
from mlagent_jax.environment.sandbox.keeper import Helper, start, tell
from mlagent_jax.environment.sandbox.leash import Leash
from mlagent_jax.environment.sandbox.supervision import DEATH_SECONDS, readable


class Started:
  """A script that `bwrap` starts in its namespaces."""

  def __init__(
    self,
    run: wrapped.Wrapped,
    values: list[tuple[int, int]],
    user: int | None,
  ):
    """Waits for `go`.

    Args:
      run: the `bwrap`.
      values: limits of each process, (number, value).
      user: id of the run's own user, if it has one.
    """
    self._run = run
    self._limits = values, user
    self.process, self.output, self.end = run.first, run.output, run.end
    self.ended, self.kill = run.ended, run.kill

  def members(self) -> list[int]:
    """Ids of all processes of the run."""
    return [self.process, *warden.descendants(self.process)]

  def go(self) -> None:
    """Lets the script begin."""
    _set_rlimits(self.process, *self._limits)
    self._run.go()

  def exit_code(self) -> int | None:
    """Of the script, as in subprocess; None if all was killed at once."""
    return _as_in_subprocess(self._run.exit_code())


# What `bwrap` runs while a script has entered: it does nothing, for 68 years.
HOLDER = ('/usr/bin/sleep', str(2**31 - 1))


class Entered:
  """A script that enters the namespaces of a `bwrap`, which holds them.

  It enters when `bwrap` is done: its first process has closed what it held of
  the host, dies with it, collects orphans and has the filter; and so has
  HOLDER, its child. Both are under the limits of the run, for they may be of
  the script's user.
  """

  def __init__(
    self,
    stack: contextlib.ExitStack,
    helper: Helper,
    run: wrapped.Wrapped,
    request: dict,
    leash: Leash,
  ):
    """Asks for it.

    Args:
      stack: ends it.
      helper: with preloaded modules.
      run: holds the namespaces; its command is HOLDER.
      request: see `warden`.
      leash: of the run.

    Raises:
      SandboxUnavailable: if there is no such process after a while.
    """
    self._run = run
    leash.add(run.first)
    _set_rlimits(run.first, request['rlimits'], request['user'])
    run.go()
    run.wait_for_command(HOLDER[0])
    self._holders = {run.first, *warden.descendants(run.first)}
    self.output, self._status, self._control = start(
      stack, helper, {**request, 'join': True}, [run.inner]
    )
    self._keeper, self.process = self._status.wait_for_start()
    self.end = self._status.pipe

  def members(self) -> list[int]:
    """Ids of all processes of the run."""
    # What lost its parent is a child of the first process.
    tops = self._keeper, self._run.first
    found = {member for top in tops for member in warden.descendants(top)}
    return sorted(found - self._holders)

  def go(self) -> None:
    """Lets the script begin."""
    tell(self._control, b'g')

  def kill(self) -> None:
    """Kills the script; `ended` kills what it left."""
    tell(self._control, b'k')

  def ended(self) -> bool:
    """Whether the script has ended, and with it all else inside.

    Raises:
      SandboxUnavailable: if what it left does not die.
    """
    if not self._status.read():
      return False
    self._run.kill()
    if not readable(self._run.inner, DEATH_SECONDS):
      raise SandboxUnavailable('processes of a run do not die')
    return True

  def exit_code(self) -> int | None:
    """Of the script, as in subprocess; None if all was killed at once.

    Raises:
      SandboxUnavailable: if the script did not begin.
    """
    if self._status.error:
      raise SandboxUnavailable(
        f'the script was not started: {self._status.error}'
      )
    if not self._status.done or self._status.exit_code is None:
      return None
    # A shell's 128 + n is signal n here as it is where `bwrap` reports it.
    return _as_in_subprocess(self._status.exit_code)


def _set_rlimits(
  first: int, values: list[tuple[int, int]], user: int | None
) -> None:
  """Limits the first process inside, and so all that it will start."""
  try:
    for number, value in values:
      hard = resource.prlimit(first, number)[1]
      if user is None and hard != resource.RLIM_INFINITY:
        value = min(value, hard)
      resource.prlimit(first, number, (value, value))
  except OSError as error:
    raise SandboxUnavailable(f'bwrap takes no limits: {error}') from error


def _as_in_subprocess(exit_code: int | None) -> int | None:
  """Minus the signal's number in place of 128 + that."""
  if exit_code is None:
    return None
  return 128 - exit_code if 128 < exit_code <= 128 + 64 else exit_code

"""The words of the environment as types; standard library only (floor 0).

An agent's failure is data: it is an `Outcome` whose kind says what happened.
A failure of ours is an exception: `SandboxUnavailable` and its relatives.
"""

import dataclasses
import enum
from collections.abc import Mapping


class SandboxUnavailable(RuntimeError):  # noqa: N818 - a word of the design
  """The sandbox itself failed (not the script): retry elsewhere, no reward."""


class ActionName(enum.StrEnum):
  """The closed set of actions; names and arguments of MLAgentBench and two
  of ours (`Edit Script`, `Edit Script Lines`) that need no second model.
  """

  LIST_FILES = 'List Files'
  UNDERSTAND_FILE = 'Understand File'
  INSPECT_SCRIPT_LINES = 'Inspect Script Lines'
  EDIT_SCRIPT_AI = 'Edit Script (AI)'
  EDIT_SCRIPT = 'Edit Script'
  EDIT_SCRIPT_LINES = 'Edit Script Lines'
  COPY_FILE = 'Copy File'
  UNDO_EDIT_SCRIPT = 'Undo Edit Script'
  EXECUTE_SCRIPT = 'Execute Script'
  FINAL_ANSWER = 'Final Answer'


@dataclasses.dataclass(frozen=True)
class Action:
  """One parsed reply: a name of the closed set and its arguments."""

  name: ActionName
  arguments: Mapping[str, str]
  thought: str = ''


class OutcomeKind(enum.StrEnum):
  """What became of one action. `mlagent_jax.reward` maps kinds to rewards."""

  # The reply is not a valid action: reward 0.
  UNPARSED = 'unparsed'
  UNKNOWN_ACTION = 'unknown_action'
  BAD_ARGUMENTS = 'bad_arguments'
  EDIT_FAILED = 'edit_failed'  # does not apply, or changes nothing
  # A script ran and earned nothing: reward 0.
  SCRIPT_FAILED = 'script_failed'
  MISSING_SUBMISSION = 'missing_submission'
  STALE_SUBMISSION = 'stale_submission'
  REFUSED_SUBMISSION = 'refused_submission'
  # Valid, and edits nothing: reward 0.5.
  LOOKED = 'looked'  # List Files, Understand File, Inspect Script Lines
  COPIED = 'copied'
  UNDONE = 'undone'
  EXECUTED = 'executed'  # a working script was run without an edit
  FINAL_ANSWER = 'final_answer'
  # A limit that is not the agent's mistake: reward 0.5.
  TIME_LIMIT = 'time_limit'
  MEMORY_LIMIT = 'memory_limit'
  # A valid edit whose script ran: reward from the change of the score.
  EDITED = 'edited'


@dataclasses.dataclass(frozen=True)
class Limits:
  """What one run of a script may use. Every limit is enforced by a sandbox.

  Attributes:
    seconds: wall-clock time.
    memory_mb: resident memory of all processes together, MiB.
    processes: processes and threads together.
    file_mb: size of any one file that the script writes, MiB.
    workspace_mb: size of all that the run leaves in the workspace, MiB.
    output_kb: kept output, KiB; the middle of a longer one is cut.
    cpus: CPU cores; also given to the libraries as their thread count.
    gpus: GPUs passed through (docker only).
  """

  seconds: float = 30.0
  memory_mb: int = 2048
  processes: int = 64
  file_mb: int = 64
  workspace_mb: int = 256
  output_kb: int = 64
  cpus: float = 1.0
  gpus: int = 0


class StoppedBy(enum.StrEnum):
  """Why a sandbox ended a run before the script did."""

  NOTHING = ''
  TIME = 'time'
  MEMORY = 'memory'
  OUTPUT = 'output'  # far beyond `output_kb`: an endless printer
  DISK = 'disk'


@dataclasses.dataclass(frozen=True)
class Completed:
  """What a sandbox reports of one run.

  Attributes:
    exit_code: the script's exit code; minus the signal's number if a signal
      ended it (as in subprocess).
    output: stdout and stderr as they came, decoded with replacement, without
      terminal escapes, cut to `Limits.output_kb`.
    seconds: wall-clock time.
    stopped_by: the limit that ended it, or NOTHING.
  """

  exit_code: int
  output: str
  seconds: float
  stopped_by: StoppedBy = StoppedBy.NOTHING


@dataclasses.dataclass(frozen=True)
class Version:
  """A tree that `Undo Edit Script` can return to, with what it scored."""

  tree: str
  score: float | None
  test_score: float | None


@dataclasses.dataclass(frozen=True)
class Snapshot:
  """An exact state of an episode's workspace, small enough to send about.

  Attributes:
    tree: SHA-256 (hex) of the workspace's tree in the blob store.
    score: the last valid validation score on the way to this tree; None if
      there is none yet (the reward then measures against m_init).
    test_score: the test score that belongs to `score`; reports only.
    best_score: the best validation score so far on the way; None if none.
    undo: the trees before each edit, oldest first.
  """

  tree: str
  score: float | None = None
  test_score: float | None = None
  best_score: float | None = None
  undo: tuple[Version, ...] = ()


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What the environment reports of one action.

  Attributes:
    kind: what happened.
    observation: the text that the agent reads. Never holds a test score.
    edited: whether the action changed the tree (before anything was run).
    score_before: `Snapshot.score` of the state the action was taken in.
    best_before: `Snapshot.best_score` of that state.
    score: validation score of this action's run; None if no valid one.
    test_score: test score of this action's run; None if no valid one.
    exit_code: of the run; None if nothing was run.
    seconds: wall-clock seconds of the run (the first one, if it was reused).
    cached: the run's result was reused from an identical earlier execution.
    sandbox: identity of what ran it (kind and image or interpreter); '' if
      nothing was run.
  """

  kind: OutcomeKind
  observation: str
  edited: bool = False
  score_before: float | None = None
  best_before: float | None = None
  score: float | None = None
  test_score: float | None = None
  exit_code: int | None = None
  seconds: float = 0.0
  cached: bool = False
  sandbox: str = ''


@dataclasses.dataclass(frozen=True)
class Step:
  """(state, action, outcome): one action of an agent and what became of it.

  Attributes:
    before: the state the action was taken in.
    reply: the agent's reply, word for word.
    outcome: what the environment reported.
    after: the state that the action led to.
    token_ids: the sampled tokens, if a policy of ours wrote the reply; they
      are what it is trained on, never a re-tokenised `reply`.
    logps: the sampler's log-probability of each of `token_ids`, in nats.
  """

  before: Snapshot
  reply: str
  outcome: Outcome
  after: Snapshot
  token_ids: tuple[int, ...] = ()
  logps: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Trajectory:
  """The steps of one episode.

  Attributes:
    trajectory_id: unique in its store.
    task: the task's name.
    agent: who acted ('scripted', 'policy', an endpoint's model name, …).
    seed: seed of the episode.
    ideas: the ideas that were put into the agent's first prompt.
    steps: in order.
    ended_by: 'final_answer', 'steps', 'time', or 'prompt': the agent made its
      script longer than it can read.
    seconds: wall-clock seconds of the whole episode.
  """

  trajectory_id: str
  task: str
  agent: str
  seed: int
  ideas: tuple[str, ...]
  steps: tuple[Step, ...]
  ended_by: str
  seconds: float


@dataclasses.dataclass(frozen=True)
class Scale:
  """How a task's validation scores become rewards, and reports.

  Attributes:
    higher_is_better: the metric's direction.
    m_init, m_best: validation score of the starter and the best known one.
    p_init, p_best: the same on the test rows; for reports.
  """

  higher_is_better: bool
  m_init: float
  m_best: float
  p_init: float
  p_best: float

  @property
  def sign(self) -> int:
    """+1 if higher is better, else -1."""
    return 1 if self.higher_is_better else -1

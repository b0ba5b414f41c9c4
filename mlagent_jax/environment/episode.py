"""The environment: one action in one state, and whole episodes of them.

A state is a `Snapshot`; `Environment.step` takes nothing else with it, so any
number of threads may step any states at once, and a step can be taken again
from its record. After an edit the environment runs the task's entry script
itself, so that every edit has a score; the score of a state is the last valid
one on the way to it.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from mlagent_jax.environment import (
  actions,
  edits,
  execution,
  files,
  observations,
  prepared,
  workspace,
)
from mlagent_jax.environment.blobs import BlobStore
from mlagent_jax.environment.cache import ExecutionCache
from mlagent_jax.environment.records import (
  Action,
  ActionName,
  Outcome,
  OutcomeKind,
  Snapshot,
  Step,
  Trajectory,
  Version,
)
from mlagent_jax.environment.sandbox import Sandbox
from mlagent_jax.environment.task_folder import Task
from mlagent_jax.environment.workspace import PathError

NEEDS_EDITOR = frozenset(
  {ActionName.UNDERSTAND_FILE, ActionName.EDIT_SCRIPT_AI}
)
WITHOUT_EDITOR = frozenset(ActionName) - NEEDS_EDITOR
_MAX_SCRIPT_BYTES = 2**20


class Editor(Protocol):
  """The second model behind Understand File and Edit Script (AI)."""

  def understand(self, text: str, question: str) -> str:
    """Answers a question about a file."""

  def edit(self, text: str, instruction: str) -> str:
    """The whole text, edited as the instruction says."""


class Agent(Protocol):
  """Who acts in an episode.

  Attributes:
    name: under which its trajectories are recorded.
  """

  name: str

  def reply(
    self, task: Task, snapshot: Snapshot, script: str, steps: Sequence[Step]
  ) -> str:
    """The next reply, given the state, its entry script and the history."""


class Environment:
  """Tasks, a sandbox and a store: takes steps. Thread-safe.

  Args:
    tasks: name -> task; their data must be prepared.
    sandbox: where scripts run.
    store: of workspaces.
    cache: of executions; None runs everything always.
    editor: the model behind the two actions that need one.
    allowed: the actions that agents may take.
    protocol: 'full' or 'compact'.
    scratch: folder for running workspaces; the system's temporary one if None.

  Raises:
    ValueError: an action needs an editor and there is none.
    TaskError: a task's data is not prepared.
  """

  def __init__(
    self,
    tasks: Mapping[str, Task],
    sandbox: Sandbox,
    store: BlobStore,
    *,
    cache: ExecutionCache | None = None,
    editor: Editor | None = None,
    allowed: Collection[ActionName] = WITHOUT_EDITOR,
    protocol: str = 'compact',
    scratch: pathlib.Path | None = None,
  ):
    if protocol not in actions.SECTIONS:
      known = ', '.join(actions.SECTIONS)
      raise ValueError(f'agent.protocol {protocol!r} is none of {known}')
    if editor is None and (needy := NEEDS_EDITOR & frozenset(allowed)):
      names = ', '.join(sorted(needy))
      raise ValueError(
        f'agent.actions has {names}, which a second model carries out: set'
        ' agent.editor to one, or take them out of agent.actions'
      )
    for task in tasks.values():
      prepared.check_prepared(task)
    self.tasks = dict(tasks)
    self.store = store
    self.cache = cache
    self.sandbox = sandbox
    self.editor = editor
    self.allowed = frozenset(allowed)
    self.protocol = protocol
    self.scratch = scratch

  def initial(self, task: str) -> Snapshot:
    """The state that every episode of a task starts from."""
    folder = self.tasks[task].starter_folder
    exclude = (files.DATA, '__pycache__')
    tree = workspace.snapshot_tree(folder, self.store, exclude=exclude)
    return Snapshot(tree)

  def script(self, task: str, snapshot: Snapshot) -> str:
    """Text of a task's entry script in a state; '' if a copy broke it."""
    tree = workspace.read_tree(snapshot.tree, self.store)
    entry = tree.get(self.tasks[task].entry)
    if entry is None or entry.kind != 'file':
      return ''
    return self.store.get(entry.content).decode('utf-8', 'replace')

  def step(
    self, task: str, snapshot: Snapshot, reply: str
  ) -> tuple[Outcome, Snapshot]:
    """Takes one action in one state.

    Args:
      task: its name.
      snapshot: the state; it is not changed.
      reply: the agent's, word for word.

    Returns:
      The outcome, and the state that follows.

    Raises:
      SandboxUnavailable: if the sandbox failed; there is no outcome then.
    """
    card = self.tasks[task]
    turn = _Turn(card, snapshot, files.Files(card, snapshot.tree, self.store))
    try:
      action = actions.parse_reply(
        reply, protocol=self.protocol, allowed=self.allowed
      )
      outcome, after = self._act(turn, action)
    except (actions.ActionError, edits.EditError) as error:
      outcome, after = turn.outcome(error.kind, str(error)), snapshot
    except PathError as error:
      outcome = turn.outcome(OutcomeKind.BAD_ARGUMENTS, str(error))
      after = snapshot
    plain = observations.plain(outcome.observation)
    return dataclasses.replace(outcome, observation=plain), after

  def play(
    self,
    task: str,
    agent: Agent,
    *,
    seed: int = 0,
    max_steps: int = 15,
    max_seconds: float = 1800.0,
    clock: Callable[[], float] = time.monotonic,
    ideas: Sequence[str] = (),
    trajectory_id: str | None = None,
    step: Callable[[str, Snapshot, str], tuple[Outcome, Snapshot]]
    | None = None,
  ) -> Trajectory:
    """Plays one episode until the agent, the steps or the time ends it.

    Args:
      task: its name.
      agent: replies.
      seed: recorded; the agent's business.
      max_steps: of the episode.
      max_seconds: no step begins later than this.
      clock: seconds.
      ideas: recorded; the agent's business.
      trajectory_id: AGENT-TASK-SEED if None.
      step: takes a step, `self.step` if None; a pool's tries again.

    Raises:
      SandboxUnavailable: as `step`.
    """
    start = clock()
    snapshot, steps, ended_by = self.initial(task), [], 'steps'
    step = step or self.step
    while len(steps) < max_steps:
      if clock() - start >= max_seconds:
        ended_by = 'time'
        break
      script = self.script(task, snapshot)
      reply = agent.reply(self.tasks[task], snapshot, script, tuple(steps))
      outcome, after = step(task, snapshot, reply)
      steps.append(Step(snapshot, reply, outcome, after))
      snapshot = after
      if outcome.kind is OutcomeKind.FINAL_ANSWER:
        ended_by = 'final_answer'
        break
    return Trajectory(
      trajectory_id or f'{agent.name}-{task}-{seed}',
      task,
      agent.name,
      seed,
      tuple(ideas),
      tuple(steps),
      ended_by,
      clock() - start,
    )

  def _act(self, turn: '_Turn', action: Action) -> tuple[Outcome, Snapshot]:
    carry_out = {
      ActionName.LIST_FILES: self._list_files,
      ActionName.UNDERSTAND_FILE: self._understand_file,
      ActionName.INSPECT_SCRIPT_LINES: self._inspect_lines,
      ActionName.EDIT_SCRIPT_AI: self._edit,
      ActionName.EDIT_SCRIPT: self._edit,
      ActionName.EDIT_SCRIPT_LINES: self._edit,
      ActionName.COPY_FILE: self._copy_file,
      ActionName.UNDO_EDIT_SCRIPT: self._undo,
      ActionName.EXECUTE_SCRIPT: self._execute,
      ActionName.FINAL_ANSWER: self._final_answer,
    }
    return carry_out[action.name](turn, action.arguments)

  def _list_files(self, turn, arguments):
    path = arguments['dir_path']
    return turn.looked(observations.listing(turn.files.names(path), path))

  def _understand_file(self, turn, arguments):
    text = turn.files.text(arguments['file_name'])
    question = arguments['things_to_look_for']
    return turn.looked(self.editor.understand(text, question))

  def _inspect_lines(self, turn, arguments):
    path = arguments['script_name']
    first = int(arguments['start_line_number'])
    last = int(arguments['end_line_number'])
    most = observations.MAX_LINES
    if first < 1 or last < first:
      raise PathError(f'There are no lines {first}-{last}; the first is 1.')
    if last - first >= most:
      raise PathError(
        f'Lines {first}-{last} are {last - first + 1}; at most {most} can be'
        ' shown at once.'
      )
    lines, count = turn.files.lines(path, first, last)
    if not lines:
      raise PathError(f'{path} ends before line {first}.')
    shown = observations.numbered(lines, first)
    end = first + len(lines) - 1
    return turn.looked(f'{path}, lines {first}-{end}{count}:\n{shown}')

  def _edit(self, turn, arguments):
    path = files.writable(arguments['script_name'])
    target = files.writable(arguments.get('save_name', path))
    present = turn.files.tree
    if 'edit_instruction' in arguments:
      # A script that is not there yet is written from nothing.
      before = turn.files.text(path) if path in present else ''
      after = self.editor.edit(before, arguments['edit_instruction'])
      before = turn.files.text(target) if target in present else ''
    else:
      before = turn.files.text(path)
      after = _edited(before, arguments)
    content = after.encode('utf-8')
    if len(content) > _MAX_SCRIPT_BYTES:
      raise edits.EditError(
        f'{target} would have {len(content)} bytes; at most'
        f' {_MAX_SCRIPT_BYTES} are allowed.'
      )
    tree = turn.files.with_content(target, content)
    if tree == turn.before.tree:
      raise edits.EditError('The edit changes nothing.')
    text = observations.change(target, before, after)
    return self._run(turn, tree, turn.task.entry, text)

  def _copy_file(self, turn, arguments):
    source, target = arguments['source'], arguments['destination']
    content = turn.files.content(source)
    tree = turn.files.with_content(files.writable(target), content)
    if tree == turn.before.tree:
      raise edits.EditError('The copy changes nothing.')
    text = f'{source} was copied to {target}.'
    outcome = turn.outcome(OutcomeKind.COPIED, text, edited=True)
    return outcome, turn.pushed(tree)

  def _undo(self, turn, arguments):
    path = workspace.normalise(arguments['script_name'])
    if not turn.before.undo:
      raise edits.EditError('There is no edit to take back.')
    version = turn.before.undo[-1]
    now = turn.files.tree
    then = workspace.read_tree(version.tree, self.store)
    if now.get(path) == then.get(path):
      names = sorted(now.keys() | then.keys())
      changed = [name for name in names if now.get(name) != then.get(name)]
      raise edits.EditError(
        f'The last edit did not change {path!r}, but {", ".join(changed[:5])}.'
      )
    after = dataclasses.replace(
      turn.before,
      tree=version.tree,
      score=version.score,
      test_score=version.test_score,
      undo=turn.before.undo[:-1],
    )
    text = f'The last change of {path} was taken back.'
    if version.score is not None:
      text += f' The score is {observations.number(version.score)} again.'
    return turn.outcome(OutcomeKind.UNDONE, text, edited=True), after

  def _execute(self, turn, arguments):
    path = workspace.normalise(arguments['script_name'])
    turn.files.file(path)
    if not path.endswith('.py'):
      raise PathError(f'{path} is not a Python script: it does not end in .py.')
    return self._run(turn, turn.before.tree, path, '')

  def _final_answer(self, turn, arguments):
    del arguments  # what it says is for people
    text = 'The work has ended.'
    return turn.outcome(OutcomeKind.FINAL_ANSWER, text), turn.before

  def _run(self, turn, tree: str, script: str, text: str):
    """Runs a script of a tree; the outcome of the whole action."""
    task, before = turn.task, turn.before
    edited = tree != before.tree
    ran = execution.execute(
      tree,
      script,
      task,
      self.sandbox,
      self.store,
      self.cache,
      scratch=self.scratch,
    )
    verdict = execution.judge(
      ran,
      task,
      self.store,
      must_submit=script == task.entry,
      sandbox=self.sandbox,
      cache=self.cache,
      scratch=self.scratch,
    )
    kind, scores = verdict.kind, verdict.scores
    if edited and kind is OutcomeKind.EXECUTED:
      kind = OutcomeKind.EDITED
    texts = [text, observations.output(ran.completed.output), verdict.message]
    texts += [f'Note: {note}.' for note in ran.notes[:5]]
    after = turn.pushed(ran.tree) if edited else before
    after = dataclasses.replace(after, tree=ran.tree)
    if scores is not None:
      texts.append(observations.score(task, scores.validation, before.score))
      after = dataclasses.replace(
        after,
        score=scores.validation,
        test_score=scores.test,
        best_score=_better(task, before.best_score, scores.validation),
      )
    outcome = turn.outcome(
      kind,
      '\n'.join(part for part in texts if part),
      edited=edited,
      score=scores.validation if scores else None,
      test_score=scores.test if scores else None,
      exit_code=ran.completed.exit_code,
      seconds=ran.completed.seconds,
      cached=ran.cached,
      sandbox=self.sandbox.identity,
    )
    return outcome, after


@dataclasses.dataclass(frozen=True)
class _Turn:
  """One action on its way: the task, the state and its files."""

  task: Task
  before: Snapshot
  files: files.Files

  def pushed(self, tree: str) -> Snapshot:
    """The state with another tree, which can be undone."""
    before = self.before
    version = Version(before.tree, before.score, before.test_score)
    return dataclasses.replace(before, tree=tree, undo=(*before.undo, version))

  def looked(self, text: str) -> tuple[Outcome, Snapshot]:
    """What an action that only looks gives."""
    return self.outcome(OutcomeKind.LOOKED, text), self.before

  def outcome(self, kind: OutcomeKind, text: str, **fields) -> Outcome:
    """An outcome with the scores of the state before."""
    return Outcome(
      kind,
      text,
      score_before=self.before.score,
      best_before=self.before.best_score,
      **fields,
    )


def _edited(text: str, arguments: Mapping[str, str]) -> str:
  """The text after Edit Script or Edit Script Lines."""
  if 'search' in arguments:
    return edits.replace_once(text, arguments['search'], arguments['replace'])
  return edits.replace_lines(
    text,
    int(arguments['start_line_number']),
    int(arguments['end_line_number']),
    arguments['replacement'],
  )


def _better(task: Task, best: float | None, score: float) -> float:
  if best is None:
    return score
  return max(best, score) if task.scale.higher_is_better else min(best, score)

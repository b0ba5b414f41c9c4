"""Texts of an imported task: task.toml, scripts, and the report."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping

from mlagent_jax.environment.task_folder import Task
from mlagent_jax.environment.task_import_measure import Measured
from mlagent_jax.environment.task_import_rows import Split
from mlagent_jax.environment.task_import_source import Source, Staged


@dataclasses.dataclass(frozen=True)
class Report:
  """What became of an import; as text it is IMPORT.md.

  Attributes:
    folder: the new task's.
    title: which task of which project.
    carried: what is as it was, or has a place of its own here.
    not_carried: what is lost, or is not what it was.
    guessed: what the source does not state.
    to_fill: field of task.toml -> what it needs; the task cannot be loaded
      before a person has filled them in.
    refused: what `load_task` says although nothing is left to fill in; or ''.
  """

  folder: pathlib.Path
  title: str
  carried: tuple[str, ...]
  not_carried: tuple[str, ...]
  guessed: tuple[str, ...]
  to_fill: Mapping[str, str]
  refused: str = ''

  @property
  def ready(self) -> bool:
    """Whether the task can be loaded as it is."""
    return not self.to_fill and not self.refused

  def __str__(self) -> str:
    fill = [f'`{field}`: {how}' for field, how in self.to_fill.items()]
    refused = [self.refused] if self.refused else []
    state = 'It is ready.' if self.ready else 'It is NOT ready: see below.'
    lines = [
      f'# {self.folder.name}',
      '',
      f'Imported from {self.title}. {state}',
    ]
    for heading, items in (
      ('To fill in, in task.toml', fill),
      ('Refused', refused),
      ('Not carried over', self.not_carried),
      ('Guessed: the source does not say', self.guessed),
      ('Carried over', self.carried),
    ):
      if items:
        lines += ['', f'## {heading}', '', *(f'- {item}' for item in items)]
    return '\n'.join(lines) + '\n'


def report(
  source: Source,
  task: Task,
  split: Split,
  staged: Staged,
  measured: Measured,
  leaderboard: tuple[float, float] | None,
) -> Report:
  """Says everything that is not as it was."""
  lost = [*source.notes]
  guessed = [
    f'kind: {task.kind}',
    f'limits: {task.limits.seconds:g} s, {task.limits.memory_mb} MiB',
    'licence of the data',
  ]
  public = [name for name in task.files if name.startswith('public/')]
  carried = [
    'the description, with a paragraph on how it runs here',
    'the grading code, in grader/: it runs in a sandbox of its own',
    f'the data: {len(public)} public files',
  ]
  for kept, texts in zip((carried, lost), _rows(split), strict=True):
    kept.extend(texts)
  if staged.links:
    lost.append(
      'data in the workspace itself: they are in data/, read-only, with links'
      f' in their old places ({_some(staged.links)})'
    )
  if split.stale_sample:
    lost.append('the sample submission: its ids are not those of the answers')
  if not source.entry:
    lost.append(
      'a starter script: the source has none; starter/train.py'
      + (
        f' submits {staged.sample} as it is'
        if staged.sample
        else ' has to be written'
      )
    )
  if measured.stated:
    carried.append('higher_is_better: as you stated it')
  elif measured.higher_is_better is not None:
    guessed.append(
      'higher_is_better: found out by grading the answers in the right and in'
      ' a wrong order'
      if measured.right is not None
      else "higher_is_better: by the order of the source's leaderboard"
    )
  if split.how != 'none' and measured.right is None:
    lost.append(
      'a check of the grader: the answers are not themselves a submission'
    )
  return Report(
    task.folder,
    source.origin,
    tuple(carried),
    tuple(lost),
    tuple(guessed),
    _to_fill(measured, leaderboard),
  )


def _rows(split: Split) -> tuple[list[str], list[str]]:
  """(carried, not carried) of how the rows were split."""
  if split.how == 'train':
    kept = [
      f'the test split: {split.test} rows, and their score. Validation is'
      f' {split.validation} rows of train.csv (a tenth, random_state 0), which'
      ' joined test.csv'
    ]
    lost = [f'{split.validation} rows of train.csv: they are validation now']
    if split.renamed:
      lost.append(
        'ids of the validation rows: they clash with those of test.csv (or'
        ' there were none), so these rows have new ones'
      )
    return kept, lost
  if split.how == 'answers':
    return [], [
      f'the test split: validation cannot be taken from train.csv'
      f' ({split.reasons[0]}), so {split.validation} of the test rows are'
      f' validation; test scores are those of the other {split.test} and not'
      " comparable with the source's"
    ]
  return [], [
    'a validation score of its own: the grader takes the submission as a whole'
    f' ({"; ".join(split.reasons)}), so one score counts as validation and as'
    ' test. Training on this task touches its test labels: use it for'
    ' evaluation only',
    'the checks of a submission: ids and columns are not known here, the'
    ' grader gets the file as the script wrote it. If it reads a score that'
    ' the script itself states, anything can be claimed',
  ]


def _to_fill(
  measured: Measured, leaderboard: tuple[float, float] | None
) -> dict[str, str]:
  fields = {}
  if measured.higher_is_better is None:
    fields['higher_is_better'] = 'true or false: the direction of the score'
  if measured.starter is None:
    how = f'the starter has no score: {measured.starter_failure}'
    fields['m_init'] = f'on validation; {how}'
    fields['p_init'] = 'on the test rows; as m_init'
  if measured.strong is None:
    how = 'the best known score on validation (--strong FILE measures one)'
    if measured.strong_failure:
      how += f'; yours has none: {measured.strong_failure}'
    if measured.right is not None:
      how += (
        '; a submission that is right in every row scores'
        f' {measured.right.validation:g}'
      )
    if leaderboard is not None:
      how += f"; the best on the source's leaderboard is {leaderboard[0]:g}"
    fields['m_best'] = how
    fields['p_best'] = 'the same on the test rows'
  return fields


def description(source: Source, split: Split, sample: str) -> str:
  """The source's text, and how its task is run here."""
  text = source.description.strip()
  if split.how == 'none':
    form = 'in the form that the task asks for'
  else:
    columns = ','.join((split.id_column, *split.target_columns))
    form = f'with the columns {columns}'
    like = f'data/{sample}' if sample else 'data/test.csv'
    form += f' and one row for each id of {like}'
  return (
    f'{text}\n\nHow it runs here: the files of the data are in data/, which is'
    ' read-only; there is no network. The script must write submission.csv in'
    f' its own folder, {form}.\n'
  )


def prepare_script(source: Source, data: pathlib.Path) -> str:
  """The text of prepare.py."""
  return f'''"""Prepares the data of an imported task.

It comes from {source.origin}.
"""

import pathlib

from mlagent_jax.environment import task_import

# Where the data of the source are; change it if they move.
DATA = pathlib.Path({str(data)!r})


def prepare(public: pathlib.Path, private: pathlib.Path) -> None:
  task_import.prepare(pathlib.Path(__file__).parent, DATA, public, private)
'''


def starter_script(sample: str) -> str:
  """The text of starter/train.py where the source has none."""
  if not sample:
    return "raise SystemExit('This script has to write submission.csv.')\n"
  return f'''"""Submits the sample submission as it is."""

import shutil

shutil.copyfile('data/{sample}', 'submission.csv')
'''


def task_toml(task: Task, measured: Measured, report: Report) -> str:
  """The text of task.toml; what is left to fill in is a comment."""
  starter, strong = measured.starter, measured.strong
  known = {
    'higher_is_better': toml_value(measured.higher_is_better),
    'm_init': starter and toml_value(starter.validation),
    'm_best': strong and toml_value(strong.validation),
    'p_init': starter and toml_value(starter.test),
    'p_best': strong and toml_value(strong.test),
  }
  lines = [
    '# Imported: IMPORT.md says what could not be carried over.',
    *(_comment(f'Not carried over: {item}') for item in report.not_carried),
    '',
  ]
  for name in ('name', 'title', 'description', 'kind', 'source', 'licence'):
    lines.append(f'{name} = {toml_value(getattr(task, name))}')
  lines += ['', f'entry = {toml_value(task.entry)}']
  if task.grader.by_rows:
    lines.append(f'id_column = {toml_value(task.id_column)}')
    lines.append(f'target_columns = {toml_value(list(task.target_columns))}')
  lines += ['', f'metric = {toml_value(task.metric)}']
  for name, value in known.items():
    if name in report.to_fill:
      lines.append(_comment(f'{name} =   # to fill in: {report.to_fill[name]}'))
    else:
      lines.append(f'{name} = {value}')
  lines += [
    '',
    '[grader]',
    f'script = {toml_value(task.grader.script)}',
    f'number_columns = {toml_value(list(task.grader.number_columns))}',
    f'by_rows = {toml_value(task.grader.by_rows)}',
    '',
    '[limits]',
  ]
  for field in dataclasses.fields(task.limits):
    value = getattr(task.limits, field.name)
    if value != field.default:
      lines.append(f'{field.name} = {toml_value(value)}')
  lines += ['', '[files]']
  lines += [f'{toml_value(k)} = {toml_value(v)}' for k, v in task.files.items()]
  return '\n'.join(lines) + '\n'


def toml_value(value) -> str:
  """A TOML value; texts of several lines keep them."""
  if isinstance(value, str) and '\n' in value:
    plain = value.isprintable() or all(
      c.isprintable() or c in '\n\t' for c in value
    )
    if plain and "'''" not in value and not value.endswith("'"):
      return f"'''\n{value}'''"
  # JSON's texts, numbers, lists and booleans are TOML's, but for DEL.
  return json.dumps(value, ensure_ascii=False).replace('\x7f', '\\u007f')


def _comment(text: str) -> str:
  # Scripts and messages may hold what a comment must not.
  return '# ' + ''.join(c if c.isprintable() else ' ' for c in text)


def _some(names) -> str:
  shown = list(names)
  return ', '.join(shown[:5]) + (', …' if len(shown) > 5 else '')

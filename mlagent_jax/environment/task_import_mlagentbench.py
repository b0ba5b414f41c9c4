"""Reads MLAgentBench tasks (arXiv 2310.03302; MLAgentBench/benchmarks/NAME).

  env/                         the workspace: scripts, texts and data
  scripts/research_problem.txt what the agent is told
  scripts/eval.py              get_score(submission_folder) -> float
  scripts/prepare.py           brings the data into env/ and the answers into
                               scripts/; run with scripts/ as its folder
  scripts/prepared             is there once it was run
  scripts/read_only_files.txt  patterns of what agents may not write

Data become ./data, read-only for certain; links stand where they were, so
that scripts find them under their old names.
"""

import fnmatch
import pathlib
import shutil

from mlagent_jax.environment import task_import_mlagentbench_grader as stand_in
from mlagent_jax.environment.sandbox import Sandbox
from mlagent_jax.environment.task_folder import TaskError
from mlagent_jax.environment.task_import_source import (
  Source,
  Staged,
  check_function,
  make_workspace,
  our_name,
  read_text,
  run_prepare,
  small_files,
)

# What an agent works on; every other file of env/ is data.
_WORK = ('.py', '.ipynb', '.sh', '.md', '.txt', '.rst', '.yaml', '.yml')
_MAX_WORK_BYTES = 2**18
_SAMPLES = ('sample_submission.csv', 'sampleSubmission.csv')
_PREPARE = """
import os, runpy
os.chdir('scripts')
runpy.run_path('prepare.py', run_name='__main__')
"""


def read(folder: pathlib.Path, entry: str = '') -> Source:
  """Reads and checks a task's folder.

  Args:
    folder: holds env/ and scripts/.
    entry: the script of env/ that makes the submission; '' looks for it.

  Raises:
    TaskError: names the file and what is not right with it.
  """
  env, scripts = folder / 'env', folder / 'scripts'
  for needed in (env, scripts):
    if not needed.is_dir():
      raise TaskError(f'{needed}: there is no such folder')
  problem = read_text(scripts / 'research_problem.txt')
  check_function(scripts / 'eval.py', 'get_score')
  if 'submission.csv' not in read_text(scripts / 'eval.py'):
    raise TaskError(
      f'{scripts / "eval.py"}: never names submission.csv: what it grades (a'
      ' model, a folder) cannot be carried over'
    )
  patterns, notes = _patterns(scripts), []
  starter = {
    path: file
    for path, file in _files(env).items()
    if not _is_data(env, path, patterns)
  }
  code = {path: env / path for path in starter if path.endswith('.py')}
  skip = ('prepare.py', 'prepared', 'research_problem.txt')
  files = small_files(scripts, (*skip, 'read_only_files.txt'), notes)
  # Tables are answers: they are shown to grading runs alone.
  grader = {
    f'scripts/{path}': file
    for path, file in files.items()
    if file.suffix != '.csv'
  }
  grader |= {f'env/{path}': file for path, file in code.items()}
  grader['grade.py'] = pathlib.Path(stand_in.__file__)
  if any(path.startswith('data/') for path in starter):
    notes.append('env/data/: its scripts and texts are read-only, as data')
  return Source(
    name=our_name(folder.name),
    title=folder.name.replace('_', ' ').replace('-', ' '),
    description=problem,
    origin=f'MLAgentBench (arXiv 2310.03302), task {folder.name}',
    grader=grader,
    facts={'from': 'mlagentbench', 'task': folder.name},
    starter={k: v for k, v in starter.items() if not k.startswith('data/')},
    entry=_entry(env, code, entry),
    notes=tuple(notes),
  )


def stage(
  facts: dict,
  grader: pathlib.Path,
  data: pathlib.Path,
  work: pathlib.Path,
  public: pathlib.Path,
  sandbox: Sandbox,
) -> Staged:
  """Brings a task's data into `public` and a folder of its own.

  Args:
    facts: of `Source`.
    grader: our folder of the task's code.
    data: the task's folder, with env/ and scripts/.
    work: an empty folder that outlives the result.
    public: an empty folder.
    sandbox: where the task's prepare.py runs, if it has to.

  Raises:
    TaskError: if preparing the data fails, or gives none.
  """
  del grader
  scripts = work / 'scripts'
  with make_workspace() as name:
    workspace = pathlib.Path(name)
    for part in ('env', 'scripts'):
      if not (data / part).is_dir():
        raise TaskError(f'{data / part}: there is no such folder')
      shutil.copytree(data / part, workspace / part)
    script = data / 'scripts' / 'prepare.py'
    if script.is_file() and not (data / 'scripts' / 'prepared').exists():
      run_prepare(
        ('python', '-c', _PREPARE),
        workspace,
        sandbox,
        script,
        f'If it downloads its data, run it once yourself: cd {script.parent}'
        ' && python prepare.py && touch prepared; then import again.',
      )
    shutil.copytree(workspace / 'scripts', scripts)
    links = _move_data(workspace / 'env', public, _patterns(scripts))
  if not any(public.iterdir()):
    raise TaskError(f'{data / "env"}: holds no data')
  sample = next((s for s in _SAMPLES if (public / s).is_file()), '')
  return Staged(_answers(scripts), sample, links)


def _patterns(scripts: pathlib.Path) -> list[str]:
  file = scripts / 'read_only_files.txt'
  if not file.is_file():
    return []
  lines = file.read_text(encoding='utf-8').splitlines()
  return [line.strip() for line in lines if line.strip()]


def _files(env: pathlib.Path) -> dict[str, pathlib.Path]:
  return {
    file.relative_to(env).as_posix(): file
    for file in sorted(env.rglob('*'))
    if file.is_file()
    and '__pycache__' not in file.parts
    and file != env / 'submission.csv'
  }


def _is_data(env: pathlib.Path, path: str, patterns: list[str]) -> bool:
  # Their patterns are matched against './name' and 'folder/name'.
  names = (path, f'./{path}')
  read_only = any(fnmatch.fnmatch(n, p) for n in names for p in patterns)
  file = env / path
  large = file.stat().st_size > _MAX_WORK_BYTES
  return read_only or large or file.suffix not in _WORK


def _move_data(
  env: pathlib.Path, public: pathlib.Path, patterns: list[str]
) -> dict[str, str]:
  """Moves data out of env/; the links that take their places."""
  links = {}
  data = [p for p in _files(env) if _is_data(env, p, patterns) or _in_data(p)]
  for path in data:
    inside = path.removeprefix('data/')
    target = public / inside
    if target.exists():
      raise TaskError(f'env/{path} and env/{inside} would be one file in data/')
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(env / path, target)
    if not _in_data(path):
      links[path] = '../' * path.count('/') + f'data/{path}'
  work = {path.split('/')[0] for path in _files(env)}
  for path in list(links):
    top, _, below = path.partition('/')
    if below and top not in work:  # a folder of nothing but data: one link
      del links[path]
      links[top] = f'data/{top}'
  return links


def _in_data(path: str) -> bool:
  return path.startswith('data/')


def _answers(scripts: pathlib.Path) -> pathlib.Path | None:
  """The table that eval.py names."""
  text = (scripts / 'eval.py').read_text(encoding='utf-8')
  named = [file for file in sorted(scripts.glob('*.csv')) if file.name in text]
  return named[0] if len(named) == 1 else None


def _entry(env: pathlib.Path, code: dict, entry: str) -> str:
  if entry:
    if entry not in code:
      raise TaskError(f'{env / entry}: the entry script is not there')
    return entry
  top = [path for path in code if '/' not in path]
  if 'train.py' in top:
    return 'train.py'
  if len(top) > 1:
    raise TaskError(
      f'{env}: has no train.py but {", ".join(top)}: say with --entry which of'
      ' them makes the submission'
    )
  return top[0] if top else ''

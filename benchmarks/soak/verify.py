"""The second half of a soak: every distinct step again, alone and uncached."""

import concurrent.futures
import hashlib
import json
import pathlib
import sys
import threading

import rich.progress

from benchmarks.soak import walks, worker
from mlagent_jax.environment.sandbox import make_sandbox

_THREADS = 4


def key(done: walks.Done) -> str:
  """What a step's result depends on."""
  text = json.dumps([done.task, done.before.tree, done.reply])
  return hashlib.sha256(text.encode()).hexdigest()


def result(outcome, after) -> dict:
  """What must be the same; seconds and what was printed may differ."""
  return {
    'kind': str(outcome.kind),
    'score': outcome.score,
    'test_score': outcome.test_score,
    'exit_code': outcome.exit_code,
    'tree': after.tree,
  }


def again(tasks, folder: pathlib.Path) -> None:
  """Takes each distinct step that ran a script again.

  Writes checks.jsonl: the step, what came of it, and what came of it now.
  """
  journal = walks.Journal(folder / 'steps.jsonl')
  distinct = {}
  for done in journal.steps.values():
    if done.outcome.exit_code is not None:
      distinct.setdefault(key(done), done)
  journal.close()
  known = {row['key'] for row in read(folder)}
  left = [one for one in distinct if one not in known]
  writing = threading.Lock()
  with (
    make_sandbox('docker') as sandbox,
    (folder / 'checks.jsonl').open('a') as file,
    concurrent.futures.ThreadPoolExecutor(_THREADS) as threads,
    rich.progress.Progress(disable=not sys.stderr.isatty()) as bar,
  ):
    environment = worker.open_environment(tasks, sandbox, folder, cached=False)
    shown = bar.add_task('again', total=len(left))

    def take(one: str) -> None:
      done = distinct[one]
      outcome, after = environment.step(done.task, done.before, done.reply)
      now = result(outcome, after)
      row = {'key': one, 'task': done.task, 'tag': done.tag, 'now': now}
      with writing:
        file.write(json.dumps(row) + '\n')
        file.flush()
      bar.advance(shown)

    list(threads.map(take, left))  # raises what one of them raised


def read(folder: pathlib.Path) -> list[dict]:
  """The rows of checks.jsonl, without a torn last line."""
  file = folder / 'checks.jsonl'
  if not file.exists():
    return []
  whole = file.read_bytes()
  whole = whole[: whole.rfind(b'\n') + 1]
  file.write_bytes(whole)
  return [json.loads(line) for line in whole.splitlines()]


def differences(folder: pathlib.Path) -> list[dict]:
  """Steps of the soak whose result is not that of the clean run."""
  clean = {row['key']: row['now'] for row in read(folder)}
  journal = walks.Journal(folder / 'steps.jsonl')
  journal.close()
  found = []
  for done in journal.steps.values():
    now = clean.get(key(done))
    then = result(done.outcome, done.after)
    if now is not None and now != then:
      found.append({'walk': done.walk, 'index': done.index, 'tag': done.tag})
      found[-1] |= {'task': done.task, 'then': then, 'now': now}
  return found

import concurrent.futures
import dataclasses
import shutil

import pytest

from mlagent_jax.environment import cache, execution, grading, workspace
from mlagent_jax.environment.blobs import BlobStore
from mlagent_jax.environment.records import (
  OutcomeKind,
  SandboxUnavailable,
  StoppedBy,
)

SUBMIT = """
import csv
ids = [row['id'] for row in csv.DictReader(open('data/test.csv'))]
with open('submission.csv', 'w') as file:
  file.write('id,y\\n' + ''.join(f'{name},1\\n' for name in ids))
"""


@pytest.fixture
def executions(tmp_path):
  return cache.ExecutionCache(tmp_path / 'executions')


@pytest.fixture
def run(line_task, process_sandbox, store, executions):
  """Runs a script, beside other files, and judges it."""

  def run(script, *, use=executions, files=(), **limits):
    task = dataclasses.replace(
      line_task, limits=dataclasses.replace(line_task.limits, **limits)
    )
    entries = {}
    for path, content in {'train.py': script, **dict(files)}.items():
      entries = workspace.with_file(entries, path, content.encode(), store)
    tree = workspace.write_tree(entries, store)
    ran = execution.execute(tree, 'train.py', task, process_sandbox, store, use)
    verdict = execution.judge(ran, task, store, must_submit=True)
    kept = workspace.read_tree(ran.tree, store)
    texts = {
      path: store.get(e.content).decode()
      for path, e in kept.items()
      if e.kind == 'file'
    }
    return ran, verdict, texts

  return run


def test_a_good_script_is_scored_and_not_run_twice(run, executions):
  ran, verdict, texts = run(SUBMIT)
  assert verdict.kind is OutcomeKind.EXECUTED
  # |2 x - 1| over x = 1…19, and over x = 20…40.
  assert verdict.scores == grading.Scores(19.0, 59.0)
  assert list(texts) == ['train.py']
  again, verdict_again, _ = run(SUBMIT)
  assert again == dataclasses.replace(ran, cached=True)
  assert verdict_again == verdict
  assert (executions.hits, executions.misses) == (1, 1)
  for changed in (
    {'seconds': 11},
    {'files': {'other': 'x'}},
    {'use': None},
  ):
    assert not run(SUBMIT, **changed)[0].cached


def test_the_key_has_all_that_matters(run, line_task, process_sandbox):
  key = execution._key
  parts = ('tree', ('python', 'a.py'), line_task, process_sandbox)
  keys = {key(*parts), key('other', *parts[1:])}
  keys.add(key('tree', ('python', 'b.py'), line_task, process_sandbox))
  files = {**line_task.files, 'public/test.csv': 'f' * 64}
  other_data = dataclasses.replace(line_task, files=files)
  keys.add(key(*parts[:2], other_data, process_sandbox))

  class Other:
    identity = 'docker: sha256:…'

  keys.add(key(*parts[:3], Other()))
  assert len(keys) == 5


def test_failures(run):
  ran, verdict, _ = run('print("so far")\n1 / 0')
  assert verdict.kind is OutcomeKind.SCRIPT_FAILED
  assert 'so far' in ran.completed.output
  # The folder it ran in has another name each time; the agent sees none.
  assert 'File "train.py", line 2' in ran.completed.output
  assert run('print("so far")\n1 / 0')[0].cached
  assert run('pass')[1].kind is OutcomeKind.MISSING_SUBMISSION
  assert run('syntax error')[1].kind is OutcomeKind.SCRIPT_FAILED
  _, verdict, _ = run('open("submission.csv", "w").write("id,y\\nr1,1\\n")')
  assert verdict.kind is OutcomeKind.REFUSED_SUBMISSION
  assert '39 of 40 ids are missing' in verdict.message
  _, verdict, _ = run('import os; os.symlink("data/x", "submission.csv")')
  assert verdict.kind in (
    OutcomeKind.REFUSED_SUBMISSION,
    OutcomeKind.MISSING_SUBMISSION,
  )
  _, verdict, _ = run('import os; os.mkdir("submission.csv")')
  assert verdict.kind is OutcomeKind.REFUSED_SUBMISSION


def test_a_stale_submission_scores_nothing(run):
  files = {'submission.csv': 'id,y\n' + ''.join(f'r{i},2\n' for i in range(9))}
  ran, verdict, texts = run('print(1)', files=files)
  assert ran.stale
  assert verdict.kind is OutcomeKind.STALE_SUBMISSION
  assert 'submission.csv' not in texts
  found = run('import os; print(os.path.exists("submission.csv"))', files=files)
  assert found[0].completed.output == 'False\n'
  assert run(SUBMIT, files=files)[1].kind is OutcomeKind.EXECUTED
  # The stale file is not part of the key, but each run is told apart.
  assert run('print(1)')[1].kind is OutcomeKind.MISSING_SUBMISSION


def test_what_a_limit_ended_is_run_again(run, executions):
  ran, verdict, _ = run(
    'print("on", flush=True)\nwhile True: pass', seconds=0.6
  )
  assert verdict.kind is OutcomeKind.TIME_LIMIT
  assert ran.completed.output == 'on\n'
  assert not run('print("on", flush=True)\nwhile True: pass', seconds=0.6)[
    0
  ].cached
  greedy = 'x = []\nwhile True: x.append(bytearray(10**7))'
  ran, verdict, _ = run(greedy, memory_mb=128)
  assert ran.completed.stopped_by is StoppedBy.MEMORY
  assert verdict.kind is OutcomeKind.MEMORY_LIMIT
  run('import os; os.kill(os.getpid(), 9)')
  assert not run('import os; os.kill(os.getpid(), 9)')[0].cached
  assert executions.hits == 0


def test_a_run_keeps_its_files_but_scripts_stay_as_they_were(run):
  script = SUBMIT + (
    'import os, shutil\n'
    'os.makedirs("made/deep")\n'
    'open("made/deep/x.txt", "w").write("new")\n'
    'open("notes.txt", "a").write("more")\n'
    'os.remove("old.txt")\n'
    'open("train.py", "w").write("hacked")\n'
    'shutil.rmtree("lib")\n'
    'open("lib", "w").write("a file now")\n'
    'os.remove("helper.py")\n'
    'os.mkdir("helper.py")\n'
    'open("helper.py/y", "w").write("y")\n'
    'open("third.py", "w").write("z = 1")\n'
    'os.makedirs("__pycache__", exist_ok=True)\n'
    'open("__pycache__/x.pyc", "w").write("x")\n'
  )
  files = {
    'notes.txt': 'some ',
    'old.txt': 'x',
    'lib/a.py': 'a = 1',
    'helper.py': 'h = 1',
  }
  ran, verdict, texts = run(script, files=files)
  assert verdict.kind is OutcomeKind.EXECUTED, ran.completed.output
  assert texts == {
    'train.py': script,
    'helper.py': 'h = 1',
    'lib/a.py': 'a = 1',
    'made/deep/x.txt': 'new',
    'notes.txt': 'some more',
    'third.py': 'z = 1',
  }


def test_a_run_that_fails_leaves_nothing(run):
  _, _, texts = run('open("half", "w").write("x")\n1 / 0')
  assert list(texts) == ['train.py']


def test_a_run_that_leaves_too_much_keeps_nothing_and_says_so(run):
  script = SUBMIT + 'import os\nos.makedirs("/".join("d" * 40))\n'
  ran, verdict, texts = run(script)
  assert verdict.kind is OutcomeKind.EXECUTED
  assert list(texts) == ['train.py']
  assert 'nested deeper than 32' in ran.notes[0]


def test_scratch_folders_are_gone(run, tmp_path, line_task, store):
  scratch = tmp_path / 'scratch'
  scratch.mkdir()

  class Broken:
    identity = 'broken'

    def run(self, *_, **__):
      raise SandboxUnavailable('no daemon')

  tree = workspace.write_tree({}, store)
  with pytest.raises(SandboxUnavailable):
    execution.execute(
      tree, 'train.py', line_task, Broken(), store, scratch=scratch
    )
  assert not list(scratch.iterdir())


def test_one_key_at_once_is_run_once(run, executions):
  script = 'import time; time.sleep(0.3)\n' + SUBMIT
  with concurrent.futures.ThreadPoolExecutor(4) as threads:
    results = list(threads.map(lambda _: run(script), range(4)))
  assert sorted(ran.cached for ran, _, _ in results) == [
    False,
    True,
    True,
    True,
  ]
  assert len({verdict.scores for _, verdict, _ in results}) == 1
  assert not list((executions.folder / 'locks').iterdir())


def test_damaged_or_incomplete_records_are_made_again(run, executions, store):
  ran, _, _ = run(SUBMIT)
  (record,) = executions.folder.glob('records/??/*')
  record.chmod(0o644)
  record.write_text(record.read_text()[:-9])
  assert not run(SUBMIT)[0].cached
  assert run(SUBMIT)[0].cached
  # What this store has lost the cache still has.
  store.path(ran.submission).unlink()
  assert run(SUBMIT)[0].cached
  store.path(ran.submission).unlink()
  (
    executions.folder / 'blobs' / ran.submission[:2] / ran.submission[2:]
  ).unlink()
  assert not run(SUBMIT)[0].cached


def test_runs_with_stores_of_their_own_share_a_cache(
  run, line_task, process_sandbox, executions, tmp_path
):
  script = SUBMIT + 'open("made.txt", "w").write("new")\n'
  ran, verdict, _ = run(script)
  other = BlobStore(tmp_path / 'other')
  tree = workspace.write_tree(
    workspace.with_file({}, 'train.py', script.encode(), other), other
  )
  cached = execution.execute(
    tree,
    'train.py',
    line_task,
    process_sandbox,
    other,
    cache.ExecutionCache(executions.folder),
  )
  assert cached == dataclasses.replace(ran, cached=True)
  workspace.restore_tree(cached.tree, other, tmp_path / 'restored')
  assert (tmp_path / 'restored' / 'made.txt').read_text() == 'new'
  again = execution.judge(cached, line_task, other, must_submit=True)
  assert again == verdict


def test_a_disk_that_may_not_do_for_a_run_is_no_outcome(run):
  free_mb = shutil.disk_usage('/').total // 2**20
  with pytest.raises(SandboxUnavailable, match='MiB left, a run there may'):
    run(SUBMIT, workspace_mb=100 * free_mb)


def test_a_workspace_that_cannot_be_made_is_no_outcome(
  line_task, process_sandbox, store, tmp_path
):
  tree = workspace.write_tree({}, store)
  with pytest.raises(SandboxUnavailable, match='no workspace can be made'):
    execution.execute(
      tree,
      'train.py',
      line_task,
      process_sandbox,
      store,
      scratch=tmp_path / 'missing',
    )

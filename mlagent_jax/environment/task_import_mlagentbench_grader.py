"""Grades with the eval.py of an MLAgentBench task.

Stands alone: an imported task holds a copy of it as grader/grade.py, beside
the task's scripts/ and the code of its env/. It runs in sandboxes only.

An eval.py is called as its authors' harness does: from the folder scripts/,
with ../env beside it and the answers in its own folder.
"""

import importlib.util
import os
import pathlib
import shutil
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent


def grade(submission: pathlib.Path, answers: pathlib.Path) -> float:
  """The task's score.

  Args:
    submission: folder that holds submission.csv.
    answers: folder of the files that eval.py finds beside itself.
  """
  with tempfile.TemporaryDirectory() as folder:
    scripts = pathlib.Path(folder, 'scripts')
    shutil.copytree(HERE / 'scripts', scripts)
    shutil.copytree(HERE / 'env', pathlib.Path(folder, 'env'))
    if answers.is_dir():
      shutil.copytree(answers, scripts, dirs_exist_ok=True)
    before = os.getcwd(), list(sys.path)
    os.chdir(scripts)
    sys.path.insert(0, str(scripts))
    try:
      spec = importlib.util.spec_from_file_location(
        'mlagentbench_eval', scripts / 'eval.py'
      )
      module = importlib.util.module_from_spec(spec)
      spec.loader.exec_module(module)
      return float(module.get_score(str(submission)))
    finally:
      os.chdir(before[0])
      sys.path[:] = before[1]

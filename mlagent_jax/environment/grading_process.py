"""Runs a task's own grader: the program of a grading run, inside a sandbox.

Stands alone: the host copies this file into the run's workspace. It imports
grader/SCRIPT and calls, for each part ('validation', 'test', or 'whole'),

  grade(submission: pathlib.Path, answers: pathlib.Path) -> float

with the folder that holds submission.csv and the folder of that part's
answers, and writes one line of JSON to the file result.json:

  {"scores": {part: score}}      all went well
  {"refused": text}              `grade` raised an error whose class, or a base
                                 of it, is called InvalidSubmissionError
  {"failed": type, "text": text} `grade` raised something else

What the grader prints goes to the run's output, never into the result: it may
quote the submission.
"""

import importlib.util
import json
import pathlib
import sys
import traceback

RESULT = 'result.json'
GRADER = 'grader'
SUBMISSIONS = 'submissions'
_REFUSAL = 'InvalidSubmissionError'


def main(script: str, *parts: str) -> None:
  """Grades all parts and writes the result.

  Args:
    script: a file in the folder grader/.
    *parts: names of folders in submissions/ and in data/.
  """
  result = _grade(script, parts)
  pathlib.Path(RESULT).write_text(json.dumps(result), encoding='utf-8')


def _grade(script: str, parts: tuple[str, ...]) -> dict:
  top = pathlib.Path.cwd()
  scores = {}
  try:
    sys.path.insert(0, str(top / GRADER))
    spec = importlib.util.spec_from_file_location(
      'grader', top / GRADER / script
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for part in parts:
      answers = top / 'data' / part
      score = module.grade(top / SUBMISSIONS / part, answers)
      scores[part] = float(score)
  except Exception as error:  # noqa: BLE001 - reported, and judged by the host
    traceback.print_exc()
    names = [base.__name__ for base in type(error).__mro__]
    if _REFUSAL in names:
      return {'refused': str(error)}
    return {'failed': type(error).__name__, 'text': str(error)}
  return {'scores': scores}


if __name__ == '__main__':
  main(*sys.argv[1:])

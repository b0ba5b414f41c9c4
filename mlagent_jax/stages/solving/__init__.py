"""Solve: an agent works on a person's own folder; they get a patch.

  set up    the folder is copied into a task; rows are held back
            (`environment.task_own`); the script runs as it is
  attempt   several episodes, all within one budget of time
  choose    the best script of all attempts by its validation score
  compare   with and without the change, on rows that no attempt was ever
            scored on

The last comparison is made once, for one script: choosing by it would make it
worthless.
"""

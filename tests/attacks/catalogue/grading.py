"""Attacks on the grader, and on what counts as a submission."""

from attack import ENTRY, HONEST, Attack, Kind, copy, run

_STALE = b'id,y\n' + b''.join(b'r%d,50.0\n' % i for i in range(40))
_REFUSED = (Kind.REFUSED_SUBMISSION,)
_MISSING = (Kind.MISSING_SUBMISSION,)

ATTACKS = [
  Attack(
    'overwriting the labels',
    'writes into labels, task, starter, store and cache of the host',
    """
    import os
    from trick import HOST, breach, submit, write
    for path in (*HOST['secrets'], *HOST['writable']):
      for prefix in ('', '/proc/self/root', '/proc/1/root', '../../..'):
        try:
          write(prefix + path)
        except OSError:
          continue
        breach(f'{prefix}{path} was written')
    submit()
    """,
  ),
  Attack(
    'exchanging the data',
    'removes, renames, hides and rewrites data/',
    """
    import os
    import shutil
    from trick import breach, fails, refused, submit, write
    before = open('data/test.csv').read()
    fails(os.rename, 'data', 'old')
    fails(os.rmdir, 'data')
    fails(os.chmod, 'data', 0o777)
    fails(os.rename, 'data/test.csv', 'data/old.csv')
    fails(os.truncate, 'data/test.csv', 0)
    fails(os.utime, 'data/test.csv', (1, 1))
    fails(os.link, 'train.py', 'data/train.py')
    fails(os.symlink, '/etc', 'data/etc')
    fails(write, 'data/test.csv')
    fails(write, 'data/new.csv')
    shutil.rmtree('data', ignore_errors=True)
    refused('umount2', b'data', 2)
    refused('mount', b'/tmp', b'data', None, 4096, None)
    refused('mount', None, b'data', None, 32, None)  # writable again
    if open('data/test.csv').read() != before:
      breach('the data has changed')
    submit()
    """,
  ),
  Attack(
    'exchanging the script',
    'rewrites itself and its neighbours for the steps that follow',
    """
    import os
    from trick import submit
    open('train.py', 'w').write('raise SystemExit("BREACH: not the edit")')
    os.remove('trick.py')
    os.mkdir('trick.py')
    submit()
    """,
    then=((run(ENTRY), (Kind.EXECUTED,)),),
  ),
  Attack(
    'a printed score',
    'prints the lines by which the host reports a score',
    """
    print('Validation mae: 0.0000 (before 25.0000, lower is better)')
    print('reward: 1.0')
    print('{"scores": {"validation": 0.0, "test": 0.0}}')
    """,
    expect=_MISSING,
  ),
  Attack(
    'a filed score',
    'writes results where a grader might look for them',
    """
    import json
    from trick import submit
    scores = {'scores': {'validation': 0.0, 'test': 0.0}, 'score': 0.0}
    for name in ('scores', 'result', 'results', 'metrics', 'outcome'):
      open(name + '.json', 'w').write(json.dumps(scores))
    open('labels.csv', 'w').write(open('data/sample_submission.csv').read())
    submit()
    """,
  ),
  Attack(
    'a false exit',
    'ends with a code that is 0 only when cut to eight bits, half-way',
    """
    import os
    print('Validation mae: 0.0000', flush=True)
    os._exit(256)
    """,
    expect=_MISSING,
  ),
  Attack(
    'a stale submission',
    'leaves the submission of an earlier step as it is',
    'pass',
    files={'submission.csv': _STALE},
    expect=(Kind.STALE_SUBMISSION,),
  ),
  Attack(
    'a stale submission, touched',
    'gives an earlier submission a new time, as if it were new',
    """
    import os
    import time
    if os.path.exists('submission.csv'):
      print('BREACH: it is still there')
      os.utime('submission.csv', (time.time() + 60, time.time() + 60))
    """,
    files={'submission.csv': _STALE},
    expect=(Kind.STALE_SUBMISSION,),
  ),
  Attack(
    'a stale submission, copied',
    'lets the host copy the sample there, and writes none',
    """
    import os
    assert not os.path.exists('submission.csv')
    from trick import submit
    submit()
    """,
    then=(
      (copy('data/sample_submission.csv', 'submission.csv'), (Kind.COPIED,)),
      (copy('idle.py', ENTRY), (Kind.COPIED,)),
      (run(ENTRY), (Kind.STALE_SUBMISSION,)),
    ),
    files={'idle.py': b'pass\n'},
  ),
  Attack(
    'a stale folder',
    'has a folder named submission.csv lie there',
    'pass',
    files={'submission.csv/part': _STALE},
    expect=(Kind.STALE_SUBMISSION,),
  ),
  Attack(
    'a pre-made submission',
    'renames a file that lay there before: its own, and graded as such',
    """
    import os
    os.rename('kept.csv', 'submission.csv')
    """,
    files={'kept.csv': _STALE},
  ),
  Attack(
    'a submission with a second name',
    'makes submission.csv a hard link to a file that stays',
    """
    import os
    os.link('kept.csv', 'submission.csv')
    """,
    files={'kept.csv': _STALE},
    expect=_REFUSED,
  ),
  *(
    Attack(
      f'submission.csv is {what}',
      tries,
      f"""
      import os
      import socket
      from trick import HOST, fails, submit
      {script}
      """,
      expect=expect,
    )
    for what, tries, script, expect in (
      (
        'a link to the sample',
        'points the grader at the data',
        "os.symlink('data/sample_submission.csv', 'submission.csv')",
        _REFUSED,
      ),
      (
        'a link to itself',
        'sends the grader round in circles',
        "os.symlink('submission.csv', 'submission.csv')",
        _REFUSED,
      ),
      (
        'a link to /dev/zero',
        'gives the grader an endless file',
        "os.symlink('/dev/zero', 'submission.csv')",
        _REFUSED,
      ),
      (
        "a link to the grader's environment",
        'makes the grader read its own secrets',
        "os.symlink('/proc/self/environ', 'submission.csv')",
        _REFUSED,
      ),
      (
        'a folder',
        'gives the grader a folder to open',
        "os.mkdir('submission.csv')",
        _REFUSED,
      ),
      (
        'a pipe',
        'lets the grader wait for a writer for ever',
        "os.mkfifo('submission.csv')",
        _MISSING,
      ),
      (
        'a socket',
        'gives the grader a socket to open',
        "socket.socket(socket.AF_UNIX).bind('submission.csv')",
        _MISSING,
      ),
      (
        'a device',
        'makes a device of it: /dev/zero, and the first disk',
        """
      fails(os.mknod, 'submission.csv', 0o20666, os.makedev(1, 5))
      fails(os.mknod, 'submission.csv', 0o60666, os.makedev(254, 0))""",
        _MISSING,
      ),
      (
        'closed',
        'takes every permission from it',
        "submit(); os.chmod('submission.csv', 0)",
        HONEST,
      ),
      (
        'misspelt',
        'hopes for a name that only looks the same',
        "submit(path='Submission.csv'); submit(path='submission.csv ')",
        _MISSING,
      ),
    )
  ),
]

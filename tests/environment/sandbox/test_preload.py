"""A script that finds its libraries imported runs as it would by itself."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from mlagent_jax.environment import sandbox as sandboxes
from mlagent_jax.environment.records import SandboxUnavailable

MODULES = ('numpy', 'pandas', 'sklearn.linear_model')
KINDS = [
  'process',
  pytest.param('bubblewrap', marks=pytest.mark.bwrap),
]

# Each prints what it sees of how it was started, or fails in its own way.
SAME = {
  'arguments': """
    import os, sys
    print(sys.argv, sys.orig_argv[1:], sys.path[0] == os.getcwd())
    print(__name__, __file__ == os.path.abspath('train.py'), __package__)
    print(sorted(globals()), sys.flags)
    print(sys.modules['__main__'].__dict__ is globals())
    """,
  'environment': """
    import os, sys
    kept = {k: v for k, v in os.environ.items() if k not in ('HOME', 'TMPDIR')}
    print(sorted(kept.items()))
    print(os.path.exists(os.environ['HOME']), os.getcwd() == os.environ['HOME'])
    print(sys.stdin.read() == '', sys.stdout.encoding, sys.stdout.isatty())
    """,
  'rights': """
    import os
    print(os.getuid() == os.geteuid(), os.getgroups(), os.umask(0o77))
    for line in open('/proc/self/status'):
      if line.startswith(('Cap', 'NoNewPrivs', 'Seccomp')):
        print(line.strip())
    print(sorted(os.listdir('/proc/self/fd')))
    """,
  'limits': """
    import resource, os
    for name in sorted(n for n in dir(resource) if n.startswith('RLIMIT')):
      if name != 'RLIMIT_NPROC':
        print(name, resource.getrlimit(getattr(resource, name)))
    """,
  'signals': """
    import signal
    for number in sorted(signal.valid_signals()):
      try:
        print(number, signal.getsignal(number))
      except ValueError:
        pass
    print(signal.set_wakeup_fd(-1), signal.pthread_sigmask(0, []))
    """,
  'an exception': """
    import pandas as pd
    def inner():
      return pd.DataFrame({'a': [1]})['b']
    print('before')
    try:
      1 / 0
    except ZeroDivisionError:
      inner()
    """,
  'a mistake in the syntax': 'x = 1\nif x\n  print(x)\n',
  'a mistake in the indentation': 'x = 1\n  print(x)\n',
  'the end by a text': 'import sys\nsys.exit("no such thing")\n',
  'the end by a number': 'raise SystemExit(42)\n',
  'the end of the interpreter': """
    import atexit, threading, time
    atexit.register(print, 'goodbye')
    threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()
    print('main')
    """,
  'what is freed at the end': """
    import sys
    class Loud:
      def __init__(self, name):
        self.name = name
      def __del__(self):
        print('freed', self.name)
    class Cycle(Loud):
      def __init__(self, name):
        super().__init__(name)
        self.itself = self
    cycle = Cycle('a cycle')
    first, _second = Loud('first'), Loud('second')
    def function():
      return first
    """,
  'modules of its own': """
    import pathlib
    pathlib.Path('other.py').write_text(
      'class Loud:\\n  def __del__(self): print("freed")\\nloud = Loud()\\n'
    )
    import other
    """,
  'a file left open': """
    import os
    file = os.fdopen(os.dup(1), 'w')
    file.write('in the script')
    """,
  'a file left open in a library': """
    import os
    import numpy as np
    np.file = os.fdopen(os.dup(1), 'wb')
    np.file.write(b'in a library')
    """,
  'output of C': """
    import ctypes
    ctypes.CDLL(None).printf(b'from C')
    """,
  'output that cannot be written': """
    import os
    print('lost')
    os.close(1)
    """,
  'a failure at the end': """
    import atexit
    atexit.register(print, 'the other')
    atexit.register(lambda: 1 / 0)
    """,
  'a fork that goes on': """
    import os
    print('both', flush=True)
    if os.fork():
      os.wait()
      print('parent')
    else:
      print('child')
    """,
  'an exception that holds a file': """
    import os
    def fail():
      file = os.fdopen(os.dup(2), 'w')
      file.write('written')
      raise ValueError('no')
    fail()
    """,
  'a broken interpreter': """
    import gc, threading
    gc.collect = threading._shutdown = None
    print('still')
    """,
  'a failing thread': """
    import threading
    thread = threading.Thread(target=lambda: 1 / 0, name='t')
    thread.start()
    thread.join()
    """,
  'processes': """
    import multiprocessing
    def square(x):
      return x * x
    if __name__ == '__main__':
      for method in ('fork', 'spawn'):
        with multiprocessing.get_context(method).Pool(2) as pool:
          print(method, pool.map(square, range(4)))
    """,
  'joblib': """
    from joblib import Parallel, delayed
    print(Parallel(n_jobs=2)(delayed(abs)(x) for x in (-1, 2)))
    """,
  'threads of libraries': """
    import os
    import numpy as np
    import sklearn.linear_model
    from threadpoolctl import threadpool_info
    print(sorted({i['num_threads'] for i in threadpool_info()}))
    x = np.random.default_rng(0).normal(size=(300, 300))
    print(round(float(np.linalg.eigvalsh(x @ x.T).sum()), 3))
    """,
  'a fit': """
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5)); y = (x[:, 0] > 0) + (x[:, 1] > 0)
    model = LogisticRegression().fit(x, y)
    print(model.coef_.tolist())
    """,
  'its first frame': """
    import inspect
    print([frame.code_context for frame in inspect.stack()][:1])
    """,
  'orphans': """
    import os, subprocess, sys
    source = 'import os; os.fork() or os._exit(0)'
    for _ in range(40):
      subprocess.run([sys.executable, '-I', '-S', '-c', source], check=True)
    print('done')
    """,
  'a code like a signal': 'raise SystemExit(137)\n',
  'hashes': 'print({"a", "b", "c", "d"}, hash("x"))\n',
}


@pytest.fixture(scope='module', params=KINDS)
def pair(request):
  """One kind of sandbox, where scripts import, and where they need not."""
  with (
    sandboxes.make_sandbox(request.param) as plain,
    sandboxes.make_sandbox(request.param, preload=MODULES) as preloaded,
  ):
    yield plain, preloaded


@pytest.mark.parametrize('name', SAME)
def test_it_is_as_if_it_had_started_by_itself(pair, make_runner, name):
  plain, preloaded = pair
  run = make_runner(plain)
  options = {'memory_mb': 2048, 'seconds': 60, 'processes': 64}
  expected = run(SAME[name], 'one', '--two', **options)
  run.sandbox = preloaded
  found = run(SAME[name], 'one', '--two', **options)
  assert expected.output or expected.exit_code
  assert _without_addresses(found) == _without_addresses(expected)
  assert found.exit_code == expected.exit_code


def _without_addresses(done) -> str:
  return re.sub('0x[0-9a-f]+', '0x', done.output)


def test_its_libraries_are_imported(pair, make_runner):
  run = make_runner(pair[1])
  source = f"""
    import sys
    print([name in sys.modules for name in {MODULES}], 'warden' in sys.modules)
    """
  assert run(source).output == '[True, True, True] False\n'


def test_what_it_changes_ends_with_it(pair, make_runner):
  run = make_runner(pair[1])
  done = run("""
    import os
    import numpy as np
    np.mean = None
    os.environ['OMP_NUM_THREADS'] = '7'
    os.chdir('/')
    """)
  assert done.exit_code == 0
  done = run("""
    import os
    import numpy as np
    print(np.mean([1, 3]), os.environ['OMP_NUM_THREADS'], os.listdir())
    """)
  assert done.output == "2.0 1 ['train.py']\n"


def test_what_it_leaves_is_ended_on_a_busy_machine(pair, make_runner):
  run = make_runner(pair[1])
  busy = []
  try:
    for _ in range(4 * os.cpu_count()):
      busy.append(subprocess.Popen([sys.executable, '-c', 'while True: pass']))
    for _ in range(4):
      done = run(
        """
        import subprocess
        children = [subprocess.Popen(['sleep', '600']) for _ in range(8)]
        print('left')
        """,
        seconds=40,
      )
      assert (done.output, done.exit_code) == ('left\n', 0)
  finally:
    for process in busy:
      process.kill()
      process.wait()


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('preload', [(), ('json',)])
def test_a_host_that_ignores_interrupts_does_not_hand_that_on(
  kind, preload, make_runner
):
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    with sandboxes.make_sandbox(kind, preload=preload) as made:
      done = make_runner(made)(
        'import signal; print(signal.getsignal(signal.SIGINT))'
      )
  finally:
    signal.signal(signal.SIGINT, before)
  assert done.output == '<built-in function default_int_handler>\n'


def test_it_draws_numbers_of_its_own(pair, make_runner):
  run = make_runner(pair[1])
  source = (
    'import random, numpy as np\nprint(random.random(), np.random.rand())'
  )
  first, second = (run(source).output.split() for _ in range(2))
  assert len(first) == 2
  assert not set(first) & set(second)


def test_libraries_have_the_threads_of_the_limits(pair, make_runner):
  run = make_runner(pair[1])
  source = """
    import os
    from threadpoolctl import threadpool_info
    print({i['num_threads'] for i in threadpool_info()})
    """
  for cpus in (1.0, 2.0):
    done = run(source, cpus=cpus)
    assert done.output == f'{{{cpus:.0f}}}\n'


def test_other_programs_are_started(pair, make_runner):
  run = make_runner(pair[1])
  limits = dataclasses.replace(sandboxes.Limits(), seconds=20)
  for command, output, code in (
    (['python', '-c', 'import sys; print(sys.argv)'], "['-c']\n", 0),
    (['python', '-m', 'json.tool', '--help'], 'usage: ', 0),
    (['python', 'no-such.py'], "can't open file", 2),
    (['no-such-program'], 'no-such-program', 127),
  ):
    done = run.sandbox.run(command, run.workspace, limits)
    assert output in done.output
    assert done.exit_code == code


def test_it_is_named_in_the_list_of_processes(pair, make_runner):
  run = make_runner(pair[1])
  done = run("print(open('/proc/self/cmdline').read().split(chr(0))[1:4])", 'x')
  assert done.output == "['train.py', 'x', '']\n"


@pytest.mark.bwrap
def test_the_holder_of_the_sandbox_is_sealed(make_runner):
  with sandboxes.make_sandbox('bubblewrap', preload=['json']) as made:
    done = make_runner(made)("""
      import os
      for number in sorted(map(int, filter(str.isdigit, os.listdir('/proc')))):
        status = dict(
          line.split(':', 1) for line in open(f'/proc/{number}/status')
        )
        print(*(status[name].strip() for name in ('Name', 'Seccomp', 'CapPrm')))
      """)
  assert done.output.splitlines() == [
    f'{name} 2 {0:016x}' for name in ('bwrap', 'sleep', 'python')
  ]


def test_closing_does_not_wait_for_imports(make_runner):
  made = sandboxes.ProcessSandbox(preload=MODULES)
  run, refused = make_runner(made), []

  def attempt():
    with pytest.raises(SandboxUnavailable) as error:
      run('print(1)')
    refused.append(str(error.value))

  thread = threading.Thread(target=attempt)
  thread.start()
  while not made._helpers._helpers:
    time.sleep(0.001)
  (helper,) = made._helpers._helpers.values()
  while helper._process is None:
    time.sleep(0.001)
  made.close()
  assert helper._process is None
  thread.join(timeout=60)
  assert len(refused) == 1
  assert 'it was killed' in refused[0] or 'is closed' in refused[0]


def test_a_killed_helper_imports_again(make_runner):
  with sandboxes.make_sandbox('process', preload=['numpy']) as made:
    run = make_runner(made)
    assert run('print(1)').output == '1\n'
    (helper,) = made._helpers._helpers.values()
    os.kill(helper._process.pid, signal.SIGKILL)
    time.sleep(0.05)
    done = run('import sys; print("numpy" in sys.modules)')
    assert done.output == 'True\n'


@pytest.mark.parametrize('kind', KINDS)
def test_what_cannot_be_imported_is_said_and_scripts_run(
  make_runner, caplog, kind
):
  with sandboxes.make_sandbox(kind, preload=['json', 'numpi']) as made:
    assert make_runner(made)('print(1)').output == '1\n'
  assert "No module named 'numpi'" in caplog.text
  assert 'every script imports json, numpi itself' in caplog.text


def test_a_helper_that_cannot_import_any_more_is_no_outcome(make_runner):
  with sandboxes.ProcessSandbox(preload=['numpi']) as made:
    with pytest.raises(SandboxUnavailable, match="No module named 'numpi'"):
      make_runner(made)('print(1)')

"""The page in a real browser: opens, filters, steps, and runs nothing."""

import dataclasses
import json
import shutil
import time

import pytest

from mlagent_jax import trajectories
from mlagent_jax.environment import blobs, records, workspace
from mlagent_jax.stages import session
from mlagent_jax.stages.report import page, steps

ATTACKS = (
  '<script>window.hacked = 1</script>',
  '</script><script>window.hacked = 1</script>',
  '<img src=x onerror="window.hacked = 1">',
  '"><svg onload="window.hacked=1">',
  '<!--<script>',
  "{{ 7 * 7 }}{% raw %}'\u2028</style>",
)
Kind = records.OutcomeKind


def write_run(folder, count, length=4):
  """A run of `count` trajectories of two tasks by two agents."""
  store = blobs.BlobStore(folder / 'blobs')
  trees = []
  for number in range(7):
    script = f'import numpy\nprint({number})\n# {ATTACKS[number % 6]}\n'
    entry = workspace.Entry('file', 0o644, store.put(script.encode()))
    trees.append(workspace.write_tree({'train.py': entry}, store))
  stores = {
    agent: trajectories.TrajectoryStore(folder / 'evaluation' / agent)
    for agent in ('rl', 'random')
  }
  template = records.Outcome(Kind.LOOKED, ATTACKS[0])
  for number in range(count):
    agent = ('rl', 'random')[number % 2]
    task = ('ames', 'cells')[number // 2 % 2]
    made = []
    for place in range(length):
      before = records.Snapshot(trees[place % 7])
      edited = place % 2 == 0
      after = records.Snapshot(trees[(place + 1) % 7]) if edited else before
      outcome = dataclasses.replace(
        template,
        kind=Kind.EDITED if edited else Kind.SCRIPT_FAILED,
        observation=f'{ATTACKS[place % 6]} {number}',
        edited=edited,
        score=0.8 if edited else None,
        test_score=0.7 if edited else None,
        seconds=1.25,
      )
      reply = (
        f'Thought: step {place} of {number} {ATTACKS[number % 6]}\n'
        f'Action: Edit Script Lines\nAction Input: {ATTACKS[place % 6]}'
      )
      made.append(records.Step(before, reply, outcome, after))
    stores[agent].append(
      records.Trajectory(
        trajectory_id=f'{ATTACKS[number % 6]}-{number}',
        task=task,
        agent=agent,
        seed=number,
        ideas=(ATTACKS[1],),
        steps=tuple(made),
        ended_by='steps',
        seconds=3.0,
      )
    )
  rows = [
    {'stage': 'sft', 'step': i, 'seconds': i, 'loss': 1 / i}
    for i in range(1, 40)
  ]
  (folder / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, rows)))


@pytest.fixture
def browser():
  from selenium import webdriver

  options = webdriver.ChromeOptions()
  for argument in (
    '--headless=new',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--window-size=1280,900',
  ):
    options.add_argument(argument)
  options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
  service = webdriver.ChromeService(shutil.which('chromedriver'))
  with webdriver.Chrome(options=options, service=service) as driver:
    driver.set_page_load_timeout(120)
    yield driver


def open_page(browser, path):
  """Opens the page and waits until it is ready."""
  browser.get(path.as_uri())
  deadline = time.monotonic() + 120
  script = 'return document.documentElement.dataset.ready'
  while browser.execute_script(script) != 'yes':
    assert time.monotonic() < deadline, browser.get_log('browser')
    time.sleep(0.02)


def run(browser, script):
  return browser.execute_script(script)


def choose(browser, name, value):
  run(
    browser,
    f"const s = document.getElementById('f-{name}'); s.value = '{value}';"
    "s.dispatchEvent(new Event('change'))",
  )


@pytest.mark.chromium
def test_a_person_opens_filters_and_steps(browser, tmp_path):
  write_run(tmp_path, 40)
  written = page.write(tmp_path)
  assert (written.trajectories, written.steps) == (40, 160)
  open_page(browser, written.path)
  body = browser.find_element('tag name', 'body')

  def count():
    return browser.find_element('id', 'count').text

  def detail():
    return browser.find_element('id', 'detail').text

  assert count() == '160 of 160 steps'
  assert 'step 0 of 1' in detail()
  body.send_keys('j')
  assert 'step 1 of 1' in detail()
  body.send_keys('k')
  assert 'step 0 of 1' in detail()
  body.send_keys('l')
  assert 'step 0 of' in detail()
  assert 'step 0 of 1' not in detail()
  body.send_keys('h')
  assert 'step 0 of 1' in detail()
  # The diff is of the scripts that were there.
  marked = (
    "return [...document.querySelectorAll('.ln.{}')].map(l => l.innerText)"
  )
  assert any('print(0)' in line for line in run(browser, marked.format('del')))
  assert any('print(1)' in line for line in run(browser, marked.format('add')))
  choose(browser, 'task', 'cells')
  assert count() == '80 of 160 steps'
  choose(browser, 'agent', 'random')
  assert count() == '40 of 160 steps'
  choose(browser, 'kind', 'script_failed')
  assert count() == '20 of 160 steps'
  body.send_keys('/')
  browser.switch_to.active_element.send_keys('step 3 of 3 ')
  assert count() == '1 of 160 steps'
  browser.switch_to.active_element.send_keys('no such thing')
  assert 'No step matches' in detail()
  browser.switch_to.active_element.send_keys('\ue00c')  # Escape
  assert count() == '160 of 160 steps'
  run(browser, "document.getElementById('theme').click()")
  assert len(browser.get_screenshot_as_png()) > 20_000
  assert browser.get_log('browser') == []


@pytest.mark.chromium
def test_nothing_of_an_agent_runs(browser, tmp_path):
  write_run(tmp_path, 12)
  written = page.write(tmp_path)
  open_page(browser, written.path)
  for _ in range(12):
    browser.find_element('tag name', 'body').send_keys('j')
  shown = browser.find_element('id', 'detail').text
  assert 'script>' in shown or 'onerror' in shown or 'onload' in shown
  assert run(browser, 'return window.hacked') is None
  assert run(browser, "return document.querySelectorAll('img').length") == 0
  # Even what slipped into the page would not run: the policy forbids it.
  run(
    browser,
    "const s = document.createElement('script'); s.textContent ="
    "'window.hacked = 2'; document.body.append(s);"
    "const d = document.createElement('div'); d.innerHTML ="
    '\'<img src=x onerror="window.hacked = 3">\'; document.body.append(d)',
  )
  time.sleep(0.3)
  assert run(browser, 'return window.hacked') is None
  complaints = [entry['message'] for entry in browser.get_log('browser')]
  assert any('Content Security Policy' in text for text in complaints)


@pytest.mark.chromium
def test_ten_thousand_steps_open_quickly(browser, tmp_path):
  write_run(tmp_path, 100, length=100)
  written = page.write(tmp_path)
  assert written.steps == 10_000
  assert written.bytes < 3e6
  open_page(browser, written.path)
  # Milliseconds since it began to load; a third of a second when idle.
  assert run(browser, 'return performance.now()') < 10_000
  start = time.monotonic()
  choose(browser, 'task', 'cells')
  assert browser.find_element('id', 'count').text == '5,000 of 10,000 steps'
  assert time.monotonic() - start < 5
  rows = run(browser, "return document.querySelectorAll('.row').length")
  assert 5 < rows < 60  # those that can be seen, not all
  run(browser, "document.getElementById('list').scrollTop = 200000")
  time.sleep(0.3)
  assert (
    5 < run(browser, "return document.querySelectorAll('.row').length") < 60
  )


@pytest.mark.chromium
def test_a_phone_needs_no_sideways_scrolling(browser, tmp_path):
  write_run(tmp_path, 8)
  browser.execute_cdp_cmd(
    'Emulation.setDeviceMetricsOverride',
    {'width': 390, 'height': 844, 'deviceScaleFactor': 1, 'mobile': True},
  )
  open_page(browser, page.write(tmp_path).path)
  assert run(browser, 'return document.documentElement.scrollWidth') == 390


def test_the_page_names_nothing_outside_itself(tmp_path):
  write_run(tmp_path, 4)
  text = page.write(tmp_path).path.read_text()
  assert 'https://' not in text
  assert "default-src 'none'" in text
  for attack in ATTACKS[:4]:
    assert attack not in text


def test_a_run_that_has_only_begun_gives_a_page(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text(
    '{"stage": "sft", "step": 1, "seconds": 1, "loss": 2.0}\n'
  )
  text = page.write(tmp_path).path.read_text()
  assert 'No trajectories were recorded yet.' in text


def test_a_folder_without_a_run_is_refused(tmp_path):
  with pytest.raises(session.ConfigError, match='nothing'):
    page.write(tmp_path)
  with pytest.raises(session.ConfigError, match='no folder'):
    page.write(tmp_path / 'none')


def test_a_reply_is_split_as_the_protocol_says():
  reply = 'Thought: why\nAction: Edit Script Lines\nAction Input: a.py 1-2\n  x'
  assert steps.split_reply(reply) == (
    'why',
    'Edit Script Lines',
    'a.py 1-2\n  x',
  )
  assert steps.split_reply('no reply at all') == ('no reply at all', '', '')


def test_curves_keep_their_shape_at_any_length():
  rows = [{'stage': 'rl', 'step': i, 'kl': i / 2} for i in range(5000)]
  series = page.curves(rows)['rl']['kl']
  assert len(series) <= 400
  assert all(value == step / 2 for step, value in series)

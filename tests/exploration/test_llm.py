"""The endpoint client over real HTTP: answers, faults, brakes, accounts."""

import concurrent.futures
import socket

import endpoint_server
import pytest

from mlagent_jax.exploration import accounting, llm

ASK = [{'role': 'user', 'content': 'one two three four'}]


@pytest.fixture(autouse=True)
def _key(monkeypatch):
  monkeypatch.setenv('OPENAI_API_KEY', 'good')


def endpoint(served, ledger=None, **options):
  options = {'model': 'toy', 'base_url': served.url, 'timeout': 5, **options}
  return llm.Endpoint(llm.EndpointConfig(**options), ledger)


def test_answers_and_their_price():
  prices = accounting.Prices(prompt=2.0, completion=8.0, cached=1.0)
  with endpoint_server.serve(answer=lambda body: 'a b c') as served:
    model = endpoint(served, prices=prices)
    model.check()
    answers = model.complete(ASK, n=2, max_tokens=7, stop=['END'], seed=3)
  assert [a.text for a in answers] == ['a b c'] * 2
  # 4 prompt tokens of which 2 cached, 6 written.
  assert model.ledger.total.money == pytest.approx(
    (2 * 2 + 2 * 1 + 6 * 8) / 1e6
  )
  assert sum(a.money for a in answers) == pytest.approx(
    model.ledger.total.money
  )
  assert model.ledger.total.cached_tokens == 2
  (body,) = served.requests
  assert body['stop'] == ['END']
  assert (body['seed'], body['max_tokens'], body['n']) == (3, 7, 2)


def test_half_a_character_becomes_a_question_mark():
  with endpoint_server.serve(answer=lambda body: 'a \ud800 b') as served:
    (answer,) = endpoint(served).complete(ASK, max_tokens=7)
  assert answer.text == 'a ? b'


def test_passing_faults_are_tried_again():
  with endpoint_server.serve() as served:
    served.faults = [
      (429, {'error': {'message': 'slow down'}}, {'Retry-After': '0.01'}),
      (500, 'oops', {'Retry-After': '0.01'}),
    ]
    model = endpoint(served)
    (answer,) = model.complete(ASK, max_tokens=5)
  assert answer.text == 'fine'
  assert len(served.requests) == 3
  assert model.ledger.total.requests == 1


@pytest.mark.parametrize(
  'fault, message',
  [
    ((429, {'error': {'message': 'slow'}}, {}), 'rate limit or quota after 1'),
    ((500, {'error': {'message': 'broken'}}, {}), 'fails after 1 tries'),
    ((404, {'error': {'message': 'no'}}, {}), 'does not have this model'),
    ((400, {'error': {'message': 'context is 8'}}, {}), 'context is 8'),
    ((200, '{"choices": [', {}), 'sent what is no answer'),
    ((200, {'object': 'chat.completion', 'choices': []}, {}), '0 answers'),
  ],
)
def test_faults_that_stay_are_one_clear_error(fault, message):
  with endpoint_server.serve() as served:
    served.faults = [fault]
    with pytest.raises(llm.EndpointError, match=message):
      endpoint(served, max_retries=0).complete(ASK, max_tokens=5)


def test_start_up_finds_what_is_wrong(monkeypatch):
  with endpoint_server.serve(models=('big', 'small')) as served:
    with pytest.raises(llm.EndpointError, match="no model 'toy'.*big, small"):
      endpoint(served).check()
    monkeypatch.setenv('OPENAI_API_KEY', 'stolen')
    with pytest.raises(llm.EndpointError, match=r'refuses the key of \$OPENAI'):
      endpoint(served).check()
    monkeypatch.delenv('OPENAI_API_KEY')
    with pytest.raises(llm.EndpointError, match=r'set \$OPENAI_API_KEY'):
      endpoint(served)
  monkeypatch.setenv('OPENAI_API_KEY', 'good')
  with socket.socket() as unused:
    unused.bind(('127.0.0.1', 0))
    served.url = f'http://127.0.0.1:{unused.getsockname()[1]}/v1'
    with pytest.raises(llm.EndpointError, match='cannot be reached after 1'):
      endpoint(served, max_retries=0).check()


def test_an_empty_or_cut_answer_is_the_agents():
  with endpoint_server.serve(answer=lambda body: '') as served:
    served.finish_reason = 'length'
    (answer,) = endpoint(served).complete(ASK, max_tokens=5)
  assert (answer.text, answer.finish_reason) == ('', 'length')


def test_the_ceiling_holds_for_requests_at_the_same_time(tmp_path):
  prices = accounting.Prices(completion=1e6)  # one unit a token
  file = tmp_path / 'ledger.jsonl'
  with endpoint_server.serve(answer=lambda body: 'a b') as served:
    model = endpoint(
      served, accounting.Ledger(file, ceiling=10.0), prices=prices
    )
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
      tries = [
        threads.submit(model.complete, ASK, max_tokens=3) for _ in range(12)
      ]
      failed = [t for t in tries if t.exception() is not None]
    assert failed
    assert all(
      isinstance(t.exception(), accounting.CostCeilingError) for t in failed
    )
    spent = model.ledger.total.money
    assert spent == 2 * (12 - len(failed)) <= 10
    # A run that goes on knows what was spent.
    again = accounting.Ledger(file, ceiling=10.0)
    assert again.total == model.ledger.total
    with pytest.raises(accounting.CostCeilingError, match='Raise the ceiling'):
      endpoint(served, again, prices=prices).complete(ASK, max_tokens=9)


def test_a_server_that_does_not_count_is_charged_the_worst_case():
  with endpoint_server.serve() as served:
    served.usage = False
    model = endpoint(served, prices=accounting.Prices(completion=1e6))
    model.complete(ASK, max_tokens=5)
  assert model.ledger.total.money == 5


def test_ledger_drops_a_torn_line_and_refuses_a_damaged_one(tmp_path):
  file = tmp_path / 'ledger.jsonl'
  with accounting.Ledger(file).reserve(0) as settle:
    settle(accounting.Usage(requests=1, money=2.0))
  whole = file.read_bytes()
  file.write_bytes(whole + b'{"requests": 1, "mon')
  assert accounting.Ledger(file).total.money == 2.0
  assert file.read_bytes() == whole
  file.write_bytes(b'{"oops": 1}\n' + whole)
  with pytest.raises(ValueError, match=r'ledger.jsonl:1: damaged'):
    accounting.Ledger(file)


def test_rate_limit_never_lets_more_through_than_a_minute_allows():
  now, begun = [0.0], []

  def sleep(seconds):
    now[0] += seconds

  limit = accounting.RateLimit(
    requests=5, tokens=100, clock=lambda: now[0], sleep=sleep
  )
  for number in range(40):
    size = 5 + number % 7 * 10
    limit.wait(size)
    begun.append((now[0], size))
    now[0] += 1.0
  for start, _ in begun:
    window = [size for at, size in begun if start <= at < start + 60]
    assert len(window) <= 5
    assert sum(window) <= 100
  with pytest.raises(ValueError, match='101 tokens never fits'):
    limit.wait(101)

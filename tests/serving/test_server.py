"""The server as its own process, over HTTP, asked by the openai client."""

import concurrent.futures
import json
import signal
import socket
import time
import urllib.error
import urllib.request

import jax
import numpy as np
import openai
import pytest
from flax import nnx
from server_process import KEY, Server

from mlagent_jax import batching
from mlagent_jax.agent import tokenizer as tokenizer_lib
from mlagent_jax.exploration import chat as chat_lib
from mlagent_jax.model import layout
from mlagent_jax.model.logps import make_compute_logps
from mlagent_jax.serving import models, policy_chat
from mlagent_jax.stages import trained

# A busy machine may take minutes to compile.
pytestmark = pytest.mark.timeout(900)

SLOTS, WAITING, NEW_TOKENS = 4, 4, 600
MESSAGES = [
  {'role': 'system', 'content': 'You act.'},
  {'role': 'user', 'content': 'Thought: look\nAction: List Files'},
]


@pytest.fixture(scope='module')
def server(run_folder):
  made = Server(
    run_folder,
    '--chunk=4',
    f'--max_slots={SLOTS}',
    f'--max_waiting={WAITING}',
    f'--max_new_tokens={NEW_TOKENS}',
  )
  try:
    yield made.wait()
  finally:
    made.process.kill()
    made.process.wait()


def complete(server, **options):
  options = {'model': 'tiny-untrained', 'messages': MESSAGES, **options}
  return server.client.chat.completions.create(**options)


def streamed(chunks):
  """(texts, reasons, log-probabilities) of a stream's samples."""
  texts, reasons, logprobs = {}, {}, {}
  for chunk in chunks:
    for choice in chunk.choices:
      texts.setdefault(choice.index, '')
      texts[choice.index] += choice.delta.content or ''
      if choice.logprobs:
        found = [token.logprob for token in choice.logprobs.content]
        logprobs.setdefault(choice.index, []).extend(found)
      if choice.finish_reason:
        reasons[choice.index] = choice.finish_reason
  return texts, reasons, logprobs


def test_a_stream_says_what_a_whole_reply_says(server):
  options = {'seed': 3, 'n': 2, 'max_tokens': 30, 'logprobs': True}
  whole = complete(server, **options)
  again = complete(server, **options)
  chunks = list(
    complete(
      server, **options, stream=True, stream_options={'include_usage': True}
    )
  )
  texts, reasons, logprobs = streamed(chunks)
  assert len(chunks) > 10 and chunks[-1].usage == whole.usage
  assert whole.usage.completion_tokens <= 60
  for choice, other in zip(whole.choices, again.choices, strict=True):
    assert other.message.content == choice.message.content
    assert texts[choice.index] == choice.message.content
    assert reasons[choice.index] == choice.finish_reason
    found = [token.logprob for token in choice.logprobs.content]
    assert logprobs[choice.index] == found
  first, second = (choice.message.content for choice in whole.choices)
  assert first != second
  # Sample 0 of a seed is the same, however many are asked for.
  (alone,) = complete(server, seed=3, max_tokens=30).choices
  assert alone.message.content == first and alone.logprobs is None


def test_the_policy_without_http_says_the_same(server, run_folder):
  opened = models.open_model(run_folder, stage='', dtype='')
  with policy_chat.PolicyChat(
    opened, slots=4, prompt_tokens=60, answer_tokens=40
  ) as chat:
    for options in (
      {'seed': 3, 'n': 2},
      {'seed': 5, 'temperature': 0.7, 'stop': ['ct', 'zz']},
      {'temperature': 0.0},
    ):
      answers = chat.complete(MESSAGES, max_tokens=30, **options)
      reply = complete(server, max_tokens=30, **options)
      for answer, choice in zip(answers, reply.choices, strict=True):
        assert answer.text == choice.message.content
        assert answer.finish_reason == choice.finish_reason
      usage = reply.usage
      assert {a.prompt_tokens for a in answers} == {usage.prompt_tokens}
      assert sum(a.completion_tokens for a in answers) == (
        usage.completion_tokens
      )
    assert chat.count_tokens(MESSAGES) == usage.prompt_tokens
    assert chat.ledger.total.requests == 3
    with pytest.raises(chat_lib.TooLongError, match='at most 60.*has'):
      chat.complete([{'role': 'user', 'content': 'ab ' * 100}], max_tokens=5)


def test_stop_strings(server):
  (whole,) = complete(server, seed=5, max_tokens=40).choices
  text = whole.message.content
  stop = text[10:13]
  assert len(stop) == 3
  options = {'seed': 5, 'max_tokens': 40, 'stop': ['never there', stop]}
  (cut,) = complete(server, **options).choices
  assert cut.message.content == text[: text.index(stop)]
  assert cut.finish_reason == 'stop'
  texts, reasons, _ = streamed(complete(server, **options, stream=True))
  assert (texts[0], reasons[0]) == (cut.message.content, 'stop')


def test_logprobs_equal_the_teacher_forced_ones(server, run_folder):
  reply = complete(
    server,
    seed=1,
    n=3,
    max_tokens=12,
    temperature=0.8,
    top_p=0.9,
    logprobs=True,
    extra_body={'return_token_ids': True, 'top_k': 50},
  )
  run = trained.open_trained(run_folder)
  prompt = run.learner.tokenizer.encode_prompt(MESSAGES)
  actions = [choice.token_ids for choice in reply.choices]
  assert reply.usage.prompt_tokens == len(prompt)
  assert reply.usage.completion_tokens == sum(map(len, actions))
  batch = batching.group_layout(
    [prompt], [actions], prompt_length=len(prompt), action_length=12
  )
  compute = make_compute_logps(run.learner.graphdef, temperature=0.8)
  params = jax.device_get(run.params('untrained'))
  expected = np.asarray(compute(params, batch))[0]
  for choice, row in zip(reply.choices, expected, strict=True):
    found = [token.logprob for token in choice.logprobs.content]
    np.testing.assert_allclose(found, row[: len(found)], atol=1e-5)
    assert ''.join(token.token for token in choice.logprobs.content) == (
      choice.message.content
    )


def forced_logps(run_folder, prompt, tokens, temperature):
  """[A, V]: log-softmax of the whole vocabulary before each token."""
  run = trained.open_trained(run_folder)
  params = jax.device_get(run.params('untrained'))
  model = nnx.merge(run.learner.graphdef, params)
  row = np.array([[*prompt, *tokens]])
  positions = np.arange(row.size)[None]
  logits = model.logits(
    model(row, layout.Layout(positions, np.ones_like(positions)))
  )
  logits = np.asarray(logits, np.float64)[0, len(prompt) - 1 : -1] / temperature
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_top_logprobs_equal_the_teacher_forced_log_softmax(server, run_folder):
  options = {'seed': 4, 'n': 2, 'max_tokens': 9, 'temperature': 0.7}
  plain = complete(server, **options)
  options |= {'logprobs': True, 'top_logprobs': 6, 'top_p': 0.999999}
  options |= {'extra_body': {'return_token_ids': True}}
  reply = complete(server, **options)
  tokenizer = tokenizer_lib.load(run_folder / 'tokenizer')
  prompt = tokenizer.encode_prompt(MESSAGES)
  for choice, other in zip(reply.choices, plain.choices, strict=True):
    assert choice.message.content == other.message.content
    logps = forced_logps(run_folder, prompt, choice.token_ids, 0.7)
    order = np.argsort(-logps, axis=-1, kind='stable')
    told = choice.logprobs.content
    assert told
    for token, row, best in zip(told, logps, order):
      found = [rival.logprob for rival in token.top_logprobs]
      np.testing.assert_allclose(found, row[best[:6]], atol=1e-5)
      texts = [rival.token for rival in token.top_logprobs]
      assert texts == [tokenizer.decode([i]) for i in best[:6]]
  streamed_tops = {}
  for chunk in complete(server, **options, stream=True):
    for choice in chunk.choices:
      if choice.logprobs:
        streamed_tops.setdefault(choice.index, []).extend(
          choice.logprobs.content
        )
  for choice in reply.choices:
    assert streamed_tops[choice.index] == choice.logprobs.content


def test_top_logprobs_of_plain_completions(server, run_folder):
  tokenizer = tokenizer_lib.load(run_folder / 'tokenizer')
  prompt = tokenizer.encode_text('Thought: look\n')
  choice = server.client.completions.create(
    model='tiny-untrained', prompt=prompt, max_tokens=5, seed=6, logprobs=20
  ).choices[0]
  told = choice.logprobs
  assert len(told.tokens) == len(told.top_logprobs) > 0
  for text, logp, top in zip(
    told.tokens, told.token_logprobs, told.top_logprobs, strict=True
  ):
    # The drawn one is among them, whether it is likely or not.
    assert top[text] == pytest.approx(logp, abs=1e-6)
    assert 5 < len(top) <= 21


def test_plain_completions_take_texts_and_ids(server, run_folder):
  tokenizer = tokenizer_lib.load(run_folder / 'tokenizer')
  text = 'Thought: look\n'
  replies = [
    server.client.completions.create(
      model='tiny-untrained', prompt=prompt, max_tokens=9, seed=2, logprobs=1
    ).choices[0]
    for prompt in (text, tokenizer.encode_text(text))
  ]
  assert replies[0].text == replies[1].text
  assert ''.join(replies[0].logprobs.tokens) == replies[0].text
  assert max(replies[0].logprobs.token_logprobs) < 0


def test_requests_of_many_clients_are_decoded_together(server):
  options = [
    {'seed': n, 'temperature': n / 2, 'max_tokens': 150 + n} for n in range(4)
  ]
  alone = [complete(server, **each).choices[0] for each in options]
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    futures = [pool.submit(complete, server, **each) for each in options]
    most = 0
    while not all(future.done() for future in futures):
      most = max(most, server.health()['decoding'])
    together = [future.result().choices[0] for future in futures]
  assert most >= 2
  for one, other in zip(alone, together):
    assert one.message.content == other.message.content


def test_a_client_that_hangs_up_frees_its_slots(server):
  for stream in (True, False):
    body = {'model': 'tiny-untrained', 'messages': MESSAGES, 'n': SLOTS}
    body |= {'stream': stream, 'seed': 7}
    request = json.dumps(body).encode()
    with socket.create_connection(('127.0.0.1', server.port)) as connection:
      connection.sendall(
        b'POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n'
        + f'Authorization: Bearer {KEY}\r\n'.encode()
        + f'Content-Length: {len(request)}\r\n\r\n'.encode()
        + request
      )
      while server.health()['decoding'] < SLOTS:
        time.sleep(0.01)
    start = time.monotonic()
    while server.health()['decoding']:
      assert time.monotonic() - start < 10
      time.sleep(0.01)


@pytest.mark.parametrize(
  'options, kind, code, words',
  [
    ({'model': 'gpt-5'}, openai.NotFoundError, 'model_not_found', 'gpt-5'),
    (
      {'messages': [{'role': 'user', 'content': 'ab ' * 100}]},
      openai.BadRequestError,
      'context_length_exceeded',
      'at most 60 tokens; yours has',
    ),
    (
      {'max_tokens': NEW_TOKENS + 1},
      openai.BadRequestError,
      'invalid_value',
      f'from 1 to {NEW_TOKENS}',
    ),
    ({'messages': []}, openai.BadRequestError, 'invalid_value', 'messages'),
    ({'temperature': 3}, openai.BadRequestError, 'invalid_value', '0 to 2'),
    ({'stop': ['']}, openai.BadRequestError, 'invalid_value', 'stop'),
    (
      {'logprobs': True, 'top_logprobs': 21},
      openai.BadRequestError,
      'invalid_value',
      'from 0 to 20',
    ),
    (
      {'top_logprobs': 2},
      openai.BadRequestError,
      'invalid_value',
      'needs logprobs',
    ),
    (
      {'frequency_penalty': 1},
      openai.BadRequestError,
      'unsupported_parameter',
      'not supported',
    ),
    (
      {'extra_body': {'tempratur': 1}},
      openai.BadRequestError,
      'unknown_parameter',
      'tempratur',
    ),
    (
      {'n': SLOTS + WAITING + 1},
      openai.RateLimitError,
      'rate_limit_exceeded',
      f'at most {WAITING} may wait',
    ),
  ],
)
def test_errors(server, options, kind, code, words):
  with pytest.raises(kind, match=words) as caught:
    complete(server, **options)
  assert caught.value.code == code and caught.value.body['type']


def test_errors_below_the_client(server):
  def ask(path, body=None, key=KEY):
    headers = {'Authorization': f'Bearer {key}'}
    request = urllib.request.Request(server.url + path, body, headers)
    with pytest.raises(urllib.error.HTTPError) as caught:
      urllib.request.urlopen(request, timeout=30)
    return caught.value.code, json.load(caught.value)['error']

  status, error = ask('/v1/models', key='another')
  assert (status, error['code']) == (401, 'invalid_api_key')
  status, error = ask('/v1/chat/completions', b'{"model": ')
  assert (status, error['code']) == (400, 'invalid_json')
  status, error = ask('/v1/chat/completions', b'[]')
  assert status == 400 and 'JSON object' in error['message']
  assert ask('/v1/nothing')[0] == 404
  status, error = ask('/v1/chat/completions')
  assert status == 405 and 'GET' in error['message']
  assert [m.id for m in server.client.models.list()] == ['tiny-untrained']
  assert server.client.models.retrieve('tiny-untrained').object == 'model'


def test_a_signal_lets_what_runs_end_and_takes_nothing_new(server):
  """The last test: it ends the server."""
  stream = complete(server, seed=9, stream=True)
  next(stream)
  server.process.send_signal(signal.SIGTERM)
  with pytest.raises(openai.InternalServerError, match='shutting down'):
    for _ in range(100):
      complete(server, max_tokens=1)
  texts, reasons, _ = streamed(stream)
  assert texts[0] and reasons[0] in ('stop', 'length')
  assert server.process.wait(60) == 0

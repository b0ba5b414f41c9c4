"""A real HTTP server that speaks chat completions, with faults on demand."""

import contextlib
import http.server
import json
import threading


class Served:
  """What a test scripts and looks at.

  Attributes:
    answers: callable(request body) -> text, or a list of (status, body,
      headers) that are sent first, one a request.
    faults: such a list; each is used once.
    requests: bodies of the chat completions that arrived.
    keys: the keys that they carried.
  """

  def __init__(self, answer=lambda body: 'fine', models=('toy',), key='good'):
    self.answer, self.models, self.key = answer, models, key
    self.faults, self.requests, self.keys = [], [], []
    self.finish_reason = 'stop'
    self.usage = True
    self.url = ''


@contextlib.contextmanager
def serve(**options):
  """Yields a `Served` whose url answers until the end of the block."""
  served = Served(**options)

  class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_GET(self):  # noqa: N802
      if not self.authorised():
        return
      data = [{'id': name, 'object': 'model'} for name in served.models]
      self.send(200, {'object': 'list', 'data': data})

    def do_POST(self):  # noqa: N802
      length = int(self.headers['Content-Length'])
      body = json.loads(self.rfile.read(length))
      if not self.authorised():
        return
      served.requests.append(body)
      if served.faults:
        status, content, headers = served.faults.pop(0)
        self.send(status, content, headers)
        return
      texts = [served.answer(body) for _ in range(body.get('n') or 1)]
      choices = [
        {
          'index': index,
          'message': {'role': 'assistant', 'content': text},
          'finish_reason': served.finish_reason,
        }
        for index, text in enumerate(texts)
      ]
      prompt = sum(len(m['content'].split()) for m in body['messages'])
      written = sum(len(text.split()) for text in texts)
      answer = {
        'id': 'x',
        'object': 'chat.completion',
        'created': 0,
        'model': body['model'],
        'choices': choices,
      }
      if served.usage:
        answer['usage'] = {
          'prompt_tokens': prompt,
          'completion_tokens': written,
          'total_tokens': prompt + written,
          'prompt_tokens_details': {'cached_tokens': prompt // 2},
        }
      self.send(200, answer)

    def authorised(self):
      key = self.headers.get('Authorization', '').removeprefix('Bearer ')
      served.keys.append(key)
      if key == served.key:
        return True
      self.send(401, {'error': {'message': 'wrong key', 'code': 'bad_key'}})
      return False

    def send(self, status, content, headers=()):
      text = content if isinstance(content, str) else json.dumps(content)
      self.send_response(status)
      self.send_header('Content-Type', 'application/json')
      self.send_header('Content-Length', str(len(text.encode())))
      for name, value in dict(headers).items():
        self.send_header(name, value)
      self.end_headers()
      self.wfile.write(text.encode())

    def log_message(self, *args):
      pass

  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  served.url = f'http://127.0.0.1:{server.server_address[1]}/v1'
  thread = threading.Thread(target=server.serve_forever)
  thread.start()
  try:
    yield served
  finally:
    server.shutdown()
    server.server_close()
    thread.join()

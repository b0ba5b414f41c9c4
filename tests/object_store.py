"""A server of objects on this machine, with Google Cloud Storage's API.

It is gcp-storage-emulator and what that lacks and TensorStore builds on: an
object's generation beside its content, and reads and writes that depend on it.
Source: https://cloud.google.com/storage/docs/request-preconditions
"""

import contextlib
import http.server
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

BUCKET = 'bucket'


@contextlib.contextmanager
def serving() -> Iterator[dict[str, str]]:
  """The environment in which gs:// leads to a new server with one bucket."""
  with socket.socket() as listener:
    listener.bind(('127.0.0.1', 0))
    port = listener.getsockname()[1]
  address = f'http://127.0.0.1:{port}'
  with subprocess.Popen(
    [sys.executable, __file__, str(port)],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  ) as server:
    try:
      _wait_for(f'{address}/storage/v1/b/{BUCKET}', server)
      yield {
        'STORAGE_EMULATOR_HOST': address,
        'TENSORSTORE_GCS_HTTP_URL': address,
        # There are no credentials, and nobody to be asked for them.
        'GCE_METADATA_ROOT': '127.0.0.1:1',
        'NO_GCE_CHECK': 'true',
        'GOOGLE_CLOUD_PROJECT': 'test',
        'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',
      }
    finally:
      server.kill()


def _wait_for(address, server):
  deadline = time.monotonic() + 120
  while True:
    try:
      with urllib.request.urlopen(address, timeout=10):
        return
    except OSError:
      assert server.poll() is None, 'the server ended'
      assert time.monotonic() < deadline
      time.sleep(0.05)


def serve(port: int) -> None:
  """Serves until it is killed; one request at a time, so they are atomic."""
  from gcp_storage_emulator import exceptions, server
  from gcp_storage_emulator.handlers import objects

  def generation_of(request, storage):
    name = request.params.get('object_id') or request.query['name'][0]
    try:
      found = storage.get_file_obj(request.params['bucket_name'], name)
    except exceptions.NotFound:
      return '0'
    return found['generation']

  def conditional(handler):
    def handle(request, response, storage, *rest):
      of_upload = handler is objects.insert
      if of_upload and 'name' not in request.query:
        return handler(request, response, storage, *rest)
      generation = generation_of(request, storage)
      wanted = request.query.get('ifGenerationMatch', [generation])[0]
      unwanted = request.query.get('ifGenerationNotMatch', [''])[0]
      if wanted != generation:
        request.data  # noqa: B018 - what was sent is read to its end
        response.status = http.HTTPStatus.PRECONDITION_FAILED
        return None
      if unwanted == generation:
        response.status = http.HTTPStatus.NOT_MODIFIED
        return None
      if not of_upload:
        response['X-Goog-Generation'] = generation
      return handler(request, response, storage, *rest)

    return handle

  depends = (objects.get, objects.delete, objects.insert)
  server.HANDLERS = tuple(
    (
      route,
      {
        method: conditional(handler) if handler in depends else handler
        for method, handler in handlers.items()
      },
    )
    for route, handlers in server.HANDLERS
  )
  # Clients open dozens of connections at once.
  http.server.HTTPServer.request_queue_size = 128
  server.create_server('127.0.0.1', port, True, BUCKET).run()


if __name__ == '__main__':
  serve(int(sys.argv[1]))

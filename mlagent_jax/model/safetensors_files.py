"""Hugging Face's safetensors files, one tensor in memory at a time.

A file is 8 bytes (little-endian) with the length of the header, the header (a
JSON object: name -> dtype, shape, begin and end of its data, and __metadata__)
and the data. Source: https://github.com/huggingface/safetensors, README. The
library's own writer wants all tensors of a file at once; this one takes them
one by one, and can repeat a header byte for byte.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import ml_dtypes
import numpy as np

SINGLE_FILE = 'model.safetensors'
INDEX_FILE = 'model.safetensors.index.json'

DTYPES = {
  'F64': np.dtype(np.float64),
  'F32': np.dtype(np.float32),
  'F16': np.dtype(np.float16),
  'BF16': np.dtype(ml_dtypes.bfloat16),
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
# As the library's writer: the data starts at a multiple of 8.
_ALIGNMENT = 8
# What Hugging Face cuts checkpoints into.
SHARD_BYTES = 5 * 10**9


class WeightsError(ValueError):
  """Weights that are damaged, incomplete or not what their config says."""


@dataclasses.dataclass(frozen=True)
class Tensor:
  """What a header says of one tensor; begin and end count from the data."""

  dtype: str
  shape: tuple[int, ...]
  begin: int
  end: int


def parse_header(text: bytes, where: str) -> dict[str, Tensor]:
  """The tensors of a header, without its metadata.

  Raises:
    WeightsError: if the header is damaged, or has a dtype that is no float.
  """
  try:
    entries = json.loads(text)
    entries.pop('__metadata__', None)
    tensors = {
      name: Tensor(e['dtype'], tuple(e['shape']), *e['data_offsets'])
      for name, e in entries.items()
    }
  except (ValueError, KeyError, TypeError) as error:
    raise WeightsError(f'{where} has a damaged header: {error}') from error
  for name, tensor in tensors.items():
    if tensor.dtype not in DTYPES:
      raise WeightsError(
        f'{where}: tensor {name} has dtype {tensor.dtype}; only'
        f' {sorted(DTYPES)} are supported'
      )
    size = math.prod(tensor.shape) * DTYPES[tensor.dtype].itemsize
    if tensor.end - tensor.begin != size:
      raise WeightsError(
        f'{where}: tensor {name} has {tensor.end - tensor.begin} bytes, but'
        f' its shape {tensor.shape} asks for {size}'
      )
  return tensors


def make_header(
  tensors: Sequence[tuple[str, str, tuple[int, ...]]],
) -> bytes:
  """A header for (name, dtype code, shape) in the order of the data."""
  entries, begin = {'__metadata__': {'format': 'pt'}}, 0
  for name, dtype, shape in tensors:
    end = begin + math.prod(shape) * DTYPES[dtype].itemsize
    entries[name] = {
      'dtype': dtype,
      'shape': list(shape),
      'data_offsets': [begin, end],
    }
    begin = end
  text = json.dumps(entries, separators=(',', ':')).encode()
  return text + b' ' * (-len(text) % _ALIGNMENT)


def code_of(dtype) -> str:
  """'BF16' of bfloat16, and so on.

  Raises:
    WeightsError: if safetensors, as we use it, has no such dtype.
  """
  if np.dtype(dtype) not in _CODES:
    raise WeightsError(f'no dtype {dtype} in safetensors files of weights')
  return _CODES[np.dtype(dtype)]


class SafetensorsFolder(Mapping[str, np.ndarray]):
  """The tensors of a model's folder by name, read from disk when asked for.

  Arrays are memory maps: slicing one reads that part of the file alone.

  Attributes:
    headers: file name -> its header, as it stands in the file.
    index: the text of the index file; None where there is a single file.
  """

  def __init__(self, folder: pathlib.Path):
    """Reads the headers of all files.

    Raises:
      WeightsError: if files are missing or damaged, or disagree with the
        index; the message names the file and the tensor.
    """
    self.headers: dict[str, bytes] = {}
    self.index = None
    self._folder = folder
    self._places: dict[str, tuple[str, int, Tensor]] = {}
    index = folder / INDEX_FILE
    if index.is_file():
      self.index = index.read_text(encoding='utf-8')
      try:
        mapped = json.loads(self.index)['weight_map']
      except (ValueError, KeyError) as error:
        raise WeightsError(f'{index} is damaged: {error!r}') from error
      files = list(dict.fromkeys(mapped.values()))
    elif (folder / SINGLE_FILE).is_file():
      mapped, files = None, [SINGLE_FILE]
    else:
      raise WeightsError(f'{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}')
    for file in files:
      self._read_header(file)
    if mapped is not None:
      self._check_index(mapped)

  def _read_header(self, file: str):
    path = self._folder / file
    if not path.is_file():
      raise WeightsError(f'{path} is missing, but {INDEX_FILE} names it')
    with path.open('rb') as opened:
      length = int.from_bytes(opened.read(8), 'little')
      rest = path.stat().st_size - 8
      if not 0 < length <= rest:
        raise WeightsError(f'{path} is no safetensors file, or is cut short')
      text = opened.read(length)
    self.headers[file] = text
    for name, tensor in parse_header(text, str(path)).items():
      if tensor.end > rest - length:
        raise WeightsError(
          f'{path} is cut short: tensor {name} ends at byte {tensor.end} of'
          f' {rest - length}'
        )
      if name in self._places:
        other = self._places[name][0]
        raise WeightsError(f'tensor {name} is in {other} and in {file}')
      self._places[name] = (file, 8 + length, tensor)

  def _check_index(self, mapped):
    for name in sorted(mapped.keys() | self._places.keys()):
      file = self._places[name][0] if name in self._places else None
      if mapped.get(name) != file:
        raise WeightsError(
          f'tensor {name}: {INDEX_FILE} says {mapped.get(name)}, but it is in'
          f' {file}'
        )

  def __getitem__(self, name: str) -> np.ndarray:
    file, data, tensor = self._places[name]
    return np.memmap(
      self._folder / file,
      dtype=DTYPES[tensor.dtype],
      mode='r',
      offset=data + tensor.begin,
      shape=tensor.shape,
    )

  def __iter__(self) -> Iterator[str]:
    return iter(self._places)

  def __len__(self) -> int:
    return len(self._places)

  def dtype(self, name: str) -> np.dtype:
    """The dtype of a tensor, without reading it."""
    return DTYPES[self._places[name][2].dtype]


def write_file(
  path: pathlib.Path, header: bytes, read: Callable[[str], np.ndarray]
) -> None:
  """Writes a safetensors file, one tensor in memory at a time.

  Args:
    path: the file; it appears when it is whole.
    header: as of `make_header`, or of another file.
    read: name -> the tensor, in the shape that the header states; it is cast
      to the header's dtype.

  Raises:
    WeightsError: if a tensor has another shape than in the header.
  """
  tensors = parse_header(header, str(path))
  partial = path.with_suffix(path.suffix + '.partial')
  with partial.open('wb') as opened:
    opened.write(len(header).to_bytes(8, 'little'))
    opened.write(header)
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].begin):
      array = read(name)
      if array.shape != tensor.shape:
        raise WeightsError(
          f'{path}: tensor {name} has shape {array.shape}, its header says'
          f' {tensor.shape}'
        )
      opened.seek(8 + len(header) + tensor.begin)
      array = np.ascontiguousarray(array, DTYPES[tensor.dtype])
      opened.write(array.reshape(-1).view(np.uint8).data)
  partial.replace(path)


def shard_headers(
  tensors: Sequence[tuple[str, str, tuple[int, ...]]],
  shard_bytes: int = SHARD_BYTES,
) -> tuple[dict[str, bytes], str | None]:
  """Cuts tensors into files as Hugging Face does.

  Args:
    tensors: (name, dtype code, shape).
    shard_bytes: the most a file holds, unless a single tensor is larger.

  Returns:
    File name -> header, and the index's text (None for a single file).
  """
  shards, sizes = [[]], [0]
  for name, dtype, shape in tensors:
    size = math.prod(shape) * DTYPES[dtype].itemsize
    if shards[-1] and sizes[-1] + size > shard_bytes:
      shards.append([])
      sizes.append(0)
    shards[-1].append((name, dtype, shape))
    sizes[-1] += size
  if len(shards) == 1:
    return {SINGLE_FILE: make_header(shards[0])}, None
  files = {
    f'model-{i + 1:05d}-of-{len(shards):05d}.safetensors': shard
    for i, shard in enumerate(shards)
  }
  weight_map = {
    name: file for file, shard in files.items() for name, *_ in shard
  }
  index = {
    'metadata': {'total_size': sum(sizes)},
    'weight_map': dict(sorted(weight_map.items())),
  }
  headers = {file: make_header(shard) for file, shard in files.items()}
  return headers, json.dumps(index, indent=2) + '\n'

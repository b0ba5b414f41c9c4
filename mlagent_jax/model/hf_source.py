"""A model as it comes: a Hugging Face folder, or a GGUF file."""

import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Mapping

import numpy as np
from etils import epath

from mlagent_jax.model.config import ModelConfig
from mlagent_jax.model.gguf_file import GgufFile
from mlagent_jax.model.hf_config import config_from_hf
from mlagent_jax.model.safetensors_files import SafetensorsFolder, WeightsError

CONFIG_FILE = 'config.json'
# What holds weights, in any format; the rest of a folder goes along.
_WEIGHT_SUFFIXES = frozenset(
  {'.safetensors', '.bin', '.pt', '.pth', '.gguf', '.h5', '.msgpack', '.onnx'}
)


@dataclasses.dataclass(frozen=True)
class Source:
  """What `open_source` found.

  Attributes:
    path: the folder or the GGUF file.
    hf_config: its config.json.
    tensors: name -> array, read from disk when asked for; `dtype(name)` too.
    headers: safetensors file -> header, as it stands there; none for GGUF.
    side_files: what goes along: config, tokenizer, licence.
  """

  path: pathlib.Path
  hf_config: dict
  tensors: Mapping[str, np.ndarray]
  headers: Mapping[str, bytes]
  side_files: tuple[pathlib.Path, ...]

  def model_config(self, **overrides) -> ModelConfig:
    """See `config_from_hf`."""
    return config_from_hf(self.hf_config, **overrides)

  def transformers_path(self) -> dict[str, str]:
    """The arguments by which transformers' from_pretrained finds it."""
    if not isinstance(self.tensors, GgufFile):
      return {'pretrained_model_name_or_path': str(self.path)}
    return {
      'pretrained_model_name_or_path': str(self.path.parent),
      'gguf_file': self.path.name,
    }

  def write_side_files(self, folder: epath.Path) -> None:
    """Config, tokenizer and licence; those inside a GGUF file become files."""
    for file in self.side_files:
      (folder / file.name).write_bytes(file.read_bytes())
    if isinstance(self.tensors, GgufFile):
      import transformers

      tokenizer = transformers.AutoTokenizer.from_pretrained(
        **self.transformers_path()
      )
      with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        for file in pathlib.Path(scratch).iterdir():
          (folder / file.name).write_bytes(file.read_bytes())
      config = json.dumps(self.hf_config, indent=2) + '\n'
      (folder / CONFIG_FILE).write_text(config)


def open_source(path: str | pathlib.Path) -> Source:
  """Opens a Hugging Face folder, a GGUF file, or a folder with one GGUF file.

  Raises:
    WeightsError: if there is none of them, or it is damaged.
  """
  path = pathlib.Path(path)
  if path.is_dir() and not (path / CONFIG_FILE).is_file():
    found = sorted(path.glob('*.gguf'))
    if len(found) != 1:
      raise WeightsError(
        f'{path} has no {CONFIG_FILE}, and {len(found)} GGUF files; it is no'
        " folder of a Hugging Face model (a model's page on the Hub, cloned or"
        ' downloaded)'
      )
    path = found[0]
  if path.suffix == '.gguf' and path.is_file():
    tensors = GgufFile(path)
    return Source(path, tensors.hf_config, tensors, {}, ())
  if not path.is_dir():
    raise WeightsError(f'{path} is neither a folder nor a GGUF file')
  try:
    hf_config = json.loads((path / CONFIG_FILE).read_text(encoding='utf-8'))
  except ValueError as error:
    raise WeightsError(f'{path / CONFIG_FILE} is damaged: {error}') from error
  tensors = SafetensorsFolder(path)
  side_files = tuple(
    file
    for file in sorted(path.iterdir())
    if file.is_file()
    and file.suffix not in _WEIGHT_SUFFIXES
    and not file.name.startswith('.')
  )
  return Source(path, hf_config, tensors, tensors.headers, side_files)

"""Images of solar cells, some defective, from the package elpv-dataset."""

import io
import pathlib
import zipfile

import numpy as np
import PIL.Image

from mlagent_jax.environment import fetch, task_data

SHA256 = '85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c'
FOLDER = 'elpv_dataset/data'


def prepare(public: pathlib.Path, private: pathlib.Path) -> None:
  wheel = fetch.pypi('elpv-dataset', '1.0.0.post1', sha256=SHA256)
  images, defect = [], []
  with zipfile.ZipFile(wheel) as archive:
    for line in archive.read(f'{FOLDER}/labels.csv').decode().splitlines():
      name, probability, _ = line.split()
      content = io.BytesIO(archive.read(f'{FOLDER}/{name}'))
      images.append(shrink(np.asarray(PIL.Image.open(content).convert('L'))))
      defect.append(int(float(probability) > 0.5))
  task_data.write_task(
    public,
    private,
    inputs={'image': np.stack(images)},
    targets={'defect': defect},
    rows=task_data.split_rows_evenly(defect, test=875),
    sample={'defect': 0.5},
  )


def shrink(image: np.ndarray) -> np.ndarray:
  """The means of 5x5 pixels: [300, 300] -> [60, 60]."""
  sums = image.reshape(60, 5, 60, 5).sum(axis=(1, 3), dtype=np.int64)
  return (sums // 25).astype(np.uint8)

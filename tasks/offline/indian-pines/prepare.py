"""A hyperspectral image of farmland, from the Python package tensorly."""

import io
import pathlib
import zipfile

import numpy as np

from mlagent_jax.environment import fetch, task_data

SHA256 = '90becb3d28023638ec60d19fbf8d87735b4ce1537fe3eb881897d69e107b882d'
FOLDER = 'tensorly/datasets/data'
LEAST = 200  # pixels of a class


def prepare(public: pathlib.Path, private: pathlib.Path) -> None:
  wheel = fetch.pypi('tensorly', '0.10.0', sha256=SHA256)
  with zipfile.ZipFile(wheel) as archive:
    cube = read(archive, 'Indian_pines_corrected.npy')  # [145, 145, 200]
    crop = read(archive, 'Indian_pines_gt.npy')  # [145, 145], 0 unknown
  pixels = np.bincount(crop.ravel().astype(np.int64))
  known = [k for k in range(1, len(pixels)) if pixels[k] >= LEAST]
  row, column = np.nonzero(np.isin(crop, known))
  labels = crop[row, column].astype(np.int64)
  classes = [f'crop{k}' for k in known]
  names = np.array([f'crop{k}' for k in labels])
  # Places are not shown: a neighbour's label would be the answer.
  task_data.write_task(
    public,
    private,
    inputs={
      'spectrum': cube[row, column].astype(np.uint16),
      'around': around(cube)[row, column],
    },
    targets=task_data.one_hot(names, classes),
    train_targets={'label': names},
    rows=task_data.split_rows(len(names), test=round(0.7 * len(names))),
    sample=task_data.uniform(classes),
  )


def read(archive: zipfile.ZipFile, name: str) -> np.ndarray:
  return np.load(io.BytesIO(archive.read(f'{FOLDER}/{name}')))


def around(cube: np.ndarray) -> np.ndarray:
  """The mean of the 5x5 pixels around each, edges repeated; rounded down."""
  padded = np.pad(cube.astype(np.int64), ((2, 2), (2, 2), (0, 0)), mode='edge')
  height, width, _ = cube.shape
  sums = sum(
    padded[i : i + height, j : j + width] for i in range(5) for j in range(5)
  )
  return (sums // 25).astype(np.uint16)

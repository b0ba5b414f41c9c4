"""Patches of photos, made dirty; photos of Debian's mate-backgrounds.

The photos are not in any library that scripts can import (scikit-learn and
scikit-image carry photos of their own: those would be answers).
"""

import pathlib
import tempfile

import numpy as np
import PIL.Image

from mlagent_jax.environment import fetch, task_data

SHA256 = '7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04'
INNER = 'usr/share/backgrounds/mate/nature'
SIDE = 32  # pixels of a patch
# Photos of one part are in no other part.
PHOTOS = {'train': 5, 'validation': 3, 'test': 4}
PATCHES = {'train': 157, 'validation': 68, 'test': 150}


def prepare(public: pathlib.Path, private: pathlib.Path) -> None:
  archive = fetch.debian('mate-backgrounds', sha256=SHA256)
  with tempfile.TemporaryDirectory() as folder:
    fetch.unpack_debian(archive, pathlib.Path(folder))
    files = sorted((pathlib.Path(folder) / INNER).glob('*.jpg'))
    photos = [read(file) for file in files]
  random = np.random.RandomState(0)
  photos = [photos[i] for i in random.permutation(len(photos))]
  clean = {}
  for part, count in PHOTOS.items():
    clean[part] = cut(photos[:count], PATCHES[part], random)
    photos = photos[count:]
  dirty = {part: make_dirty(patches, random) for part, patches in clean.items()}
  task_data.write_npz(
    public / 'train.npz', {'dirty': dirty['train'], 'clean': clean['train']}
  )
  order = random.permutation(PATCHES['validation'] + PATCHES['test'])
  asked = np.concatenate([dirty['validation'], dirty['test']])[order]
  right = np.concatenate([clean['validation'], clean['test']])[order]
  split = np.where(order < PATCHES['validation'], 'validation', 'test')
  # A row of the submission is a line of a patch.
  ids = np.array([f'r{line:05d}' for line in range(len(order) * SIDE)])
  names = [f'pixel{column:02d}' for column in range(SIDE)]
  lines = right.reshape(-1, SIDE)
  task_data.write_npz(public / 'test.npz', {'id': ids, 'dirty': asked})
  task_data.write_csv(
    public / 'sample_submission.csv',
    {'id': ids} | {name: np.full(len(ids), 128) for name in names},
  )
  task_data.write_csv(
    private / 'labels.csv',
    {'id': ids, 'split': np.repeat(split, SIDE)}
    | dict(zip(names, lines.T, strict=True)),
  )


def read(file: pathlib.Path) -> np.ndarray:
  """Brightness, the means of 3x3 pixels: [height / 3, width / 3]."""
  image = PIL.Image.open(file)
  # The decoder's own brightness, the same in all of its versions.
  image.draft('L', image.size)
  pixels = np.asarray(image.convert('L')).astype(np.int64)
  height, width = pixels.shape[0] // 3, pixels.shape[1] // 3
  pixels = pixels[: height * 3, : width * 3].reshape(height, 3, width, 3)
  return (pixels.sum(axis=(1, 3)) // 9).astype(np.uint8)


def cut(photos, count: int, random: np.random.RandomState) -> np.ndarray:
  """The same number of patches of each photo, without empty ones."""
  patches = []
  for photo in photos:
    height, width = (size // SIDE for size in photo.shape)
    grid = photo[: height * SIDE, : width * SIDE]
    grid = grid.reshape(height, SIDE, width, SIDE).swapaxes(1, 2)
    grid = grid.reshape(-1, SIDE, SIDE)
    # A patch of sky has nothing to restore.
    spread = grid.reshape(len(grid), -1).max(axis=1) - grid.min(axis=(1, 2))
    grid = grid[spread >= 40]
    patches.append(grid[random.permutation(len(grid))])
  each = -(-count // len(photos))
  chosen = np.concatenate([some[:each] for some in patches])
  return chosen[random.permutation(len(chosen))[:count]]


def make_dirty(clean: np.ndarray, random: np.random.RandomState) -> np.ndarray:
  """A dark stain, Gaussian noise, then pixels of salt and pepper."""
  dirty = clean.astype(np.float64)
  grid = np.arange(SIDE)
  for patch in dirty:
    row, column = random.random_sample(2) * SIDE
    size = 4 + 6 * random.random_sample()
    distance = (grid[:, None] - row) ** 2 + (grid - column) ** 2
    patch *= 1 - 0.6 * np.exp(-distance / (2 * size**2))
  dirty += random.normal(scale=20, size=dirty.shape)
  chance = random.random_sample(dirty.shape)
  dirty[chance < 0.04] = 0
  dirty[chance > 0.96] = 255
  return np.clip(np.rint(dirty), 0, 255).astype(np.uint8)

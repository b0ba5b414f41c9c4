"""Fashion-MNIST, 28x28 images of clothes, from a Debian package."""

import gzip
import pathlib
import tempfile

import numpy as np

from mlagent_jax.environment import fetch, task_data

SHA256 = '39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0'
INNER = 'usr/share/datasets/fashion-mnist'


def prepare(public: pathlib.Path, private: pathlib.Path) -> None:
  archive = fetch.debian('dataset-fashion-mnist', sha256=SHA256)
  with tempfile.TemporaryDirectory() as folder:
    fetch.unpack_debian(archive, pathlib.Path(folder))
    files = pathlib.Path(folder) / INNER
    images = np.concatenate(
      [
        read(files / 'train-images-idx3-ubyte.gz', 16)[: 10_000 * 784],
        read(files / 't10k-images-idx3-ubyte.gz', 16)[: 5_000 * 784],
      ]
    )
    labels = np.concatenate(
      [
        read(files / 'train-labels-idx1-ubyte.gz', 8)[:10_000],
        read(files / 't10k-labels-idx1-ubyte.gz', 8)[:5_000],
      ]
    )
  rest = np.random.RandomState(0).permutation(10_000)
  task_data.write_task(
    public,
    private,
    inputs={'image': images.reshape(-1, 28, 28)},
    targets={'label': labels.astype(np.int64)},
    rows=task_data.with_validation(rest, np.arange(10_000, 15_000)),
    sample={'label': 0},
  )


def read(file: pathlib.Path, header: int) -> np.ndarray:
  """The bytes of an IDX file after its header."""
  return np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8)[header:]

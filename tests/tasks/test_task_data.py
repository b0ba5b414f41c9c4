"""Splits are disjoint and stated; files are the same bytes every time."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split

from mlagent_jax.environment import task_data


def test_test_rows_are_those_of_train_test_split():
  rows = task_data.split_rows(1000, test=250)
  _, expected = train_test_split(np.arange(1000), test_size=250, random_state=0)
  np.testing.assert_array_equal(rows.test, expected)
  assert [len(part) for part in rows] == [525, 225, 250]
  assert sorted(np.concatenate(rows)) == list(range(1000))


def test_even_split_keeps_the_share_of_each_label():
  labels = np.repeat(['a', 'b', 'c'], [600, 300, 30])
  rows = task_data.split_rows_evenly(labels, test=310)
  assert sorted(np.concatenate(rows)) == list(range(930))
  for label in 'abc':
    share = np.mean(labels == label)
    assert np.mean(labels[rows.test] == label) == pytest.approx(share, abs=0.01)


def write(folder, inputs, count=40):
  for name in ('public', 'private'):
    (folder / name).mkdir(parents=True)
  task_data.write_task(
    folder / 'public',
    folder / 'private',
    inputs=inputs,
    targets={'y': np.arange(count) * 1.5},
    rows=task_data.split_rows(count, test=10),
    sample={'y': 0.0},
  )
  return {
    file.relative_to(folder).as_posix(): hashlib.sha256(
      file.read_bytes()
    ).hexdigest()
    for file in folder.glob('*/*')
  }


def test_tables_join_on_ids_and_show_no_label(tmp_path):
  write(
    tmp_path, {'x': np.arange(40), 'text': [f'a "b", {i}' for i in range(40)]}
  )
  public = tmp_path / 'public'
  train, test = (pd.read_csv(public / f'{n}.csv') for n in ('train', 'test'))
  labels = pd.read_csv(tmp_path / 'private' / 'labels.csv')
  assert list(train.columns) == ['x', 'text', 'y']
  assert list(test.columns) == ['id', 'x', 'text']
  assert (train['y'] == train['x'] * 1.5).all()
  both = test.merge(labels, on='id')
  assert (both['y'] == both['x'] * 1.5).all()
  assert both['split'].value_counts().to_dict() == {'test': 10, 'validation': 9}
  assert sorted([*train['x'], *test['x']]) == list(range(40))
  assert all(test['text'] == [f'a "b", {x}' for x in test['x']])


def test_files_are_the_same_bytes_every_time(tmp_path):
  image = np.arange(40 * 4, dtype=np.uint8).reshape(40, 2, 2)
  first = write(tmp_path / 'a', {'image': image})
  assert first == write(tmp_path / 'b', {'image': image})
  # Written down once: a change of these bytes makes every checksum wrong.
  assert first['public/train.npz'] == (
    'c3caeac911e6cf1f77ec496c9cd1e7311b9d63ed1a84e94c178febfa6f9d58d8'
  )
  assert first['private/labels.csv'] == (
    '0e48e140eeb07fb3ff3b6d8eaadbcd2774a9c21b02d1887e6c0bfbeb4e137be2'
  )
  loaded = np.load(tmp_path / 'a' / 'public' / 'test.npz')
  assert loaded['image'].shape == (19, 2, 2)
  assert loaded['id'][0] == 'r00000'

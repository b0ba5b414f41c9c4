"""The stand-ins for MLE-bench's helpers, against their definitions."""

import pathlib

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from mlagent_jax.environment import (
  task_import_mlebench_grader as stand_in,
)

InvalidSubmissionError = stand_in.InvalidSubmissionError


def test_one_hot_tables():
  table = pd.DataFrame(
    {'key': [4, 2, 7], 'kind': ['b', 'a', 'b']}, index=[9, 5, 1]
  )
  found = stand_in.df_to_one_hot(table, 'key', 'kind', ['a', 'b', 'c'])
  assert found.columns.tolist() == ['key', 'a', 'b', 'c']
  assert found.index.tolist() == [9, 5, 1]
  assert found.to_numpy().tolist() == [[4, 0, 1, 0], [2, 1, 0, 0], [7, 0, 1, 0]]
  assert stand_in.is_one_hot_encoded(found[['a', 'b', 'c']].to_numpy())
  assert not stand_in.is_one_hot_encoded(np.array([[1, 1], [0, 1]]))
  assert not stand_in.is_one_hot_encoded(np.array([[0.5, 0.5]]))


def test_log_loss_inputs_are_aligned():
  answers = pd.DataFrame({'id': [2, 1], 'a': [1, 0], 'b': [0, 1]})
  submission = pd.DataFrame(
    {'b': [3.0, 1.0], 'id': [1, 2], 'a': [1.0, 1.0], 'more': [0, 0]}
  )
  found = stand_in.one_hot_dfs_to_log_loss_inputs(submission, answers)
  assert found['y_true'].tolist() == [[0, 1], [1, 0]]
  np.testing.assert_allclose(
    found['y_pred'], softmax([[1.0, 3.0], [1.0, 1.0]], axis=-1)
  )
  plain = stand_in.one_hot_dfs_to_log_loss_inputs(
    submission, answers, id_column='id', apply_softmax=False
  )
  assert plain['y_pred'].tolist() == [[1.0, 3.0], [1.0, 1.0]]
  # What is one-hot already is not softened.
  sure = stand_in.one_hot_dfs_to_log_loss_inputs(answers, answers)
  assert sure['y_pred'].tolist() == [[0, 1], [1, 0]]
  for wrong in (submission.drop(columns='a'), submission.assign(id=[1, 3])):
    with pytest.raises(InvalidSubmissionError):
      stand_in.one_hot_dfs_to_log_loss_inputs(wrong, answers)


def test_accuracy_and_auroc_inputs():
  answers = pd.DataFrame({'n': [1, 2, 3], 'y': [0, 1, 1]})
  submission = pd.DataFrame({'n': [3, 1, 2], 'y': [1.0, 0.25, 0.5]})
  found = stand_in.prepare_for_accuracy_metric(
    submission=submission, answers=answers, target_column='y', id_column='n'
  )
  assert found['y_true'].tolist() == [0, 1, 1]
  assert found['y_pred'].tolist() == [0.25, 0.5, 1.0]
  found = stand_in.prepare_for_auroc_metric(
    submission=submission, answers=answers, id_col='n', target_col='y'
  )
  assert found['y_score'].tolist() == [0.25, 0.5, 1.0]
  for wrong in (
    submission.assign(n=[3, 1, 9]),
    submission.iloc[:2],
    submission.drop(columns='y'),
    submission.assign(y=[0, 1, 2]),
    submission.assign(y=['a', 'b', 'c']),
  ):
    with pytest.raises(InvalidSubmissionError):
      stand_in.prepare_for_auroc_metric(wrong, answers, 'n', 'y')


def test_run_lengths_count_down_the_columns():
  mask = np.array([[0, 1, 0], [1, 1, 0]])  # columns: 01, 11, 00
  assert stand_in.rle_encode(mask) == [2, 3]
  assert stand_in.rle_decode('2 3', 2, 3).tolist() == mask.astype(bool).tolist()
  assert not stand_in.rle_decode('', 2, 3).any()
  generator = np.random.default_rng(0)
  for _ in range(20):
    mask = generator.random((4, 6)) < 0.5
    text = ' '.join(map(str, stand_in.rle_encode(mask.astype(int))))
    [again] = stand_in.rles_to_masks([text], [4], [6])
    np.testing.assert_array_equal(again, mask)
  for wrong in ('1', '3 1 1 1', '1 3 2 1', '0 2', '1 0', 'a b'):
    with pytest.raises(ValueError):
      stand_in.rle_decode(wrong, 2, 3)


def test_average_precision():
  precision = stand_in.average_precision_at_k
  assert precision({'a'}, ['b', 'a', 'a'], 5) == 1 / 2  # a hit counts once
  assert precision({'a', 'c'}, ['a', 'b', 'c'], 5) == (1 + 2 / 3) / 2
  assert precision({'a', 'c'}, ['b', 'a'], 1) == 0
  assert precision({'a', 'b', 'c'}, ['a', 'b'], 2) == 1
  mean = stand_in.mean_average_precision_at_k
  assert mean([{'a'}, {'b'}], [['a'], ['a', 'b']], k=5) == 0.75


def test_archives_and_tables(tmp_path):
  (tmp_path / 'in/deep').mkdir(parents=True)
  (tmp_path / 'in/deep/a.csv').write_text('x\n0.1\n')
  stand_in.compress(tmp_path / 'in', tmp_path / 'inner.zip')
  with pytest.raises(FileExistsError):
    stand_in.compress(tmp_path / 'in', tmp_path / 'inner.zip')
  (tmp_path / 'outer').mkdir()
  (tmp_path / 'inner.zip').rename(tmp_path / 'outer/inner.zip')
  stand_in.compress(tmp_path / 'outer', tmp_path / 'outer.zip')
  assert stand_in.is_compressed(tmp_path / 'outer.zip')
  stand_in.extract(tmp_path / 'outer.zip', tmp_path / 'out', recursive=True)
  table = stand_in.read_csv(tmp_path / 'out/deep/a.csv')
  assert table.x.tolist() == [0.1]
  (tmp_path / 'empty.csv').write_text('')
  assert stand_in.read_csv(tmp_path / 'empty.csv').empty
  (tmp_path / 'a.jsonl').write_text('# no\n{"a": 1}\n\n')
  assert stand_in.read_jsonl(tmp_path / 'a.jsonl', True) == [{'a': 1}]
  (tmp_path / 'b.jsonl').write_text('{"a": 1}\n{"a": 2}\n')
  assert stand_in.load_answers(tmp_path / 'b.jsonl') == [{'a': 1}, {'a': 2}]
  with pytest.raises(ValueError, match='unknown format'):
    stand_in.load_answers(pathlib.Path('a.parquet'))
  assert not stand_in.is_empty(tmp_path)

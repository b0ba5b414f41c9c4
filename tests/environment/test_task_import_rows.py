"""How the rows of imported tasks are split, without any of their code."""

import re

import pytest
from foreign_tasks import read_rows, write, write_rows
from sklearn.model_selection import train_test_split

from mlagent_jax.environment import task_import_rows

COUNT = 25


@pytest.fixture
def make(tmp_path):
  """Writes public files and answers, splits, and gives (split, folder)."""

  def run(train, test, answers, sample=None, files=(), name='answer.csv'):
    public, private = tmp_path / 'public', tmp_path / 'private'
    private.mkdir()
    write_rows(public / 'train.csv', train)
    write_rows(public / 'test.csv', test)
    write_rows(tmp_path / name, answers)
    if sample:
      write_rows(public / 'sample.csv', sample)
    write(public, dict(files))
    split = task_import_rows.split(
      public, private, tmp_path / name, 'sample.csv' if sample else ''
    )
    return split, tmp_path

  return run


def numbers(first=0, test=100):
  """(train, test, answers) with ids, one input x and a target y."""
  train = [[f'{n + first}', f'{n}.50', f'{n % 3}'] for n in range(COUNT)]
  asked = [[f'{n + test}', f'{n}', f'{n % 2}'] for n in range(6)]
  return (
    [['id', 'x', 'y'], *train],
    [['id', 'x'], *(row[:2] for row in asked)],
    [['id', 'y'], *([row[0], row[2]] for row in asked)],
  )


def test_validation_is_what_train_test_split_takes(make):
  train, test, answers = numbers()
  split, folder = make(train, test, answers)
  rest, taken = train_test_split(train[1:], test_size=0.1, random_state=0)
  assert split == task_import_rows.Split(
    'train', (), 'id', ('y',), ('y',), validation=3, test=6
  )
  assert read_rows(folder / 'private/answers/validation/answer.csv') == [
    ['id', 'y'],
    *([row[0], row[2]] for row in taken),
  ]
  kept = read_rows(folder / 'public/train.csv')
  assert kept[0] == train[0]
  assert sorted(kept[1:]) == sorted(rest)
  assert [row for row in train[1:] if row in kept] == kept[1:]  # file order
  asked = read_rows(folder / 'public/test.csv')
  assert asked[0] == ['id', 'x']
  expected = [*test[1:], *(row[:2] for row in taken)]
  assert sorted(asked[1:]) == sorted(expected)
  assert asked[1:] != expected  # in one random order
  # The test split is the source's, untouched.
  assert read_rows(folder / 'private/answers/test/answer.csv') == answers
  labels = read_rows(folder / 'private/labels.csv')
  assert labels[0] == ['id', 'split']
  assert {row[0] for row in labels[1:] if row[1] == 'test'} == {
    row[0] for row in answers[1:]
  }
  right = read_rows(folder / 'private/reference.csv')
  assert right[1:] == [[r[0], r[2]] for r in taken] + answers[1:]


def test_ids_that_clash_are_renamed_with_their_files(make):
  train, test, answers = numbers(first=1, test=1)  # ids from 1 in both
  files = {f'train/{n + 1}.txt': f'input {n}' for n in range(COUNT)}
  split, folder = make(train, test, answers, files=files)
  assert split.renamed
  assert split.how == 'train'
  asked = read_rows(folder / 'public/test.csv')
  ids = [row[0] for row in asked[1:]]
  assert len(set(ids)) == len(ids) == 9
  by_input = {row[1]: row[0] for row in asked[1:]}
  moved = sorted((folder / 'public/test').iterdir())
  assert len(moved) == 3
  for path in moved:
    number = path.read_text().removeprefix('input ')
    assert by_input[f'{number}.50'] == path.stem
  assert len(list((folder / 'public/train').iterdir())) == COUNT - 3


def test_classes_become_columns_and_samples_grow(make):
  kinds = ['ant', 'bee', 'cat']
  train = [['id', 'text', 'kind']]
  train += [[f'a{n}', f'text {n}', kinds[n % 3]] for n in range(COUNT)]
  answers = [['id', *kinds], ['t1', 1, 0, 0], ['t2', 0, 0, 1]]
  sample = [['id', *kinds], ['t2', 0.2, 0.2, 0.6], ['t1', 0.2, 0.2, 0.6]]
  test = [['id', 'text'], ['t1', 'x'], ['t2', 'y']]
  split, folder = make(train, test, answers, sample)
  assert split.how == 'train'
  assert split.target_columns == split.number_columns == tuple(kinds)
  by_id = {row[0]: row[2] for row in train[1:]}
  truth = read_rows(folder / 'private/answers/validation/answer.csv')
  assert truth[0] == ['id', *kinds]
  assert len(truth) == 4
  for name, *cells in truth[1:]:
    assert cells == [str(int(kind == by_id[name])) for kind in kinds]
  longer = read_rows(folder / 'public/sample.csv')
  asked = read_rows(folder / 'public/test.csv')
  assert [row[0] for row in longer[1:]] == [row[0] for row in asked[1:]]
  assert {tuple(row[1:]) for row in longer[1:]} == {('0.2', '0.2', '0.6')}


def test_rankings_and_words_are_no_numbers(make):
  train, test, answers = numbers()
  sample = [['id', 'y'], *([row[0], '0 1 2'] for row in answers[1:])]
  split, _ = make(train, test, answers, sample)
  assert split.target_columns == ('y',)
  assert split.number_columns == ()


def test_answers_that_repeat_the_inputs_are_no_targets(make):
  train, test, answers = numbers()
  full = [['id', 'x', 'y']]
  full += [[a[0], b[1], a[1]] for a, b in zip(answers[1:], test[1:])]
  split, folder = make(train, test, full)
  assert split.target_columns == ('y',)
  truth = read_rows(folder / 'private/answers/validation/answer.csv')
  assert truth[0] == ['id', 'x', 'y']


@pytest.mark.parametrize(
  ('files', 'why'),
  [
    ({'train.zip': 'PK'}, 'train.zip may repeat the labels'),
    ({'folds.csv': 'id,y\n0,1\n'}, 'folds.csv may repeat the labels'),
    ({'train_cleaned/1.png': ''}, 'train_cleaned may repeat the labels'),
    ({'train/cat.1.jpg': ''}, 'train/ holds no file for the row'),
  ],
)
def test_doubtful_files_leave_half_of_the_test_rows(make, files, why):
  train, test, answers = numbers()
  split, folder = make(train, test, answers, files=files)
  assert (split.how, split.validation, split.test) == ('answers', 3, 3)
  assert why in split.reasons[0]
  # The public files are as they were.
  assert read_rows(folder / 'public/train.csv') == train
  assert read_rows(folder / 'public/test.csv') == test
  parts = [
    read_rows(folder / f'private/answers/{part}/answer.csv')[1:]
    for part in ('validation', 'test')
  ]
  assert sorted(parts[0] + parts[1]) == sorted(answers[1:])


def test_harmless_files_do_not(make):
  files = {
    'description.md': 'about',
    'images/0.png': '',
    'test/100.txt': '',
    'weather.csv': 'day,rain\n1,2\n',
  }
  split, _ = make(*numbers(), files=files)
  assert split.how == 'train'


@pytest.mark.parametrize(
  ('change', 'why'),
  [
    (lambda a: [a[0], a[1], a[1]], 'the ids .id. in answer.csv are not unique'),
    (lambda a: [['id', 'split'], *a[1:]], 'none called "split"'),
    (lambda a: [['id'], *(row[:1] for row in a[1:])], 'one or more targets'),
    (lambda a: [['id', 'y'], ['1', '2', '3']], 'answer.csv, line 2: 3 fields'),
    (lambda a: [], 'answer.csv is empty'),
  ],
)
def test_answers_without_rows_are_graded_as_a_whole(make, change, why):
  train, test, answers = numbers()
  split, folder = make(train, test, change(answers))
  assert split.how == 'none'
  assert (split.id_column, split.target_columns) == ('', ())
  assert re.search(why, split.reasons[-1])
  assert (folder / 'private/answers/whole/answer.csv').is_file()
  assert not (folder / 'private/labels.csv').exists()


def test_other_formats_of_answers_are_graded_as_a_whole(make):
  split, folder = make(*numbers(), name='answers.jsonl')
  assert split.how == 'none'
  assert 'no CSV table but answers.jsonl' in split.reasons[0]
  assert (folder / 'private/answers/whole/answers.jsonl').is_file()


def test_a_label_that_is_not_in_train_is_not_guessed(make):
  train, test, answers = numbers()
  train = [['id', 'x', 'z'], *train[1:]]
  split, _ = make(train, test, answers)
  assert split.how == 'answers'
  assert "neither the column 'y' of the answers" in split.reasons[0]


def test_a_sample_of_another_test_set_gives_its_columns_only(make):
  train, test, answers = numbers()
  full = [[*row, 'note'] for row in answers]
  full[0][-1] = 'x2'
  train = [[*row, 'note'] for row in train]
  train[0][-1] = 'x2'
  sample = [['id', 'y'], ['7001', '0'], ['7002', '0']]
  split, folder = make(train, test, full, sample)
  assert split.how == 'train'
  assert split.stale_sample
  assert split.target_columns == ('y',)
  assert not (folder / 'public/sample.csv').exists()

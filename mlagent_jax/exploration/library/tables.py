"""What goes into the features of a table: rows, target, columns, encodings."""

from mlagent_jax.exploration.library.recipe import Recipe, Slot, frame


def _columns(
  family: str, text: str, value: str, needs: str = 'columns'
) -> Recipe:
  return Recipe(family, text, Slot.COLUMNS, (f'columns = {value}',), needs)


def _rows(family: str, text: str, change: str) -> Recipe:
  line = f"train = pd.read_csv('data/train.csv'){change}"
  return Recipe(family, text, Slot.ROWS, (line,), 'table')


def _target(family: str, text: str, value: str, needs: str) -> Recipe:
  return Recipe(family, text, Slot.TARGET, (f'y = {value}',), needs)


def _frame(family: str, text: str, value: str, *before: str) -> Recipe:
  return frame(family, text, value, *before, needs='columns')


def _both(family: str, text: str, change: str) -> Recipe:
  """The same encoding for training and new rows."""
  lines = (
    f'both = pd.concat([train, test])[columns]{change}',
    'x = {prepare}.fit_transform(both[: len(train)])',
    'x_test = {prepare}.transform(both[len(train) :])',
  )
  return Recipe(family, text, Slot.FRAME, lines, 'columns')


TABLES: tuple[Recipe, ...] = (
  _columns(
    'all-columns',
    'Use every numeric column.',
    "test.select_dtypes('number').columns",
  ),
  _columns(
    'all-columns',
    'Use every column.',
    "test.columns.drop('id')",
  ),
  _columns(
    'correlated-columns',
    'Use the numeric columns that correlate most with the target.',
    "train.select_dtypes('number').corrwith(y).abs().nlargest(12).index"
    ".drop('{target}')",
    'values columns',
  ),
  _columns(
    'correlated-columns',
    'Use every third numeric column.',
    "test.select_dtypes('number').columns[:40:3]",
    'labels columns',
  ),
  _columns(
    'varied-columns',
    'Use the numeric columns with many distinct values.',
    'test.nunique()[lambda n: n > 100].index'
    ".intersection(test.select_dtypes('number').columns)",
  ),
  _columns(
    'first-columns',
    'Use the leading 20 numeric columns.',
    "test.select_dtypes('number').columns[:20]",
  ),
  _columns(
    'first-columns',
    'Use the trailing 20 numeric columns.',
    "test.select_dtypes('number').columns[-20:]",
  ),
  _columns(
    'skewed-columns',
    'Leave out the most skewed numeric columns.',
    "test.select_dtypes('number').skew().abs().nsmallest(25).index",
  ),
  _columns(
    'column-names',
    'Use the columns whose names speak of size.',
    "[c for c in test if 'area' in c.lower() or 'sf' in c.lower()]",
  ),
  _columns(
    'word-columns',
    'Use only the columns of words.',
    "test.select_dtypes(exclude='number').columns.drop('id')",
  ),
  _both(
    'ordinal-encoding',
    'Encode words as numbers of categories.',
    ".apply(lambda c: c if c.dtype.kind in 'if' else pd.factorize(c)[0])",
  ),
  Recipe(
    'one-hot-encoding',
    'Encode words as indicator columns.',
    Slot.FRAME,
    (
      'both = pd.get_dummies(pd.concat([train, test])[columns])',
      'x = {prepare}.fit_transform(both[: len(train)])',
      'x_test = {prepare}.transform(both[len(train) :])',
    ),
    'columns',
  ),
  Recipe(
    'one-hot-encoding',
    'Encode the whole table, turning words into indicator variables.',
    Slot.FRAME,
    (
      'both = pd.get_dummies(pd.concat([train, test])[test.columns[1:]])',
      'x = {prepare}.fit_transform(both[: len(train)])',
      'x_test = {prepare}.transform(both[len(train) :])',
    ),
    'columns',
  ),
  _both(
    'frequency-encoding',
    'Replace each value by how often it occurs.',
    '.apply(lambda c: c.map(c.value_counts()))',
  ),
  _both('rank-features', 'Replace values by their ranks.', '.rank(pct=True)'),
  _both(
    'deviation-features',
    'Measure distances from the median of each column.',
    '.apply(lambda c: abs(c - c.median()))',
  ),
  _frame(
    'target-encoding',
    'Replace each value by the mean target of its rows.',
    '{rows}[columns].apply(lambda c: c.map(y.groupby(train[c.name]).mean()))',
  ),
  _frame(
    'log-features',
    'Take logarithms of the columns.',
    'log({rows}[columns])',
    'from numpy import log',
  ),
  _frame(
    'log-features',
    'Compress large values with a signed logarithm.',
    'arcsinh({rows}[columns])',
    'from numpy import arcsinh',
  ),
  _frame(
    'root-features',
    'Take cube roots of the columns.',
    'cbrt({rows}[columns])',
    'from numpy import cbrt',
  ),
  _frame(
    'squared-features',
    'Add squares of the columns.',
    "{rows}[columns].join({rows}[columns] ** 2, rsuffix='_squared')",
  ),
  _frame(
    'difference-features',
    'Use differences between neighbouring columns.',
    '{rows}[columns].diff(axis=1).fillna(0)',
  ),
  _frame(
    'ratio-features',
    'Divide every column by the first one.',
    '{rows}[columns].div({rows}[columns[0]], axis=0)',
  ),
  _frame(
    'row-statistics',
    'Add the mean and the largest value of each row.',
    '{rows}[columns].assign('
    'center={rows}[columns].mean(axis=1), top={rows}[columns].max(axis=1))',
  ),
  _frame(
    'value-clipping',
    'Clip values to the range of the middle rows.',
    '{rows}[columns].clip('
    'train[columns].quantile(0.02), train[columns].quantile(0.98), axis=1)',
  ),
  _frame(
    'imputation', 'Fill missing values with zero.', '{rows}[columns].fillna(0)'
  ),
  _frame(
    'rounding', 'Round values to whole numbers.', '{rows}[columns].round()'
  ),
  _rows(
    'duplicate-rows',
    'Use every row once.',
    '.drop_duplicates()',
  ),
  _rows('missing-rows', 'Use only rows without gaps.', '.dropna()'),
  _rows(
    'row-sampling',
    'Train on a random half of the rows.',
    '.sample(frac=0.5, random_state=0)',
  ),
  _rows(
    'row-sampling',
    'Resample the rows with replacement.',
    '.sample(frac=1, replace=True, random_state=0)',
  ),
  _target(
    'target-clipping',
    'Winsorise extreme values above a high quantile.',
    '{y}.clip(upper={y}.quantile(0.98))',
    'table values one',
  ),
  _target(
    'target-rounding',
    'Use rounded targets.',
    '{y}.round(-4)',
    'table values one',
  ),
  _target(
    'target-scaling',
    'Use units of thousands.',
    '{y} / 1000',
    'table values one',
  ),
  _target(
    'label-coding',
    'Encode the labels as numbers.',
    "{y}.astype('category').cat.codes",
    'labels',
  ),
)

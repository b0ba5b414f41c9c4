"""Changes of the features once they are built."""

from mlagent_jax.exploration.library.recipe import Recipe, Slot, transform


def _lines(family: str, text: str, *lines: str, needs: str = '') -> Recipe:
  return Recipe(family, text, Slot.TRANSFORM, lines, needs)


TRANSFORMS: tuple[Recipe, ...] = (
  transform(
    'feature-selection',
    'Keep the features that depend most on the target.',
    'feature_selection',
    'SelectPercentile',
    'SelectPercentile(percentile=50)',
    needs='classes',
  ),
  transform(
    'feature-selection',
    'Keep the features that a forest finds important.',
    'ensemble; feature_selection',
    'ExtraTreesClassifier; SelectFromModel',
    'SelectFromModel(ExtraTreesClassifier(random_state=0))',
    needs='classes',
  ),
  transform(
    'feature-selection',
    'Keep the features with a strong regression on the target.',
    'feature_selection',
    'SelectPercentile, f_regression',
    'SelectPercentile(f_regression, percentile=50)',
    needs='values one',
  ),
  transform(
    'feature-selection',
    'Keep the features that extra trees find important.',
    'ensemble; feature_selection',
    'ExtraTreesRegressor; SelectFromModel',
    'SelectFromModel(ExtraTreesRegressor(random_state=0))',
    needs='values dense',
  ),
  transform(
    'supervised-projection',
    'Use discriminant directions.',
    'discriminant_analysis',
    'LinearDiscriminantAnalysis',
    needs='dense classes',
  ),
  transform(
    'supervised-projection',
    'Use neighbourhood components.',
    'neighbors',
    'NeighborhoodComponentsAnalysis',
    'NeighborhoodComponentsAnalysis(10, max_iter=20, random_state=0)',
    needs='dense classes',
  ),
  transform(
    'text-weighting',
    'Weight counts by inverse document frequency.',
    'feature_extraction.text',
    'TfidfTransformer',
    'TfidfTransformer(sublinear_tf=True)',
    needs='text',
  ),
  transform(
    'topics',
    'Describe texts by latent topics.',
    'decomposition',
    'LatentDirichletAllocation',
    'LatentDirichletAllocation(20, max_iter=5, random_state=0)',
    needs='text',
  ),
  transform(
    'latent-semantics',
    'Compress texts into latent semantics of unit length.',
    'decomposition; pipeline; preprocessing',
    'TruncatedSVD; make_pipeline; Normalizer',
    'make_pipeline(TruncatedSVD(50, random_state=0), Normalizer())',
    needs='text',
  ),
  _lines(
    'outlier-removal',
    'Train without odd rows.',
    'from sklearn.ensemble import IsolationForest',
    'keep = IsolationForest(random_state=0).fit_predict(x) > 0',
    'x, y = x[keep], y[keep]',
  ),
  _lines(
    'noise-augmentation',
    'Use noisy copies too.',
    'import numpy as np',
    'noise = np.random.default_rng(0).normal(0, 0.1, x.shape)',
    'x, y = np.concatenate([x, x + noise]), np.concatenate([y, y])',
    needs='dense',
  ),
  _lines(
    'subsampling',
    'Use a thousand rows.',
    'x, y = x[:1000], y[:1000]',
  ),
  _lines(
    'feature-crossing',
    'Append the product of the first two features.',
    'import numpy as np',
    'x = np.column_stack([x, x[:, 0] * x[:, 1]])',
    'x_test = np.column_stack([x_test, x_test[:, 0] * x_test[:, 1]])',
    needs='dense',
  ),
  _lines(
    'feature-clipping',
    'Clip features three deviations from their mean.',
    'low, high = x.mean(0) - 3 * x.std(0), x.mean(0) + 3 * x.std(0)',
    'x, x_test = x.clip(low, high), x_test.clip(low, high)',
    needs='dense',
  ),
  _lines(
    'logarithms',
    'Take natural logarithms, whatever their arguments may be.',
    'from numpy import log',
    'x, x_test = log(x), log(x_test)',
    needs='dense',
  ),
  _lines(
    'roots',
    'Use square roots.',
    'x, x_test = abs(x) ** 0.5, abs(x_test) ** 0.5',
  ),
  _lines(
    'train-test-shift',
    'Center training and new rows apart.',
    'x, x_test = x - x.mean(axis=0), x_test - x_test.mean(axis=0)',
  ),
)

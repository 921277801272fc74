#!/usr/bin/env bash
# Builds the package quickly into a virtual environment under target/, and tests it. Needs Rust, and a package index.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=target/venv
[ -x $venv/bin/python ] || python3 -m venv $venv
$venv/bin/pip install --quiet --disable-pip-version-check maturin mypy numpy pillow pytest
VIRTUAL_ENV=$PWD/$venv $venv/bin/maturin develop --quiet --skip-install --locked
PYTHONPATH=$PWD/python exec $venv/bin/python -m pytest -q -rs tests "$@"

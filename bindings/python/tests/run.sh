#!/usr/bin/env bash
# Builds the package quickly into a virtual environment under target/, and tests it. Needs Rust, and a package index the first time.
# Arguments are pytest's.
#
# PROFILE=release FEATURES=rtmo-engine/default takes over what `cargo build --release` has made in target/ of the repository. Ends
# with status 3 if the tests' packages cannot be had.
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${PROFILE:-dev}
features=()
if [ -n "${FEATURES:-}" ]; then
  features=(--features "$FEATURES")
  CARGO_TARGET_DIR=$(cd ../.. && pwd)/target
  export CARGO_TARGET_DIR
fi
venv=target/venv
packages=(maturin mypy numpy pillow pytest)
here() { "$venv/bin/python" -c "import importlib.metadata as m, sys; [m.version(name) for name in sys.argv[1:]]" "${packages[@]}" 2>/dev/null; }
if ! here; then
  { [ -x $venv/bin/python ] || python3 -m venv $venv; } &&
    $venv/bin/pip install --quiet --disable-pip-version-check "${packages[@]}" || exit 3
fi
VIRTUAL_ENV=$PWD/$venv $venv/bin/maturin develop --quiet --skip-install --locked --profile "$profile" "${features[@]}"
PYTHONPATH=$PWD/python exec $venv/bin/python -m pytest -q -rs --durations=5 tests "$@"

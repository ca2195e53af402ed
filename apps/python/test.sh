#!/usr/bin/env bash
# Tests the Python package in a fresh virtual environment, without a wheel: the extension module is built with the workspace,
# so that it shares burn and everything else with the command (a wheel's build has features of its own and builds burn anew),
# and put beside the package's Python. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
environment=$root/target/python

# not linked against a Python, as in a wheel
PYO3_BUILD_EXTENSION_MODULE=1 cargo build --release --locked --workspace

rm -rf "$environment"
python3 -m venv "$environment"
python=$environment/bin/python
"$python" -m pip install --quiet --disable-pip-version-check numpy pillow pytest mypy "tomli; python_version < '3.11'"
packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cp -r python/ibot_train "$packages/"
cp "$root/target/release/libibot_python.so" "$packages/ibot_train/_native.abi3.so"

"$python" -m mypy --python-executable "$python"
# the stubs are those of the extension module
"$python" -m mypy.stubtest ibot_train._native
IBOT="$root/target/release/ibot" "$python" -m pytest -q -p no:cacheprovider "$@"

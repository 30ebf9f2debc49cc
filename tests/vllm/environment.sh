#!/usr/bin/env bash
# Makes the environment of a real vLLM that computes on CPUs, and two tiny models for it; prints the folder.
#
#   folder=$(tests/vllm/environment.sh) && "$folder/env/bin/vllm" serve "$folder/models/vision" --enforce-eager
#
# models/vision takes images, models/text does not (make_tiny_model.py).
#
# The folder is ${XDG_CACHE_HOME:-~/.cache}/annotationrun/vllm-<digest of the inputs>. `.ready` in it is written
# last; a folder without it is an interrupted build and is made anew. A lock keeps two builds apart.
#
# Settings: UV (path of uv), PYTHON (path of a Python >= 3.11, default .venv's).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
uv=${UV:-$here/../../.venv/bin/uv}
python=${PYTHON:-$here/../../.venv/bin/python}
disk_needed_gigabytes=5  # 2.4 GB in the end, the downloaded wheels come on top while the cache of uv is cold

inputs=(environment.sh requirements.txt install.sh make_tiny_model.py)
digest=$(cd "$here" && cat "${inputs[@]}" <(uname -m; "$python" -V) | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/annotationrun
folder=$cache/vllm-$digest

say() { printf 'vllm environment: %s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }

install_host_tools() {
  local missing=()
  command -v gcc >/dev/null || missing+=(gcc)
  command -v nm >/dev/null || missing+=(binutils)
  /sbin/ldconfig -p | grep -q 'libnuma\.so\.1' || missing+=(libnuma1)
  if (( ${#missing[@]} )); then
    (( EUID == 0 )) || fail "needs the Debian packages ${missing[*]}; install them or run this as root"
    say "installing ${missing[*]} with apt-get"
    { apt-get -q update && apt-get -q install -y --no-install-recommends "${missing[@]}"; } >&2 \
      || fail "apt-get could not install ${missing[*]}"
  fi
}

build() {
  local free_gigabytes
  rm -rf "$folder"
  mkdir -p "$folder"
  [[ -x $uv ]] || fail "no uv at $uv; run 'make environment' first, or set UV"
  free_gigabytes=$(df --output=avail -BG "$cache" | tail -1 | tr -dc 0-9)
  (( free_gigabytes >= disk_needed_gigabytes )) \
    || fail "$cache has $free_gigabytes GB free, $disk_needed_gigabytes GB are needed"
  install_host_tools
  say "installing vLLM (1.2 GB of packages the first time)"
  "$uv" venv --quiet --python "$python" "$folder/env" >&2
  "$uv" pip install --quiet --python "$folder/env/bin/python" --no-deps --require-hashes \
    -r "$here/requirements.txt" >&2 || fail "uv could not install $here/requirements.txt; its messages are above"
  "$here/install.sh" "$folder/env" >&2 || fail "vLLM does not start in $folder; remove the folder and try again"
  say "$SECONDS s; making the models"
  "$folder/env/bin/python" "$here/make_tiny_model.py" "$folder/models" >&2 || fail "the models could not be made"
  touch "$folder/.ready"
  say "ready after $SECONDS s, $(du -sh "$folder" | cut -f1) in $folder"
}

mkdir -p "$cache"
exec 9> "$cache/vllm.lock"
flock --nonblock 9 || { say "another build is running: waiting for it"; flock 9; }
[[ -e $folder/.ready ]] || build
# Digests of other checkouts or of older inputs: theirs to keep, the reader's to remove.
for other in "$cache"/vllm-*/; do
  [[ $other == "$folder/" ]] || say "not used by this checkout, may be removed: $other"
done
echo "$folder"

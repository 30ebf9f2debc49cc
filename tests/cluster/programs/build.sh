#!/usr/bin/env bash
# Builds the programs of a Kubernetes cluster once, and prints the folder that holds them:
# kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kube-proxy, kubectl (links to one binary) and
# pause (the first process of every pod); see go_build.sh.
#
#   tests/cluster/programs/build.sh
#
# Kubernetes is a Go module, locked with all it needs by go.mod and go.sum. It takes about 8 minutes on two cores.
#
# Another version of Kubernetes: change it in go.mod (the v0 modules too), run `go mod tidy`.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../../support/go_build.sh"

compile() {
  local version stamp program
  version=$(awk '$1 == "k8s.io/kubernetes" || $2 == "k8s.io/kubernetes" {print $NF; exit}' "$here/go.mod")
  stamp="-X k8s.io/component-base/version.gitVersion=$version -X k8s.io/component-base/version.gitTreeState=clean"
  say "$SECONDS s; building Kubernetes $version (some minutes)"
  mkdir "$1/bin"
  call_go "$here" build -ldflags "-s -w $stamp" -o "$1/bin/" ./kubernetes ./pause >&2
  for program in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do
    ln -s kubernetes "$1/bin/$program"
  done
}

build_once kubernetes 5 "$here"/go.{mod,sum} "$here"/*/main.go
echo "$folder/bin"

#!/usr/bin/env bash
# Builds Kueue's manager once, and prints the folder that holds it: `kueue`, and `config`, Kueue's own manifests
# (CustomResourceDefinitions, webhooks); see go_build.sh. It takes 4 minutes or so on two cores.
#
#   tests/support/kueue.sh
source "$(dirname "${BASH_SOURCE[0]}")/go_build.sh"
module=sigs.k8s.io/kueue@v0.15.2  # made with the client libraries of Kubernetes 1.34

# Not by install_program: Kueue's manifests are wanted too, and of the same version. It is built in its own folder,
# where its own go.sum locks all that it needs.
compile() {
  local source
  say "$SECONDS s; building $module (some minutes)"
  call_go "$1" mod download "$module" >&2
  source=$(call_go "$1" env GOMODCACHE)/$module
  call_go "$source" build -ldflags "-s -w" -o "$1/kueue" ./cmd/kueue >&2
  cp -r "$source/config" "$1/config"
}

build_once kueue 3
echo "$folder"

#!/usr/bin/env bash
# Builds helm, once, and prints the path of the program; see go_build.sh.
#
#   tests/support/helm.sh
source "$(dirname "${BASH_SOURCE[0]}")/go_build.sh"
version=v3.22.0

# The versions are set by linker flags, as helm's own Makefile does: without them helm takes itself for a
# client of Kubernetes 1.20. This one was made with client-go 0.37.
compile() {
  local flags="-X helm.sh/helm/v3/internal/version.version=$version" package
  for package in chartutil lint/rules; do
    flags+=" -X helm.sh/helm/v3/pkg/$package.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/$package.k8sVersionMinor=37"
  done
  install_program "$1" "helm.sh/helm/v3/cmd/helm@$version" "$flags"
}

build_once helm 3
echo "$folder/helm"

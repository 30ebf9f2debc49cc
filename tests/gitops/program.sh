#!/usr/bin/env bash
# Builds the program of the folder `program`, once, and prints its path; see go_build.sh.
#
#   tests/gitops/program.sh
#
# It runs what Argo CD and Flux run over an object: Lua, CEL, kstatus. go.mod and go.sum lock all it needs; another
# version of one: change it in go.mod, run `go mod tidy`.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../support/go_build.sh"

compile() {
  say "$SECONDS s; building (a minute or two)"
  call_go "$here/program" build -ldflags "-s -w" -o "$1/gitops" . >&2
}

build_once gitops 3 "$here"/program/{main.go,go.mod,go.sum}
echo "$folder/gitops"

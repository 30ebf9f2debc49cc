#!/usr/bin/env bash
# Builds the program of the folder `program`, once, and prints its path; see go_program.sh.
#
#   tests/gitops/program.sh
#
# It runs what Argo CD and Flux run over an object: Lua, CEL, kstatus. go.mod and go.sum lock all it needs; another
# version of one: change it in go.mod, run `go mod tidy`.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
inputs=("$here"/program/{main.go,go.mod,go.sum})
digest=$(cat "${inputs[@]}" | sha256sum | cut -c1-16)
copy=$(mktemp -d)  # outside of any repository, whose state Go would stamp into the program
trap 'rm -rf "$copy"' EXIT
cp "${inputs[@]}" "$copy"
cd "$copy"
"$here/../support/go_program.sh" gitops . "-X main.inputs=$digest"

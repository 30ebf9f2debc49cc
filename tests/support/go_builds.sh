#!/usr/bin/env bash
# Builds several programs with Go, one after another, so that they share Go, modules and compiled packages.
#
#   tests/support/go_builds.sh [NAME...]
#
# NAME: kubernetes, helm, kueue, versitygw, gitops; without one, all. What is built already is not built again.
# Says `built NAME` on standard output after each, so that who needs it need not wait for the others.
source "$(dirname "${BASH_SOURCE[0]}")/go_build.sh"
declare -A scripts=(
  [kubernetes]=$support/../cluster/programs/build.sh
  [helm]=$support/helm.sh
  [kueue]=$support/kueue.sh
  [versitygw]=$support/versitygw.sh
  [gitops]=$support/../gitops/program.sh
)
(( $# )) || set -- kubernetes kueue helm gitops versitygw
for program in "$@"; do
  [[ -v scripts[$program] ]] || fail "no program $program; there are ${!scripts[*]}"
done
hold_go
for program in "$@"; do
  "${scripts[$program]}" >&2
  echo "built $program"
done

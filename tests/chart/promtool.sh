#!/usr/bin/env bash
# Fetches promtool, Prometheus' own checker of rules, once, and prints the path of the program.
#
#   tests/chart/promtool.sh
#
# It comes out of Debian's package `prometheus`, which is unpacked and not installed, so no server is started. All
# that is asked of the machine is apt-get, dpkg and flock. The program lies in
# ${XDG_CACHE_HOME:-~/.cache}/annotationrun/promtool-<digest of this script>.
set -euo pipefail
digest=$(cat "${BASH_SOURCE[0]}" <(uname -m) | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/annotationrun
folder=$cache/promtool-$digest

say() { printf 'promtool: %s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }

fetch() {
  rm -rf "$folder"
  mkdir -p "$folder/package"
  cd "$folder/package"
  # Without its sandbox apt warns of a folder that its own user can't read.
  download=(apt-get -q -o APT::Sandbox::User=root download prometheus)
  "${download[@]}" >&2 || { apt-get -q update >&2 && "${download[@]}" >&2; } \
    || fail "apt-get could not download the package prometheus; its messages are above"
  dpkg -x prometheus_*.deb unpacked
  mv unpacked/usr/bin/promtool "$folder/promtool"
  cd /
  rm -rf "$folder/package"
}

mkdir -p "$cache"
exec 9> "$cache/promtool.lock"
flock 9
[[ -x $folder/promtool ]] || fetch
echo "$folder/promtool"

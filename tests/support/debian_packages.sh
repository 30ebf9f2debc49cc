#!/usr/bin/env bash
# Sees to it that Debian packages are there: as root with apt it installs those that are missing; others are told
# which to install.
#
#   tests/support/debian_packages.sh COMMAND PACKAGE [COMMAND PACKAGE]...
#
# A package counts as missing where its COMMAND, run by bash, does not succeed.
set -euo pipefail
missing=()
while (( $# )); do
  bash -c "$1" &>/dev/null || missing+=("$2")
  shift 2
done
(( ${#missing[@]} )) || exit 0
if (( EUID == 0 )) && command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update
  apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
else
  echo "missing: the Debian packages ${missing[*]}; install them (apt-get install ${missing[*]}), or run this as root" >&2
  exit 1
fi

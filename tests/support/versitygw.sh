#!/usr/bin/env bash
# Builds versitygw, an S3 server over a folder, once, and prints the path of the program; see go_build.sh.
#
#   tests/support/versitygw.sh
source "$(dirname "${BASH_SOURCE[0]}")/go_build.sh"

compile() { install_program "$1" github.com/versity/versitygw/cmd/versitygw@v1.8.0; }

build_once versitygw 3
echo "$folder/versitygw"

#!/usr/bin/env bash
# Builds versitygw, an S3 server over a folder, once, and prints the path of the program; see go_program.sh.
#
#   tests/support/versitygw.sh
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/go_program.sh" versitygw github.com/versity/versitygw/cmd/versitygw@v1.8.0

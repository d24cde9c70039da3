#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# From a clean clone to all tests; the last line is `N passed, N failed`, the exit code 0 only when none failed.
#
#   tests/run.sh                what CI runs, under 25 minutes on 2 cores
#   tests/run.sh unit sim       only these suites (tests/run.sh --list names them)
#   tests/run.sh --long         more seeds and rounds, clang-tidy on every file
set -Eeuo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../.ci/setup.sh"
gemel_trap

if [[ " $* " != *" --list "* && " $* " != *" --help "* ]]; then
  gemel_setup
fi
trap - ERR
cd "${GEMEL_ROOT}"
exec python3 tests/suites.py "$@"

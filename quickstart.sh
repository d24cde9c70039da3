#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# From a clean clone to the main job: installs what is missing, builds, then trains a small transformer under Gemel,
# kills a host in the middle of a save, restores from peer memory and compares with the uninterrupted run.
#
#   ./quickstart.sh                    everything
#   ./quickstart.sh --steps 12 --keep  arguments go to integrations/python/examples/quickstart.py
#
# Results: quickstart-out/{quickstart.json,*.png}, the table on the terminal. The exit code is the job's.
set -Eeuo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/.ci/setup.sh"
gemel_trap

gemel_setup --without-checkers
cd "${GEMEL_ROOT}"
gemel_configure release
gemel_build release gemel gemel-server gemel-placement _native

out="${GEMEL_ROOT}/quickstart-out"
gemel_say "main job: two FSDP2 ranks on three servers; one host will be killed"
code=0
PATH="${GEMEL_ROOT}/build/release/bin:${PATH}" PYTHONPATH="${GEMEL_ROOT}/build/release/python:${GEMEL_ROOT}/integrations/python${PYTHONPATH:+:${PYTHONPATH}}" \
  "${GEMEL_VENV}/bin/python" integrations/python/examples/quickstart.py --out "${out}" "$@" || code=$?
if ((code != 0)); then
  trap - ERR
  printf 'error: the main job ended with code %d: its table above and %s say at which point.\n' "${code}" "${out}" >&2
  exit "${code}"
fi
gemel_say "results in ${out}:"
find "${out}" -maxdepth 1 -type f \( -name '*.json' -o -name '*.png' -o -name '*.txt' \) -printf '      %f (%s bytes)\n' | sort

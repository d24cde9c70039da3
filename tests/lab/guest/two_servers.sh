#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Two servers whose data goes over soft-RoCE, each on a device of its own: each takes a snapshot and sends a copy to the
# other; one is killed, and the other one gives back what that one had taken. Run in the guest:
#
#   two_servers.sh BIN FILE     BIN: folder of the build's programs; FILE: safetensors to save
#
# The snapshot comes back in $LAB_OUT/back; the servers' logs lie beside it.
set -uo pipefail

BIN="$1"
FILE="$2"
PATIENCE_S=90
readonly FOLDER=/tmp/cluster

say() { printf '%s s: %s\n' "${SECONDS}" "$*"; }

die() {
  say "$*"
  tail -n 40 "${LAB_OUT}"/*.log
  exit 1
}

await_file() {
  local deadline=$((SECONDS + PATIENCE_S))
  until [[ -s "$1" ]]; do
    ((SECONDS < deadline)) || die "$1 did not come"
    sleep 0.2
  done
}

# serve NUMBER HOST: its process id is ${server}.
serve() {
  "${BIN}/gemel-server" --dir "${FOLDER}/server-$1" --name "server-$1" --domain "host-$1" --placement 127.0.0.1:7601 \
    --socket "${FOLDER}/$1.sock" --data-listen "verbs://$2:0" --memory 128MiB --persist-dir '' \
    --ready-file "${FOLDER}/$1.ready" >"${LAB_OUT}/server-$1.log" 2>&1 &
  server=$!
  await_file "${FOLDER}/$1.ready"
  say "server-$1 is ready"
}

main() {
  local first second
  mkdir -p "${FOLDER}"
  "${BIN}/gemel-placement" --dir "${FOLDER}/placement" --listen 127.0.0.1:7601 --ready-file "${FOLDER}/placement.ready" \
    >"${LAB_OUT}/placement.log" 2>&1 &
  await_file "${FOLDER}/placement.ready"
  serve 0 10.99.0.1
  first="${server}"
  serve 1 10.99.0.2
  second="${server}"
  "${BIN}/gemel" import "${FILE}" --job gpt --name 7 --copies 2 --address "unix://${FOLDER}/0.sock" || die "the save failed"
  "${BIN}/gemel" import "${FILE}" --job beside --name 7 --copies 2 --address "unix://${FOLDER}/1.sock" || die "the other save failed"
  say "both saved with two copies"
  kill -KILL "${first}"
  "${BIN}/gemel" export gpt@7 "${LAB_OUT}/back" --address "unix://${FOLDER}/1.sock" || die "the restore failed"
  say "restored from the other server"
  kill "${second}"
  wait "${second}"
  say "server-1 ended with $?"
}

main

#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Two servers whose data goes over soft-RoCE, each on a device of its own: each takes a snapshot and sends a copy to the
# other; one is killed, and the other one gives back what that one had taken. Then two more that listen on tcp as well: the
# cable is cut while a snapshot is saved, and stays cut for another one. Run in the guest:
#
#   two_servers.sh BIN FILE     BIN: folder of the build's programs; FILE: safetensors to save
#
# The snapshots come back in $LAB_OUT/back and $LAB_OUT/back-cut; the servers' logs lie beside them.
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

# serve NUMBER ADDRESSES: its process id is ${server}.
serve() {
  "${BIN}/gemel-server" --dir "${FOLDER}/server-$1" --name "server-$1" --domain "host-$1" --placement 127.0.0.1:7601 \
    --socket "${FOLDER}/$1.sock" --data-listen "$2" --memory 128MiB --persist-dir '' \
    --ready-file "${FOLDER}/$1.ready" >"${LAB_OUT}/server-$1.log" 2>&1 &
  server=$!
  await_file "${FOLDER}/$1.ready"
  say "server-$1 is ready"
}

# save JOB NAME NUMBER: at server NUMBER, with a copy at another one.
save() {
  "${BIN}/gemel" import "${FILE}" --job "$1" --name "$2" --copies 2 --address "unix://${FOLDER}/$3.sock" ||
    die "the save of $1@$2 failed"
}

over_rdma() {
  local first second
  serve 0 verbs://10.99.0.1:0
  first="${server}"
  serve 1 verbs://10.99.0.2:0
  second="${server}"
  save gpt 7 0
  save beside 7 1
  say "both saved with two copies"
  kill -KILL "${first}"
  "${BIN}/gemel" export gpt@7 "${LAB_OUT}/back" --address "unix://${FOLDER}/1.sock" || die "the restore failed"
  say "restored from the other server"
  kill "${second}"
  wait "${second}"
  say "server-1 ended with $?"
  tc -s qdisc
}

from_rdma_to_tcp() {
  local first second saving
  serve 2 verbs://10.99.0.1:0,tcp://127.0.0.1:0
  first="${server}"
  serve 3 verbs://10.99.0.2:0,tcp://127.0.0.1:0
  second="${server}"
  save before 7 2
  save cut 7 2 &
  saving=$!
  sleep 0.2
  for end in v0 v1; do tc qdisc replace dev "${end}" root netem loss 100%; done
  wait "${saving}" || die "the save in which the cable was cut failed"
  say "saved while the cable was cut"
  save after 7 2
  say "saved over the other path"
  kill -KILL "${first}"
  "${BIN}/gemel" export after@7 "${LAB_OUT}/back-cut" --address "unix://${FOLDER}/3.sock" || die "the restore failed"
  say "restored what went over the other path"
  kill "${second}"
  wait "${second}"
  say "server-3 ended with $?"
}

main() {
  mkdir -p "${FOLDER}"
  "${BIN}/gemel-placement" --dir "${FOLDER}/placement" --listen 127.0.0.1:7601 --ready-file "${FOLDER}/placement.ready" \
    >"${LAB_OUT}/placement.log" 2>&1 &
  await_file "${FOLDER}/placement.ready"
  over_rdma
  from_rdma_to_tcp
}

main

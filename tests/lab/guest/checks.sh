#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Checks of the guest, run in it: those named, or all. Each writes its output to $LAB_OUT/NAME.log and one line
# `pass NAME` or `fail NAME`; the exit status is 0 when all passed. `loss` comes first and wants run.sh --loss; what
# comes after it has a cable without loss.
set -uo pipefail

ALL=(loss device windows route rping write_bw modules)
PATIENCE_S=90 # under TCG a program of verbs takes some seconds to start

# await COMMAND...: until it succeeds.
await() {
  local deadline=$((SECONDS + PATIENCE_S))
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || { printf 'waited in vain for: %s\n' "$*" && return 1; }
    sleep 0.2
  done
}

rdma_listens() { rdma resource show cm_id | grep -q LISTEN; }
tcp_listens() { ss -Hltn "sport = :$1" | grep -q LISTEN; }

# The packets that left v0; the packets that netem dropped on both ends.
sent() { cat /sys/class/net/v0/statistics/tx_packets; }
dropped() { tc -s qdisc show | awk '{ for (i = 1; i < NF; i++) if ($i == "(dropped") sum += $(i + 1) } END { print sum + 0 }'; }

check_device() {
  local device
  for device in rxe0 rxe1; do
    ibv_devinfo -d "${device}"
    ibv_devinfo -d "${device}" | grep -q 'PORT_ACTIVE' || return 1
  done
}

check_windows() {
  ibv_devinfo -v -d rxe0 | awk '
    { print }
    $1 == "max_mw:" && $2 > 0 { windows = 1 }
    $1 == "MEM_WINDOW_TYPE_2B" { type_2b = 1 }
    END { exit !(windows && type_2b) }'
}

# What one address says to the other takes the cable.
check_route() {
  local there back
  there="$(ip route get 10.99.0.2)"
  back="$(ip route get 10.99.0.1)"
  printf '%s\n' "${there}" "${back}"
  [[ "${there}" == *'dev v0 '*'src 10.99.0.1 '* && "${back}" == *'dev v1 '*'src 10.99.0.2 '* ]]
}

# round_trips COUNT: a server on rxe1 and a client on rxe0.
round_trips() {
  local server client=0
  rping -s -a 10.99.0.2 -C "$1" &
  server=$!
  await rdma_listens || return 1
  timeout "${PATIENCE_S}" rping -c -a 10.99.0.2 -C "$1" -v >"/tmp/rping" || client=$?
  tail -n 3 /tmp/rping
  wait "${server}"
  printf '%s of %s round trips, exit %s\n' "$(grep -c '^ping data: rdma-ping-' /tmp/rping)" "$1" "${client}"
  [[ "$(grep -c '^ping data: rdma-ping-' /tmp/rping)" == "$1" ]]
}

check_rping() {
  local before
  before="$(sent)"
  round_trips 20 || return 1
  printf '%s packets took the cable\n' "$(($(sent) - before))"
  (($(sent) - before > 20))
}

# 200 writes of 64 KiB are 3,200 packets of 4 KiB.
check_write_bw() {
  local server before
  before="$(sent)"
  ib_write_bw -d rxe1 -s 65536 -n 200 -F >/dev/null &
  server=$!
  await tcp_listens 18515 && timeout "${PATIENCE_S}" ib_write_bw -d rxe0 -s 65536 -n 200 -F 10.99.0.2 || return 1
  wait "${server}" || return 1
  printf '%s packets took the cable\n' "$(($(sent) - before))"
  (($(sent) - before >= 3200))
}

check_modules() {
  modprobe -a sch_netem tcp_dctcp dm-flakey && lsmod | grep -E '^(sch_netem|tcp_dctcp|dm_flakey) '
}

# Round trips go on though packets are lost both ways, because soft-RoCE sends them again.
check_loss() {
  local passed=0 end
  round_trips 30 || passed=1
  for end in v0 v1; do
    tc -s qdisc show dev "${end}"
  done
  rdma statistic
  printf '%s packets dropped\n' "$(dropped)"
  (($(dropped) > 0)) || passed=1
  for end in v0 v1; do
    tc qdisc del dev "${end}" root || passed=1
  done
  return "${passed}"
}

main() {
  local name started failed=0
  (($# > 0)) || set -- "${ALL[@]}"
  for name in "$@"; do
    started="${SECONDS}"
    if "check_${name}" >"${LAB_OUT}/${name}.log" 2>&1; then
      printf 'pass %s in %s s\n' "${name}" "$((SECONDS - started))"
    else
      printf 'fail %s in %s s\n' "${name}" "$((SECONDS - started))"
      failed=1
    fi
  done
  return "${failed}"
}

main "$@"

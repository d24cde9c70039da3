#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Second program of the guest, process 1, in the host's root: brings up the network and soft-RoCE, runs the command of
# job.sh, sends its exit status to the host over the port lab.status and turns the machine off.
#
# Two soft-RoCE devices that are joined by a cable: rxe0 on v0 (10.99.0.1), rxe1 on v1 (10.99.0.2), the two ends of a veth
# pair. Both addresses are the guest's own: left alone, a client takes the address that it calls for its own too, and the
# packets stay inside one device, or on `lo` for TCP. The rules and routes below make all of it cross the cable, where netem
# sees it.
set -euo pipefail
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# The lines of the guest go to the console; the host shows them when no exit status comes.
say() { printf 'lab: %s\n' "$*"; }

power_off() {
  sync
  busybox poweroff -f
}
trap 'say "the guest could not be set up: line ${LINENO}, ${BASH_COMMAND}"; power_off' ERR

mount_rest() {
  mount -t tmpfs run /run
  mkdir -p /dev/shm /dev/pts
  mount -t tmpfs shm /dev/shm
  mount -t devpts pts /dev/pts
  ln -sf /proc/self/fd /dev/fd
  mkdir -p /lib/modules
  mount --bind "${LAB_MODULES}" /lib/modules
  hostname lab
}

# The port with this name, as /dev/vportNpM.
port() {
  local entry
  for entry in /sys/class/virtio-ports/*; do
    if [[ "$(<"${entry}/name")" == "$1" ]]; then
      printf '/dev/%s' "${entry##*/}"
    fi
  done
}

join_v0_v1() {
  ip link set lo up
  ip link add v0 mtu 4200 type veth peer name v1 mtu 4200
  local end
  for end in 0 1; do
    sysctl -qw "net.ipv4.conf.v${end}.accept_local=1" "net.ipv4.conf.v${end}.rp_filter=0"
    ip address add "10.99.0.$((end + 1))/24" dev "v${end}"
    ip link set "v${end}" up
  done
  sysctl -qw net.ipv4.conf.all.rp_filter=0
  # Neighbours are written down because --loss would drop the questions for them too.
  ip neighbour add 10.99.0.2 lladdr "$(</sys/class/net/v1/address)" dev v0 nud permanent
  ip neighbour add 10.99.0.1 lladdr "$(</sys/class/net/v0/address)" dev v1 nud permanent
  # What comes in over the cable is for us (10); what goes out to the other end takes the cable (20); the rest as ever.
  ip rule add pref 10 iif v0 lookup local
  ip rule add pref 11 iif v1 lookup local
  ip rule add pref 20 lookup 99
  ip rule add pref 30 lookup local
  ip rule del pref 0
  ip route add 10.99.0.2 dev v0 src 10.99.0.1 table 99
  ip route add 10.99.0.1 dev v1 src 10.99.0.2 table 99
}

add_rxe() {
  local module
  for module in crc32_generic crc32_pclmul rdma_rxe ib_uverbs rdma_ucm; do
    modprobe "${module}"
  done
  rdma link add rxe0 type rxe netdev v0
  rdma link add rxe1 type rxe netdev v1
}

# lose PERCENT: both directions of the cable drop so many of their packets.
lose() {
  modprobe sch_netem
  tc qdisc add dev v0 root netem loss "$1%"
  tc qdisc add dev v1 root netem loss "$1%"
}

# Runs the command with its output in a pipe, so that it can open /dev/stdout, which the port allows only once.
run_command() {
  local status=0 writer
  mkfifo /run/lab.out
  cat /run/lab.out >"$(port lab.output)" &
  writer=$!
  (cd "${LAB_FOLDER}" && exec "${LAB_COMMAND[@]}") >/run/lab.out 2>&1 </dev/null || status=$?
  # What the command left running may hold the pipe: its last words get two seconds.
  for _ in {1..20}; do
    kill -0 "${writer}" 2>/dev/null || break
    sleep 0.1
  done
  printf '%s\n' "${status}" >"$(port lab.status)"
}

# shellcheck disable=SC1091  # written by run.sh
. /lab/job.sh
mount_rest
join_v0_v1
add_rxe
if [[ "${LAB_LOSS}" != 0 ]]; then
  lose "${LAB_LOSS}"
fi
say "up after $(cut -d. -f1 /proc/uptime) s"
run_command
power_off

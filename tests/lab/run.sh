#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs a command in a guest with soft-RoCE: Debian's kernel under QEMU without KVM, the root of this machine read-only
# under a layer of memory, the devices rxe0 (10.99.0.1) and rxe1 (10.99.0.2) joined by a cable. README.md says more.
#
#   tests/lab/run.sh                                       the checks of the guest itself, with --loss 3
#   tests/lab/run.sh -- build/release/bin/NAME --gtest_filter='Verbs.*'
#   tests/lab/run.sh --loss 3 -- rping -c -a 10.99.0.2 -C 20
#
#   --loss PERCENT    the cable drops so many packets, each way
#   --limit SECONDS   the guest is ended after so long, boot included (300)
#   --out FOLDER      what the command writes into $LAB_OUT (/lab/out in the guest) lies here afterwards
#   --keep            the folder of this run, with the log of the console, stays in build/lab for a day
#   --kernel PACKAGE  another kernel than the one that linux-image-amd64 depends on
#
# Contract: prints what the command prints, both streams as one; its input is empty. The exit status is the command's, or
#   120  the guest cannot be prepared: a package is missing or cannot be fetched
#   121  the guest did not come up, or died before the command ended
#   124  the limit was reached
# and then the last line on stderr says what is wrong. QEMU is ended on every way out, with SIGKILL of this script too.
set -Eeuo pipefail

LAB="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
LAB_ROOT="$(cd "${LAB}/../.." && pwd)"
LAB_BUILD="${LAB_ROOT}/build/lab"
readonly NOT_PREPARED=120 NOT_UP=121 LIMIT_REACHED=124

lab_say() { printf 'lab: %s\n' "$*" >&2; }

lab_die() {
  lab_say "$@"
  exit "${NOT_PREPARED}"
}

# shellcheck source=tests/lab/kernel.sh
. "${LAB}/kernel.sh"

usage() {
  sed -n '3,/^set/{/^set/d;s/^#//;s/^ //;p}' "${BASH_SOURCE[0]}"
  exit "${1:-0}"
}

parse() {
  loss=0 limit_s=300 out="" keep="" kernel=""
  while (($# > 0)); do
    [[ "$1" != --@(loss|limit|out|kernel) || -n "${2:-}" ]] || lab_die "$1 wants a value; run.sh --help names the options."
    case "$1" in
      --loss) loss="$2" && shift ;;
      --limit) limit_s="$2" && shift ;;
      --out) out="$2" && shift ;;
      --kernel) kernel="$2" && shift ;;
      --keep) keep=yes ;;
      --help) usage ;;
      --) shift && break ;;
      *) usage "${NOT_PREPARED}" >&2 ;;
    esac
    shift
  done
  [[ "${loss}" =~ ^[0-9]+(\.[0-9]+)?$ && "${limit_s}" =~ ^[1-9][0-9]*$ ]] || lab_die "--loss wants percent, --limit whole seconds."
  command=("$@")
  if ((${#command[@]} == 0)); then
    command=("${LAB}/guest/checks.sh")
    [[ "${loss}" != 0 ]] || loss=3
  fi
}

# The programs that the host and the guest need, each with its package.
check_programs() {
  local program package missing=()
  while read -r program package; do
    PATH="${PATH}:/usr/sbin:/sbin" command -v "${program}" >/dev/null || missing+=("${package}")
  done <<'PROGRAMS'
qemu-system-x86_64 qemu-system-x86
busybox busybox-static
modprobe kmod
cpio cpio
rdma iproute2
ibv_devinfo ibverbs-utils
rping rdmacm-utils
ib_write_bw perftest
PROGRAMS
  [[ -e /etc/libibverbs.d/rxe.driver ]] || missing+=(ibverbs-providers)
  ((${#missing[@]} == 0)) || lab_die "packages are missing: as root run 'apt-get install --no-install-recommends ${missing[*]}', or .ci/setup.sh."
}

prepare() {
  check_programs
  mkdir -p "${LAB_BUILD}"
  local lock
  exec {lock}>"${LAB_BUILD}/lock"
  flock "${lock}"
  lab_kernel "${kernel}"
  if [[ "${LAB}/guest/init" -nt "${LAB_KERNEL}/initramfs" || "${LAB}/kernel.sh" -nt "${LAB_KERNEL}/initramfs" ]]; then
    lab_make_initramfs "${LAB_KERNEL}"
  fi
  exec {lock}>&-
}

# What the guest gets to know: share/job.sh, read by start.sh.
write_job() {
  local name
  LAB_LOSS="${loss}" LAB_FOLDER="${PWD}" LAB_MODULES="${LAB_KERNEL}/modules" LAB_COMMAND=("${command[@]}")
  declare -p LAB_LOSS LAB_FOLDER LAB_MODULES LAB_COMMAND
  for name in $(compgen -e); do
    case "${name}" in
      PYTHONPATH | LD_LIBRARY_PATH | LANG | LC_* | GTEST_* | GEMEL_* | *SAN_OPTIONS) declare -p "${name}" ;;
    esac
  done
  printf 'export LAB_OUT=/lab/out PATH=%q\n' "${PATH}:/usr/sbin:/sbin"
}

# Starts QEMU as process ${guest}: its two ports are the open files ${output} and ${folder}/status.
start_guest() {
  setpriv --pdeathsig TERM timeout --foreground --kill-after=5 "${limit_s}" \
    qemu-system-x86_64 -accel tcg,thread=multi -cpu max -m 2048 -smp 2 -nodefaults -no-user-config -display none -no-reboot \
    -kernel "${LAB_KERNEL}/vmlinuz" -initrd "${LAB_KERNEL}/initramfs" -append "console=ttyS0 quiet panic=-1" \
    -serial "file:${folder}/console.log" \
    -virtfs "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap" \
    -virtfs "local,path=${folder}/share,mount_tag=lab,security_model=none" \
    -device virtio-serial-pci \
    -chardev "file,id=output,path=${folder}/output" -device virtserialport,chardev=output,name=lab.output \
    -chardev "file,id=status,path=${folder}/status" -device virtserialport,chardev=status,name=lab.status \
    >"${folder}/qemu.log" 2>&1 </dev/null &
  guest=$!
}

# shellcheck disable=SC2317  # called by the trap
leave() {
  local status=$?
  trap - EXIT
  if [[ -n "${guest:-}" ]]; then
    kill "${guest}" 2>/dev/null || true
    wait "${guest}" 2>/dev/null || true
  fi
  if [[ -n "${keep}" ]]; then
    lab_say "the files of this run are in ${folder#"${LAB_ROOT}/"}"
  else
    rm -rf "${folder}"
  fi
  exit "${status}"
}

show_console() {
  lab_say "the end of the console:"
  cat "${folder}/qemu.log" "${folder}/console.log" 2>/dev/null | tr -d '\r' | tail -n 30 >&2
}

# The verdict after QEMU has ended with $1.
judge() {
  local status
  status="$(cat "${folder}/status" 2>/dev/null || true)"
  grep -ao 'lab: up after [0-9]* s' "${folder}/console.log" >&2 || true
  if [[ "${status}" =~ ^[0-9]+$ ]]; then
    exit "${status}"
  fi
  show_console
  if ((SECONDS - started >= limit_s)); then
    if grep -aq 'lab: up after' "${folder}/console.log"; then
      lab_say "the command did not end within ${limit_s} s, boot included; the guest was ended: give --limit more, or mend the command."
    else
      lab_say "the guest did not come up within ${limit_s} s and was ended: give --limit more when the machine is busy."
    fi
    exit "${LIMIT_REACHED}"
  fi
  lab_say "the guest ended without an exit status of the command (QEMU: $1): the lines above say why; --keep keeps them."
  exit "${NOT_UP}"
}

main() {
  local reader code=0
  parse "$@"
  trap 'lab_die "line ${LINENO} of ${BASH_SOURCE[0]##*/} failed (${BASH_COMMAND%% *}): check the space for build/lab, then start again."' ERR
  prepare
  trap - ERR
  find "${LAB_BUILD}" -maxdepth 1 -name 'run.*' -mtime +0 -exec rm -rf {} +
  folder="$(mktemp -d "${LAB_BUILD}/run.XXXXXX")"
  trap leave EXIT
  trap 'exit 143' TERM
  trap 'exit 130' INT
  mkdir -p "${folder}/share/out"
  cp "${LAB}/guest/start.sh" "${folder}/share/"
  write_job >"${folder}/share/job.sh"
  mkfifo "${folder}/output"
  touch "${folder}/console.log"
  started="${SECONDS}"
  start_guest
  setpriv --pdeathsig TERM cat "${folder}/output" &
  reader=$!
  wait "${guest}" || code=$?
  guest=""
  # A QEMU that died before it opened the pipe leaves the reader waiting for a writer: be one for a moment.
  : 1<>"${folder}/output"
  wait "${reader}"
  if [[ -n "${out}" ]]; then
    mkdir -p "${out}"
    cp -r "${folder}/share/out/." "${out}/"
  fi
  judge "${code}"
}

main "$@"

#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Prepares a Debian 12 machine: system packages and .venv. Sourced by quickstart.sh and tests/run.sh, which call
# gemel_setup; run by itself it prepares for the tests: `.ci/setup.sh`, or `.ci/setup.sh --without-checkers`.
#
# Contract: installs only what is missing, changes nothing on a second run, says each step in one line, and ends
# in one sentence with the way out when a step fails (exit code 2). Logs of the steps lie in build/logs.

GEMEL_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
GEMEL_LOGS="${GEMEL_ROOT}/build/logs"
GEMEL_VENV="${GEMEL_ROOT}/.venv"

GEMEL_PACKAGES_BUILD=(g++ cmake ninja-build ccache pkg-config git ca-certificates
  libgrpc++-dev protobuf-compiler-grpc libprotobuf-dev protobuf-compiler librocksdb-dev libabsl-dev
  libgtest-dev libgmock-dev libfmt-dev libspdlog-dev libcli11-dev nlohmann-json3-dev prometheus-cpp-dev
  libtomlplusplus-dev libxxhash-dev libibverbs-dev libcurl4-openssl-dev libssl-dev python3-dev python3-venv iproute2 procps)
GEMEL_PACKAGES_CHECKERS=(clang-19 clang-tidy-19 clang-format-19 libclang-rt-19-dev lld-19 etcd-server openssl nftables
  e2fsprogs qemu-system-x86 busybox-static kmod cpio ibverbs-utils ibverbs-providers perftest rdmacm-utils)

gemel_say() { printf '==> %s\n' "$*"; }

gemel_die() {
  trap - ERR
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# gemel_logged NAME COMMAND...: runs it with its output in build/logs/NAME.log.
gemel_logged() {
  local name="$1"
  shift
  mkdir -p "${GEMEL_LOGS}" || gemel_die "cannot write ${GEMEL_LOGS}: make the checkout writable for this user."
  "$@" >"${GEMEL_LOGS}/${name}.log" 2>&1 </dev/null
}

gemel_trap() {
  trap 'gemel_die "line ${LINENO} of ${BASH_SOURCE[0]##*/} failed (${BASH_COMMAND%% *}); logs are in build/logs, and running it again goes on from here."' ERR
}

gemel_check_system() {
  local id="" version=""
  if [[ -r /etc/os-release ]]; then
    id="$(. /etc/os-release && printf '%s' "${ID:-}")"
    version="$(. /etc/os-release && printf '%s' "${VERSION_ID:-}")"
  fi
  [[ "${id}" == debian && "${version}" == 12 ]] || gemel_die \
    "this is ${id:-an unknown system} ${version}, and the build is prepared for Debian 12: use a Debian 12 machine or container."
}

# Prints the packages of its arguments that are not installed.
gemel_missing_packages() {
  local package
  for package in "$@"; do
    dpkg-query -W -f='${db:Status-Status}\n' "${package}" 2>/dev/null | grep -qx installed || printf '%s\n' "${package}"
  done
}

gemel_install_packages() {
  local missing=() as_root=()
  mapfile -t missing < <(gemel_missing_packages "$@")
  if ((${#missing[@]} == 0)); then
    gemel_say "system packages: all $# present"
    return
  fi
  if ((EUID != 0)); then
    command -v sudo >/dev/null || gemel_die \
      "packages are missing and this user is not root and has no sudo: as root run 'apt-get install ${missing[*]}', then start again."
    as_root=(sudo)
  fi
  as_root+=(env DEBIAN_FRONTEND=noninteractive)
  gemel_say "system packages: installing ${missing[*]}"
  gemel_logged apt-update "${as_root[@]}" apt-get update || gemel_die \
    "apt-get update failed (build/logs/apt-update.log): check the network and /etc/apt/sources.list, then start again."
  gemel_logged apt-install "${as_root[@]}" apt-get install -y --no-install-recommends "${missing[@]}" || gemel_die \
    "apt-get could not install ${missing[*]} (build/logs/apt-install.log): check the network and free disk space, then start again."
}

# A Python that can make virtual environments and build extension modules; Debian's own first.
gemel_find_python() {
  local candidate
  for candidate in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
    if "${candidate}" - >/dev/null 2>&1 <<'PROBE'; then
import ensurepip, os, sys, sysconfig, venv
assert sys.version_info >= (3, 11)
assert os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h"))
PROBE
      command -v "${candidate}"
      return
    fi
  done
  return 1
}

gemel_make_venv() {
  local requirements="${GEMEL_ROOT}/integrations/python/requirements.txt"
  local stamp="${GEMEL_VENV}/.requirements.sha256" python wanted
  python="$(gemel_find_python)" || gemel_die \
    "no Python 3.11 or newer with headers and venv was found: apt-get install python3-dev python3-venv, then start again."
  wanted="$(sha256sum "${requirements}" | cut -d' ' -f1) $("${python}" -c 'import sys; print(sys.version.split()[0])') ${GEMEL_VENV}"
  if [[ -x "${GEMEL_VENV}/bin/python" && "$(cat "${stamp}" 2>/dev/null || true)" == "${wanted}" ]]; then
    gemel_say "python: .venv is up to date"
    return
  fi
  [[ ! -L "${GEMEL_VENV}" ]] || gemel_die ".venv is a symbolic link, and making it anew would empty what it points to: remove the link."
  gemel_say "python: making .venv with ${python} (torch and its companions, some minutes the first time)"
  gemel_logged venv "${python}" -m venv --clear "${GEMEL_VENV}" || gemel_die \
    "${python} could not make .venv (build/logs/venv.log): check free disk space, then start again."
  gemel_logged pip "${GEMEL_VENV}/bin/python" -m pip install --disable-pip-version-check -r "${requirements}" || gemel_die \
    "pip could not install integrations/python/requirements.txt (build/logs/pip.log): check the network and free disk space (6 GB for torch with CUDA), then start again."
  printf '%s\n' "${wanted}" >"${stamp}"
}

# gemel_setup [--without-checkers]
gemel_setup() {
  gemel_check_system
  if [[ "${1:-}" == --without-checkers ]]; then
    gemel_install_packages "${GEMEL_PACKAGES_BUILD[@]}"
  else
    gemel_install_packages "${GEMEL_PACKAGES_BUILD[@]}" "${GEMEL_PACKAGES_CHECKERS[@]}"
  fi
  gemel_make_venv
}

# gemel_configure PRESET CMAKE-ARGS...: configures build/PRESET when that was not done or the arguments changed.
gemel_configure() {
  local preset="$1" build="${GEMEL_ROOT}/build/$1"
  shift
  local stamp="${build}/.configured" wanted="$* ${GEMEL_ROOT}"
  if [[ -f "${build}/build.ninja" && "$(cat "${stamp}" 2>/dev/null || true)" == "${wanted}" ]]; then
    return
  fi
  gemel_say "build ${preset}: configuring"
  (cd "${GEMEL_ROOT}" && gemel_logged "configure-${preset}" cmake --preset "${preset}" \
    "-DPython_EXECUTABLE=${GEMEL_VENV}/bin/python" "$@") || {
    grep -m3 -A4 'CMake Error' "${GEMEL_LOGS}/configure-${preset}.log" >&2 || true
    gemel_die "cmake could not configure the preset ${preset} (build/logs/configure-${preset}.log): mend what the lines above name, or remove build/${preset} and start again."
  }
  printf '%s\n' "${wanted}" >"${stamp}"
}

# gemel_build PRESET TARGETS...
gemel_build() {
  local preset="$1" started="${SECONDS}"
  shift
  gemel_say "build ${preset}: compiling $* with $(nproc) jobs"
  if ! gemel_logged "build-${preset}" nice cmake --build "${GEMEL_ROOT}/build/${preset}" --target "$@"; then
    grep -m5 -E 'error:|FAILED:|No space left|Killed|unknown target|interrupted' "${GEMEL_LOGS}/build-${preset}.log" >&2 || true
    gemel_die "the build of ${preset} failed (build/logs/build-${preset}.log): mend what the lines above name; when the compiler was killed, give the machine 4 GiB of memory."
  fi
  gemel_say "build ${preset}: done in $((SECONDS - started)) s"
}

if [[ "${BASH_SOURCE[0]}" == "$0" ]]; then
  set -Eeuo pipefail
  gemel_trap
  gemel_setup "$@"
fi

# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Debian's kernel for the guest. Sourced by run.sh.
#
# lab_kernel [PACKAGE]: fetches and unpacks the package (default: the one that linux-image-amd64 depends on) and makes the
# initramfs, once a version; sets LAB_KERNEL, the folder that then holds vmlinuz, initramfs and modules/. Installs nothing
# and needs no root. Calls lab_die with a sentence when a step fails.

# What the root of the guest needs; all else is loaded by modprobe when the root is there.
LAB_ROOT_MODULES=(virtio_pci virtio_console 9pnet_virtio 9p overlay)
# Parts of the package that no test here can use: three quarters of its 390 MB.
LAB_UNUSED_MODULES=(sound drivers/gpu drivers/media drivers/staging drivers/net/wireless drivers/net/ethernet
  drivers/usb drivers/scsi drivers/iio drivers/input drivers/hid drivers/hwmon drivers/isdn)

# The version of the package that apt would fetch; nothing when it knows none.
lab_candidate() {
  LC_ALL=C apt-cache policy "$1" 2>/dev/null | awk '$1 == "Candidate:" && $2 != "(none)" { print $2 }'
}

lab_newest_package() {
  LC_ALL=C apt-cache depends linux-image-amd64 2>/dev/null | awk '$1 == "Depends:" && /linux-image-[0-9]/ { print $2; exit }'
}

# lab_fetch PACKAGE FOLDER: the unpacked package in FOLDER/package.
lab_fetch() {
  local package="$1" folder="$2"
  mkdir -p "${folder}/fetched"
  (cd "${folder}/fetched" && apt-get download "${package}") >"${LAB_BUILD}/fetch.log" 2>&1 || return 1
  dpkg -x "${folder}"/fetched/*.deb "${folder}/package" >>"${LAB_BUILD}/fetch.log" 2>&1 || return 1
  rm -r "${folder}/fetched"
}

# lab_keep_used FOLDER: FOLDER/vmlinuz and FOLDER/modules of FOLDER/package.
lab_keep_used() {
  local folder="$1" part version
  mv "${folder}"/package/boot/vmlinuz-* "${folder}/vmlinuz"
  mv "${folder}/package/lib/modules" "${folder}/modules"
  version="$(ls "${folder}/modules")"
  for part in "${LAB_UNUSED_MODULES[@]}"; do
    rm -rf "${folder}/modules/${version}/kernel/${part}"
  done
  mkdir -p "${folder}/base/lib"
  ln -s ../../modules "${folder}/base/lib/modules"
  depmod -b "${folder}/base" "${version}"
  rm -r "${folder}/package"
}

# lab_make_initramfs FOLDER: busybox, init, and the modules of the root in the order of their loading.
lab_make_initramfs() {
  local folder="$1" version tree="$1/tree" module path
  rm -rf "${tree}"
  version="$(ls "${folder}/modules")"
  mkdir -p "${tree}"/{bin,proc,sys,dev,modules}
  cp "$(command -v busybox)" "${tree}/bin/busybox"
  cp "${LAB}/guest/init" "${tree}/init"
  chmod 755 "${tree}/init"
  for module in "${LAB_ROOT_MODULES[@]}"; do
    modprobe -d "${folder}/base" -S "${version}" --show-depends "${module}"
  done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"${folder}/paths"
  while read -r path; do
    cp "${path}" "${tree}/modules/"
    printf '%s\n' "${path##*/}" >>"${tree}/modules/order"
  done <"${folder}/paths"
  (cd "${tree}" && find . | cpio --quiet -o -H newc) | gzip -1 >"${folder}/initramfs.new"
  mv "${folder}/initramfs.new" "${folder}/initramfs"
  rm -r "${tree}" "${folder}/paths"
}

# Sets LAB_PACKAGE and LAB_VERSION; 1 when apt knows no such package.
lab_ask_apt() {
  LAB_PACKAGE="${1:-$(lab_newest_package)}"
  [[ -n "${LAB_PACKAGE}" ]] || return 1
  LAB_VERSION="$(lab_candidate "${LAB_PACKAGE}")"
  [[ -n "${LAB_VERSION}" ]]
}

# The newest kernel that was fetched before, for a machine without a network.
lab_cached() {
  local found
  found="$(find "${LAB_BUILD}" -maxdepth 1 -name 'linux-image-*_*' | sort -V | tail -n 1)"
  [[ -n "${found}" ]] && printf '%s' "${found}"
}

lab_update_apt() {
  ((EUID == 0)) && apt-get -o Acquire::Retries=0 -o Acquire::http::Timeout=20 update >"${LAB_BUILD}/update.log" 2>&1
}

lab_kernel() {
  local wanted="${1:-}" making
  if ! lab_ask_apt "${wanted}" && ! { [[ -z "${wanted}" ]] && lab_update_apt && lab_ask_apt; }; then
    [[ -z "${wanted}" ]] && LAB_KERNEL="$(lab_cached)" && return
    lab_die "apt knows no package ${wanted:-linux-image-amd64}: run 'apt-get update' as root with Debian 12's sources, then start again."
  fi
  LAB_KERNEL="${LAB_BUILD}/${LAB_PACKAGE}_${LAB_VERSION}"
  [[ ! -d "${LAB_KERNEL}" ]] || return 0
  lab_say "fetching ${LAB_PACKAGE} ${LAB_VERSION} (70 MB), once"
  making="${LAB_BUILD}/making"
  rm -rf "${making}"
  if ! lab_fetch "${LAB_PACKAGE}" "${making}" && ! { lab_update_apt && lab_fetch "${LAB_PACKAGE}" "${making}"; }; then
    [[ -z "${wanted}" ]] && LAB_KERNEL="$(lab_cached)" && return
    lab_die "${LAB_PACKAGE} could not be fetched (build/lab/fetch.log): check the network, run 'apt-get update' as root, then start again."
  fi
  lab_keep_used "${making}"
  mv "${making}" "${LAB_KERNEL}"
}

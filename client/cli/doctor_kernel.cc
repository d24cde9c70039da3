// SPDX-License-Identifier: Apache-2.0
//
// Kernel, processor, descriptors and clocks.
#include <fmt/format.h>

#include "client/cli/doctor.h"

namespace gemel::cli {
namespace {

constexpr uint64_t kDescriptorsBesideSlabs = 1024;  // connections, files of the stores, pidfds

Finding CheckRelease(const KernelFacts& facts) {
  if (!facts.pidfd_open) {
    return {"kernel", Level::kFail,
            fmt::format("Linux {} has no pidfd_open: the death of a trainer would not be seen",
                        facts.release),
            "run Linux 5.3 or newer, and allow pidfd_open in the container's seccomp profile"};
  }
  if (!facts.populate) {
    return {"kernel", Level::kWarn,
            fmt::format("Linux {} has no MADV_POPULATE_WRITE: memory is warmed page by page",
                        facts.release),
            "Linux 5.14 or newer starts servers several times faster"};
  }
  return {"kernel", Level::kOk,
          fmt::format("Linux {}: pidfd_open, MADV_POPULATE_WRITE", facts.release), ""};
}

Finding CheckDigest(const KernelFacts& facts) {
  if (facts.digest_wide) {
    return {"digest", Level::kOk, fmt::format("XXH3 with {}", facts.digest_isa), ""};
  }
  return {"digest", Level::kWarn,
          fmt::format("XXH3 with {} only: hashing while copying runs at about 0.7 of memcpy",
                      facts.digest_isa),
          "use a processor with AVX2, or a virtual machine that passes it on (qemu: -cpu host)"};
}

Finding CheckOpenFiles(const KernelFacts& facts) {
  const uint64_t needed = facts.slabs + kDescriptorsBesideSlabs;
  Finding finding{"open files", Level::kOk,
                  fmt::format("limit {}, hard limit {}; a server needs about {} and raises its own "
                              "to the hard limit",
                              facts.open_files_soft, facts.open_files_hard, needed),
                  ""};
  if (facts.open_files_hard < needed) {
    finding.level = facts.open_files_hard < facts.slabs ? Level::kFail : Level::kWarn;
    finding.mend = fmt::format(
        "ulimit -n {} as root (for ever: nofile in /etc/security/limits.conf), or larger "
        "--slab-bytes",
        needed);
  }
  return finding;
}

Finding CheckClockSource(const KernelFacts& facts) {
  if (facts.clock_source == "tsc" || facts.clock_source == "kvm-clock" ||
      facts.clock_source == "arch_sys_counter") {
    return {"clock source", Level::kOk,
            fmt::format("{}: read without a system call", facts.clock_source), ""};
  }
  return {"clock source", Level::kWarn,
          fmt::format("'{}' (there are: {}): each look at the clock may be a system call",
                      facts.clock_source, facts.clock_sources),
          "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource"};
}

Finding CheckTime(const KernelFacts& facts) {
  const std::string role =
      "no decision of Gemel needs it (leases run on the monotonic clock); certificates and the "
      "times it shows do";
  if (facts.clock_synchronised) {
    return {"time of day", Level::kOk, fmt::format("synchronised; {}", role), ""};
  }
  return {"time of day", Level::kWarn, fmt::format("not synchronised; {}", role),
          "timedatectl set-ntp true, or start chronyd"};
}

}  // namespace

Findings CheckKernel(const KernelFacts& facts) {
  return {CheckRelease(facts), CheckDigest(facts), CheckOpenFiles(facts), CheckClockSource(facts),
          CheckTime(facts)};
}

}  // namespace gemel::cli

// SPDX-License-Identifier: Apache-2.0
//
// Memory: what a server may use, and what makes it fast.
#include <fmt/format.h>

#include <algorithm>

#include "client/cli/doctor.h"
#include "common/bytes.h"
#include "common/check.h"

namespace gemel::cli {
namespace {

constexpr uint64_t kFitUnit = 64 * kMiB;
constexpr uint64_t kLockLimitSmall = 1 * kGiB;

// Bytes for each server when a tenth of what is there stays with everybody else.
uint64_t Fitting(uint64_t bytes, uint32_t servers) {
  GEMEL_CHECK_GT(servers, 0U);
  return bytes / 10 * 9 / servers / kFitUnit * kFitUnit;
}

uint64_t UnusedBytes(const MemoryFacts& facts) {
  const MachineMemory& machine = facts.machine;
  uint64_t unused = machine.available_bytes;
  if (machine.group_limit_bytes != kNoLimit) {
    const uint64_t left =
        machine.group_limit_bytes - std::min(machine.group_limit_bytes, machine.group_used_bytes);
    unused = std::min(unused, left);
  }
  return unused + facts.held_bytes;
}

Finding CheckSizes(const MemoryFacts& facts) {
  const MachineMemory& machine = facts.machine;
  const uint64_t wanted = facts.memory_bytes * facts.servers;
  const uint64_t unused = UnusedBytes(facts);
  const std::string limit = machine.group_file.empty()
                                ? "no control group limits it"
                                : fmt::format("{} limits it to {}", machine.group_file,
                                              SizeText(machine.group_limit_bytes));
  Finding finding{"memory", Level::kOk,
                  fmt::format("{} of memory, {} free; {}; {} servers of {} are asked for",
                              SizeText(machine.physical_bytes), SizeText(unused), limit,
                              facts.servers, SizeText(facts.memory_bytes)),
                  ""};
  if (wanted > machine.most_bytes()) {
    finding.level = Level::kFail;
    finding.mend = fmt::format("gemel up --servers {} --memory {}MiB", facts.servers,
                               Fitting(machine.most_bytes(), facts.servers) >> 20);
  } else if (wanted > unused) {
    finding.level = Level::kWarn;
    finding.mend = fmt::format("end what uses the memory, or: gemel up --servers {} --memory {}MiB",
                               facts.servers, Fitting(unused, facts.servers) >> 20);
  }
  return finding;
}

Finding CheckMemfd(const MemoryFacts& facts) {
  if (!facts.memfd) {
    return {"shared memory", Level::kFail,
            fmt::format("a sealed memfd cannot be made and mapped: {}", facts.memfd_error),
            "allow memfd_create and its seals in the container's seccomp profile"};
  }
  const std::string shm = facts.shm_bytes == 0
                              ? "/dev/shm is not mounted"
                              : fmt::format("/dev/shm has {}", SizeText(facts.shm_bytes));
  return {"shared memory", Level::kOk,
          fmt::format("memfd works; {}, which does not bound Gemel (memfds count as memory of the "
                      "process)",
                      shm),
          ""};
}

Finding CheckFileLimit(const MemoryFacts& facts) {
  if (facts.file_limit_bytes >= facts.memory_bytes) {
    return {"file size limit", Level::kOk,
            facts.file_limit_bytes == kNoLimit ? "none" : SizeText(facts.file_limit_bytes), ""};
  }
  return {"file size limit", Level::kFail,
          fmt::format("RLIMIT_FSIZE is {}: it bounds shared memory and files of the tier too",
                      SizeText(facts.file_limit_bytes)),
          "ulimit -f unlimited"};
}

Finding CheckLockLimit(const MemoryFacts& facts) {
  if (facts.lock_limit_bytes == kNoLimit || facts.lock_limit_bytes >= kLockLimitSmall) {
    return {"memlock", Level::kOk,
            facts.lock_limit_bytes == kNoLimit ? "unlimited" : SizeText(facts.lock_limit_bytes),
            ""};
  }
  return {"memlock", Level::kWarn,
          fmt::format("RLIMIT_MEMLOCK is {}; tcp needs none, RDMA registers all slabs",
                      SizeText(facts.lock_limit_bytes)),
          "before RDMA is used: ulimit -l unlimited (for ever: memlock in "
          "/etc/security/limits.conf)"};
}

Finding CheckHugePages(const MemoryFacts& facts) {
  const std::string transparent =
      fmt::format("transparent huge pages '{}', for shared memory '{}'",
                  facts.transparent.empty() ? "not there" : facts.transparent,
                  facts.transparent_shm.empty() ? "not there" : facts.transparent_shm);
  if (facts.transparent_shm == "never" || facts.transparent_shm == "deny") {
    return {"huge pages", Level::kWarn,
            fmt::format("{}: the first save of a process takes several times as long, every later "
                        "one somewhat longer",
                        transparent),
            "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled (at every boot: a "
            "line in /etc/tmpfiles.d, 'w /sys/kernel/mm/transparent_hugepage/shmem_enabled - - - - "
            "advise'); then start the servers again"};
  }
  if (facts.huge_pages == 0) {
    return {"huge pages", Level::kOk, fmt::format("none reserved (none needed); {}", transparent),
            ""};
  }
  return {"huge pages", facts.huge_pages_free > 0 ? Level::kOk : Level::kWarn,
          fmt::format("{} of {} reserved, {} free; {}", facts.huge_pages,
                      SizeText(facts.huge_page_bytes), facts.huge_pages_free, transparent),
          facts.huge_pages_free > 0
              ? ""
              : fmt::format("they hold {} that Gemel cannot use: sysctl -w vm.nr_hugepages=0, or "
                            "end what took them",
                            SizeText(facts.huge_pages * facts.huge_page_bytes))};
}

}  // namespace

std::string SizeText(uint64_t bytes) {
  if (bytes >= kGiB) {
    return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / static_cast<double>(kGiB));
  }
  if (bytes >= kMiB) {
    return fmt::format("{} MiB", bytes / kMiB);
  }
  return bytes >= kKiB ? fmt::format("{} KiB", bytes / kKiB) : fmt::format("{} bytes", bytes);
}

Findings CheckMemory(const MemoryFacts& facts) {
  return {CheckSizes(facts), CheckMemfd(facts), CheckFileLimit(facts), CheckLockLimit(facts),
          CheckHugePages(facts)};
}

}  // namespace gemel::cli

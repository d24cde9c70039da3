// SPDX-License-Identifier: Apache-2.0
//
// The disk below --dir: identities, commit records and the persistent tier.
#include <fmt/format.h>

#include "client/cli/doctor.h"
#include "common/bytes.h"

namespace gemel::cli {
namespace {

constexpr uint64_t kRecordsBytes = 256 * kMiB;  // identities, MetaStore, logs
constexpr double kFsyncSlowMs = 50.0;           // each commit waits for a few of them

Finding CheckWritable(const DiskFacts& facts) {
  if (facts.writable) {
    return {"folder", Level::kOk,
            fmt::format("{} can be written (looked at {})", facts.dir, facts.looked_at), ""};
  }
  return {"folder", Level::kFail,
          fmt::format("{} cannot be written: {}", facts.looked_at, facts.write_error),
          fmt::format("choose another --dir, or: sudo chown $(id -u) {}", facts.looked_at)};
}

Finding CheckSpace(const DiskFacts& facts) {
  Finding finding{
      "disk space", Level::kOk,
      fmt::format("{} of {} free; persisting everything once takes up to {}",
                  SizeText(facts.free_bytes), SizeText(facts.bytes), SizeText(facts.state_bytes)),
      ""};
  if (facts.free_bytes < kRecordsBytes) {
    finding.level = Level::kFail;
    finding.mend = fmt::format(
        "free at least {} (`du -xh --max-depth 2 {} | sort -h | tail`), or "
        "another --dir",
        SizeText(kRecordsBytes), facts.looked_at);
  } else if (facts.free_bytes < facts.state_bytes) {
    finding.level = Level::kWarn;
    finding.mend = "gemel up --persist-dir DIR on a larger disk; saves go on when the tier is full";
  }
  return finding;
}

Finding CheckFileSystem(const DiskFacts& facts) {
  if (facts.in_memory) {
    return {"file system", Level::kWarn,
            fmt::format("{} is {}: what is persisted there does not survive a reboot",
                        facts.looked_at, facts.file_system),
            "gemel up --persist-dir DIR on a disk"};
  }
  if (facts.over_network) {
    return {"file system", Level::kWarn,
            fmt::format("{} is {}: every commit waits for its server", facts.looked_at,
                        facts.file_system),
            "choose a --dir on a local disk; the archive is for file systems like this"};
  }
  return {"file system", Level::kOk, facts.file_system, ""};
}

Finding CheckFsync(const DiskFacts& facts) {
  const std::string found = fmt::format("{:.1f} ms for a small file (median)", facts.fsync_ms);
  if (facts.fsync_ms <= kFsyncSlowMs) {
    return {"fsync", Level::kOk, found, ""};
  }
  return {"fsync", Level::kWarn, found + ": each commit waits for a few of them",
          "choose a --dir on a faster disk (NVMe with power-loss protection: below 1 ms)"};
}

}  // namespace

Findings CheckDisk(const DiskFacts& facts) {
  Findings findings = {CheckWritable(facts), CheckSpace(facts), CheckFileSystem(facts)};
  if (facts.writable) {
    findings.push_back(CheckFsync(facts));
  }
  return findings;
}

}  // namespace gemel::cli

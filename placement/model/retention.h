// SPDX-License-Identifier: Apache-2.0
//
// The order of a job's snapshots, and which of them may be retired.
//
// An accepted Open gets a job-wide sequence number; `latest` and keep=latest(k) order by
// (epoch, sequence), and an epoch by (cluster generation, counter). A snapshot is *replaced* when
// the job committed the same name again, later in that order (another attempt, or a later epoch
// that was rewound to an older step).
//
// Retire() lets go of a committed snapshot when it is not pinned and
//   * it is replaced, or
//   * k > 0 and at least k newer ones, not replaced themselves, are at full redundancy,
// but never of the newest one at full redundancy, even when it is replaced. k = 0 keeps all
// that are not replaced.
//
// Thread safety: pure functions; any thread.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace gemel::model {

struct EpochOrder {
  uint64_t generation = 0;  // Of the cluster; grows when it is recovered from its servers.
  uint64_t counter = 0;     // Grows with every epoch of the job.

  friend auto operator<=>(const EpochOrder&, const EpochOrder&) = default;
};

struct SnapshotOrder {
  EpochOrder epoch;
  uint64_t sequence = 0;  // Job-wide, of the accepted Open.

  friend auto operator<=>(const SnapshotOrder&, const SnapshotOrder&) = default;
};

// One committed snapshot of a job.
struct RetentionEntry {
  SnapshotOrder order;  // Different for all entries of a job.
  std::string name;     // For instance the step.
  uint64_t attempt = 0;
  bool fully_redundant = false;  // Every shard is `full` (receipts.h).
  bool pinned = false;           // By a restore, a persist or a user.
};

// The newest entry, what `latest` names; none when there are no entries.
std::optional<size_t> Latest(std::span<const RetentionEntry> entries);

// True when a later entry has the same name. REQUIRES: index < entries.size().
bool IsReplaced(std::span<const RetentionEntry> entries, size_t index);

// Indices of the entries to retire under keep=latest(keep), oldest first; keep 0 is keep=all.
// REQUIRES: no two entries have the same order, or the same name, epoch and attempt.
std::vector<size_t> Retire(std::span<const RetentionEntry> entries, uint32_t keep);

}  // namespace gemel::model

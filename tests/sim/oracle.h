// SPDX-License-Identifier: Apache-2.0
//
// Oracle: what must be true of a simulated cluster. Content is a function of (job, step, world,
// rank), so it is recomputed and never stored: stale, torn and misplaced bytes all differ from it.
//
// Invariants checked, each with the first line that breaks it kept in violations():
//   content     a restored shard equals the oracle's bytes for the step that its snapshot names
//   one step    all ranks of an epoch start from the same snapshot
//   not lost    a restore gives at least the newest snapshot that anyone was told is committed, as
//   long as
//               losses stayed within what the placement tolerates
//   monotone    within an epoch commits are told in the order of their sequence numbers, per rank
//   fenced      no commit of an epoch is told with a sequence above what a newer epoch restored
//   from
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/bytes.h"
#include "common/ids.h"

namespace gemel::sim {

class Oracle {
 public:
  // Bytes of a shard: between 1 and kShardBytesMax, different for ranks and steps.
  static uint64_t ShardBytes(const std::string& job, uint64_t step, uint32_t world, uint32_t rank);
  static void FillContent(const std::string& job, uint64_t step, uint32_t world, uint32_t rank,
                          MutableByteSpan out);

  void Committed(const SnapshotId& snapshot, uint32_t rank);
  // The epoch was acquired: what was told before must not be lost to it.
  void EpochAcquired(const EpochId& epoch);
  // `snapshot` is empty when the restore said that the job never committed.
  void Restored(const EpochId& epoch, uint32_t rank, const std::optional<SnapshotId>& snapshot);
  void CheckContent(const SnapshotId& snapshot, uint32_t world, uint32_t rank, ByteSpan bytes);

  // Losses went beyond the placement's tolerance: "not lost" is no longer checked.
  void Overkill() { overkill_ = true; }

  bool overkill() const { return overkill_; }

  void Violation(std::string what);

  const std::vector<std::string>& violations() const { return violations_; }

  uint64_t commits() const { return commits_; }

  uint64_t restores() const { return restores_; }

  uint64_t newest_told() const { return newest_told_; }

 private:
  struct Epoch {
    uint64_t newest_told_before = 0;  // when it was acquired
    bool restored = false;
    std::optional<SnapshotId> from;
    std::map<uint32_t, uint64_t> told;  // newest sequence by rank
  };

  std::map<EpochId, Epoch> epochs_;
  std::vector<std::string> violations_;
  uint64_t newest_told_ = 0;  // sequence
  uint64_t commits_ = 0;
  uint64_t restores_ = 0;
  bool overkill_ = false;
};

}  // namespace gemel::sim

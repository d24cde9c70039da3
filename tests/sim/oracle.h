// SPDX-License-Identifier: Apache-2.0
//
// Oracle: what must be true of a simulated cluster. Content is a function of (job, epoch,
// step, world, rank), so it is recomputed and never stored: stale, torn and misplaced bytes all
// differ from it.
//
// Invariants checked, each with the first line that breaks it kept in violations():
//   content     a restored shard equals the oracle's bytes for the step that its snapshot names
//   one step    all ranks of an epoch start from the same snapshot
//   not lost    a restore gives at least the newest snapshot that anyone was told is committed,
//               as long as losses stayed within what the placement tolerates
//   latest      in the MetaStore, after every transaction: `latest` and the epoch never go
//               back, and `latest` names a commit record that is there
//   on disk     PERSISTED is written with a commit record and never goes back, and is taken away
//   only
//               beside a newer one; after a power cut a restore gives at least the newest that was
//               PERSISTED then, or committed and whole on the disks together
//   fenced      no commit record of a superseded epoch is ever written, and no commit is told with
//               a sequence above what a newer epoch restored from
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/bytes.h"
#include "common/ids.h"
#include "placement/manager/stored.h"
#include "placement/store/sim_store.h"

namespace gemel::sim {

// What the content of a shard is a function of.
struct ShardPlace {
  std::string job;
  EpochId epoch;
  uint64_t step = 0;
  uint32_t world = 0;
  uint32_t rank = 0;
};

class Oracle {
 public:
  // Bytes of a shard: between 1 and kShardBytesMax, different for epochs, steps and ranks.
  static uint64_t ShardBytes(const ShardPlace& place);
  static void FillContent(const ShardPlace& place, MutableByteSpan out);

  // Watches every transaction that is applied to `store`.
  void Watch(SimStoreState* store);

  void Committed(const SnapshotId& snapshot);
  // The epoch was acquired: what was told before must not be lost to it.
  void EpochAcquired(const EpochId& epoch);
  // `snapshot` is empty when the restore said that the job never committed.
  void Restored(const EpochId& epoch, uint32_t rank, const std::optional<SnapshotId>& snapshot);
  void CheckContent(const SnapshotId& snapshot, uint32_t world, uint32_t rank, ByteSpan bytes);

  // All memory is gone at once: what was told may be lost, what is on disk may not: up to sequence
  // `newest_whole` of those that the disks together have whole.
  void PowerCut(uint64_t newest_whole);

  // Losses went beyond the placement's tolerance: "not lost" is no longer checked.
  void Overkill() { overkill_ = true; }

  bool overkill() const { return overkill_; }

  void Violation(std::string what);

  const std::vector<std::string>& violations() const { return violations_; }

  uint64_t commits() const { return commits_; }

  uint64_t restores() const { return restores_; }

  uint64_t newest_told() const { return newest_told_; }

  uint64_t persists() const { return persists_; }

  uint64_t newest_persisted() const { return persisted_.empty() ? 0 : *persisted_.rbegin(); }

 private:
  struct Epoch {
    uint64_t newest_told_before = 0;  // when it was acquired
    bool restored = false;
    std::optional<SnapshotId> from;
  };

  void JobWritten(const std::string& key, const std::string& value, const SimStoreState& store);
  void SnapshotWritten(const std::string& key, const std::string& value,
                       const SimStoreState& store);
  void PersistedWritten(const std::string& key, const std::string& value);
  void PersistedDeleted(const std::string& key);

  std::map<EpochId, Epoch> epochs_;
  std::map<std::string, JobRecord> jobs_;  // by key, as last written
  std::vector<std::string> violations_;
  uint64_t newest_told_ = 0;      // sequence
  std::set<uint64_t> persisted_;  // sequences that are PERSISTED
  uint64_t persists_ = 0;
  uint64_t commits_ = 0;
  uint64_t restores_ = 0;
  bool overkill_ = false;
};

}  // namespace gemel::sim

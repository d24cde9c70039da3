// SPDX-License-Identifier: Apache-2.0
//
// GroundTruth: what servers and disks of a simulated cluster really hold, looked at from outside:
// what the oracle compares with what placement says.
//
// Thread safety: one thread.
// Ownership: borrows the cluster.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/sim/cluster.h"

namespace gemel::sim {

class GroundTruth {
 public:
  explicit GroundTruth(Cluster* cluster) : cluster_(cluster) {}

  // Servers in whose memory the shard is sealed and every chunk matches its digest, and that
  // placement counts: members, alive, in their present incarnation.
  std::vector<uint32_t> MemoriesWith(const ShardId& shard) const;
  // Without what was only brought there for a reader: of that placement is told at no receipt.
  std::vector<uint32_t> CopiesOf(const ShardId& shard) const;
  // The same, on disk.
  std::vector<uint32_t> DisksWith(const ShardId& shard) const;
  // False once it was retired there, and is kept on disks alone: whoever has it in memory drops it.
  bool IsKeptInMemory(const SnapshotId& id) const;
  // Disks that have its commit record, whoever is up.
  size_t DisksWithRecord(const SnapshotId& snapshot) const;
  // Sequence of the job's newest snapshot that is committed, that no newer ones may be retiring at
  // this moment, and that the disks together have whole and undamaged; 0: none.
  uint64_t NewestWholeOnDisks(const std::string& job) const;

  // The domains of these servers at `level`, as placement/model counts them.
  size_t DomainsOf(const std::vector<uint32_t>& servers, uint32_t level) const;

  // Budgets, and slabs that two may write: what is wrong, in words.
  std::vector<std::string> CheckMemory() const;
  // What servers believe of their disks: nothing that decayed, and no commit record but those that
  // were committed. A power cut now would leave them, and what the disk said is saved of the
  // identity, unless something `hurt` what is on disks. What is wrong, in words.
  std::vector<std::string> CheckDisks(bool hurt) const;
  // Uploads, restores and stages that nobody needs any more.
  std::vector<std::string> Leftovers() const;

 private:
  // As many newer ones are committed as its job keeps.
  bool MayRetire(const model::CommitRecord& record) const;
  std::string IdentityFault(uint32_t index, const Identity& identity) const;
  std::string RecordFault(uint32_t index, const std::string& raw, bool hurt) const;
  void CheckSlabs(uint32_t index, const Server& server, std::vector<std::string>* wrong) const;
  void CheckHolders(uint32_t index, const SlabPool& pool, std::vector<std::string>* wrong) const;

  Cluster* const cluster_;
};

}  // namespace gemel::sim

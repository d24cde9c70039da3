// SPDX-License-Identifier: Apache-2.0
//
// RepairPlanner: what a committed shard lacks, and which members the missing copies go to.
//
// The target is min(m, N) copies in min(m, D) domains, N and D counted over the placeable members
// (D as in receipts.h): a draining member's copies are sources, and count for nothing. Holders are
// gathered in order:
//   1. the placeable members that have a copy, and those that one is under way to;
//   2. until enough domains are covered, members that open a new one; then, until there are enough
//      copies, any; each time from these candidates in turn:
//        a. the heir: the member that takes over the slot of a server that is gone,
//        b. the assignment's holders of the first placeable member with a copy,
//        c. the other placeable members, the next after that one first.
// A barred member (no room, failed lately) is no candidate. When too few are left, the shard is
// `blocked`, and what can be had is had.
//
// Thread safety: values; any thread. Deterministic: depends on its arguments only.
// Ownership: borrows members and assignment, which outlive it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "placement/model/assignment.h"
#include "placement/model/cluster_map.h"

namespace gemel::model {

// One committed shard. All are indices of the map.
struct RepairShard {
  std::vector<uint32_t> holders;  // Live members with a copy, draining ones too.
  std::vector<uint32_t> pulling;  // Members that one is under way to.
  std::optional<uint32_t> heir;
  std::vector<uint32_t> barred;
};

// Invariant: targets are placeable, no holders, not pulling, not barred.
struct RepairTargets {
  std::vector<uint32_t> targets;  // Start pulling there.
  bool blocked = false;           // Something stays missing when all of these have it.
};

class RepairPlanner {
 public:
  // REQUIRES: `assignment` was built from `members`.
  RepairPlanner(std::span<const Member> members, const Assignment& assignment);

  // Members of the map, and whether one may get new copies.
  uint32_t members() const { return static_cast<uint32_t>(members_.size()); }

  bool placeable(uint32_t member) const { return members_[member].placeable; }

  // Equal exactly when two members share a domain at the assignment's level.
  uint32_t domain(uint32_t member) const { return domain_ids_[member]; }

  // Copies of a shard that lacks nothing: min(m, N).
  uint32_t copies() const { return copies_; }

  // Copies that placeable members lack; 1 when only a domain is lacking; 0: nothing is.
  // REQUIRES: indices < members.size().
  uint32_t Missing(std::span<const uint32_t> holders) const;

  RepairTargets TargetsOf(const RepairShard& shard) const;

 private:
  class Gathering;
  Gathering Have(std::span<const uint32_t> holders) const;
  std::vector<uint32_t> Candidates(const RepairShard& shard, const Gathering& have) const;

  const std::span<const Member> members_;
  const Assignment& assignment_;
  const std::vector<uint32_t> domain_ids_;
  const uint32_t copies_;
  const uint32_t domains_;
};

}  // namespace gemel::model

// SPDX-License-Identifier: Apache-2.0
//
// When a shard has enough receipts to commit, and when it has all of them.
//
// The rule, for one shard, a policy of `copies` = m with `min_copies` <= m, and receipts from a set
// R of different members:
//
//   enough  <=>  |R| >= min_copies  and  domains(R) >= min(min_copies, D)
//   full    <=>  |R| >= m           and  domains(R) >= min(m, D)
//
// where D is the number of distinct domains among the placeable members of the present map, and
// domains(R) the number among R, both at the level of the assignment that the snapshot was opened
// under. So a cluster of
// too few domains may put copies side by side in one domain, but never fewer copies than
// min_copies: with min_copies = 2 a snapshot on a single surviving server waits and then fails.
// A commit that is enough but not full is marked REDUNDANCY_LOW.
//
// Thread safety: pure functions; any thread.
#pragma once

#include <cstdint>
#include <span>

#include "placement/model/cluster_map.h"

namespace gemel::model {

// How domains are counted for one snapshot.
struct DomainRule {
  uint32_t level = 1;    // Fixed when the snapshot is opened: Assignment::level.
  uint32_t domains = 0;  // D above; counted again with every version of the map.
};

// The rule on the present map. REQUIRES: level >= 1.
DomainRule RuleOn(std::span<const Member> members, uint32_t level);

// What a shard has and what it needs.
struct ReceiptCount {
  uint32_t copies = 0;   // |R|
  uint32_t domains = 0;  // domains(R)
  bool enough = false;
  bool full = false;
};

struct CopyPolicy {
  uint32_t copies = 2;      // In [1, kCopiesMax].
  uint32_t min_copies = 2;  // In [1, copies].
};

// Distinct domains at `level` of the given members; a member given twice counts once.
// REQUIRES: every index < members.size().
uint32_t CountDistinctDomains(std::span<const Member> members, std::span<const uint32_t> holders,
                              uint32_t level);

// Applies the rule above. `receipts`: members that are alive and whose receipt is of their present
// incarnation; one given twice counts once. A draining member counts as long as it is alive.
ReceiptCount CountReceipts(std::span<const Member> members, std::span<const uint32_t> receipts,
                           const CopyPolicy& policy, const DomainRule& rule);

// CountReceipts(...).enough.
bool EnoughReceipts(std::span<const Member> members, std::span<const uint32_t> receipts,
                    const CopyPolicy& policy, const DomainRule& rule);

}  // namespace gemel::model

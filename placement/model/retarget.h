// SPDX-License-Identifier: Apache-2.0
//
// Retarget: what a change of the members means for a shard that is being saved or re-protected.
// Only missing receipts move: every receipt that is there counts, and a holder that is still alive
// and still receiving keeps its place.
//
// The target is min(m, N) copies in min(m, D) domains (D as in receipts.h). Holders are gathered in
// order:
//   1. the live members with a receipt, all of them;
//   2. until enough domains are covered, members that open a new one; then, until there are enough
//      copies, any; each time from these candidates in turn:
//        a. the old holders that are still placeable (bytes are already under way to them),
//        b. the new assignment's holders of the owner, or, when the owner has left the map, of the
//           first member with a receipt,
//        c. the other placeable members, the next after the owner first;
//      of b. and c. those that are known to have no room last.
//
// Thread safety: pure function; any thread. Deterministic: depends on its arguments only.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "placement/model/assignment.h"
#include "placement/model/cluster_map.h"

namespace gemel::model {

// One shard. All indices are of the NEW map: the caller translates, and leaves out who is gone.
struct ShardState {
  std::optional<uint32_t> owner;      // Absent when the owner's server has left the map.
  std::vector<uint32_t> old_holders;  // As planned so far, in their order.
  std::vector<uint32_t> receipts;     // Live members with a receipt of their present incarnation.
  std::vector<uint32_t> full;         // Members without room for it, but for the old holders.
};

struct Retargeted {
  std::vector<uint32_t> holders;  // The new plan: those with a receipt first, then `needed`.
  std::vector<uint32_t> needed;   // Holders whose receipt is missing; a subset of `holders`.
  std::vector<uint32_t> added;    // Of `needed`, those not among old_holders: start sending here.
  std::vector<uint32_t> dropped;  // Old holders without receipt no longer planned: abort there.
};

// `level`: at which domains are told apart, that of the assignment the snapshot was opened under.
// Once all of `needed` have sent receipts, CountReceipts(...).full holds for copies = next.copies,
// unless the map has fewer members than copies.
// REQUIRES: `next` was built from `members`; indices < members.size(); level >= 1.
Retargeted Retarget(std::span<const Member> members, const Assignment& next,
                    const ShardState& shard, uint32_t level);

}  // namespace gemel::model

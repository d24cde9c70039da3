// SPDX-License-Identifier: Apache-2.0
//
// BuildGroups: which members keep copies of which member's shards.
//
// Source: Gemini (Wang et al., SOSP 2023), Algorithm 1. N placeable members, m copies, the first
// one local. *Group*, when m divides N: N/m disjoint groups, everyone in a group stores everyone in
// it. *Mixed*, otherwise: floor(N/m) - 1 groups of m, and the last N - m*(floor(N/m) - 1) members
// form a ring in which each stores on its m - 1 successors. Theorem 1: group is optimal when m | N,
// and mixed is within (2m - 3) / C(N, m) of the optimum otherwise. *Ring*, where a job asks for it:
// one ring of all members. It survives fewer losses (N fatal m-sets instead of N/m), and every
// member sends to and receives from others than its neighbours of one group.
//
// Failure domains. Two copies of a shard shall not be in one domain when it can be avoided:
//   * The members are dealt to the G groups in turn, in depth-first order of the tree of domains.
//     Every domain is a contiguous run of that order, so a domain of s members puts floor(s/G) or
//     ceil(s/G) into each group, at all levels at once. No other partition does better: with group
//     placement a domain is separable if and only if s <= G.
//   * Any two of the mixed ring's members (fewer than 2m) share a holder set, so that ring takes at
//     most one member of each domain, from the largest domains first; the rest is dealt as above.
//   * The ring of all members is read off floor(N/m) rows, to which the members are dealt in turn
//     (separation.h). It separates every level at which no domain has more members than that, and
//     no order of a ring separates any other.
//   * The coarsest level is chosen at which no holder set has two copies in a domain. Where dealing
//     alone does not reach that, single holder sets are changed by hand: a copy that shares a
//     domain moves to the least loaded member of an unused one. That must separate the whole level
//     with no member above kLoadFactorMax * m copies; otherwise the next finer level is tried.
//   * At the finest level (whole paths) the load limit does not hold: safety before balance. So two
//     copies share a whole path only when the map has fewer than m different ones; these members
//     are listed in `conflicts`.
//
// Thread safety: pure function; any thread. Deterministic: depends on its arguments only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/strategy.h"
#include "placement/model/cluster_map.h"

namespace gemel::model {

// A level coarser than whole paths is given up when a member would hold more than this times m.
inline constexpr uint32_t kLoadFactorMax = 2;

enum class Strategy : uint8_t {
  kEmpty,  // No placeable member.
  kAll,    // Fewer members than copies: everyone stores everyone; Assignment::degraded.
  kGroup,  // m divides N.
  kMixed,  // Groups and one ring.
  kRing,   // One ring of all, because it was asked for.
};

// Invariants:
//   (1) holders[i] is empty for a member that is not placeable; otherwise it begins with i, has
//       min(copies, N) different placeable members, and lists them in the order to send in.
//   (2) every placeable member is in exactly one group.
//   (3) no holder set has two members of one domain at `level`, but for those in `conflicts`.
struct Assignment {
  Strategy strategy = Strategy::kEmpty;
  uint32_t copies = 0;    // m as asked for, the local copy included.
  uint32_t members = 0;   // N: placeable members.
  uint32_t level = 1;     // The level at which domains are told apart (cluster_map.h).
  uint32_t domains = 0;   // Distinct domains at `level` among the placeable members.
  bool degraded = false;  // N < m: fewer copies than asked for.
  std::vector<std::vector<uint32_t>> groups;   // In the ring's order for the ring, which is last.
  std::vector<std::vector<uint32_t>> holders;  // By owner.
  std::vector<uint32_t> conflicts;             // Owners with two copies in one domain; ascending.
  std::vector<uint32_t> moved;  // Owners whose set is not their group's or ring's; ascending.
};

// REQUIRES: 1 <= copies <= kCopiesMax; at most kMembersMax members, with valid domains.
Assignment BuildGroups(std::span<const Member> members, uint32_t copies,
                       StrategyChoice choice = StrategyChoice::kGroup);

// Number of copies that each member holds, its own included.
std::vector<uint32_t> Loads(const Assignment& assignment);

// "empty", "all", "group", "mixed" or "ring".
const char* StrategyName(Strategy strategy);

}  // namespace gemel::model

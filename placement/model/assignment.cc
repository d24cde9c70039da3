// SPDX-License-Identifier: Apache-2.0
#include "placement/model/assignment.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "common/check.h"
#include "placement/model/separation.h"

namespace gemel::model {
namespace {

// Groups by Algorithm 1, or one ring, arranged for the domains at `level`. A ring is last.
std::vector<std::vector<uint32_t>> Arrange(std::span<const Member> members, uint32_t copies,
                                           uint32_t level, Strategy strategy) {
  std::vector<uint32_t> order = DomainOrder(members);
  if (strategy == Strategy::kAll) {
    return {order};
  }
  if (strategy == Strategy::kRing) {
    return {RingOrder(members, level, copies)};
  }
  std::vector<uint32_t> ring;
  if (order.size() % copies != 0) {
    const size_t groups = order.size() / copies - 1;
    ring = TakeRing(members, level, order.size() - groups * copies, order);
    GEMEL_CHECK_GT(ring.size(), size_t{copies});
    GEMEL_CHECK_LT(ring.size(), size_t{copies} * 2);
  }
  std::vector<std::vector<uint32_t>> groups = DealGroups(order, copies);
  if (!ring.empty()) {
    groups.push_back(std::move(ring));
  }
  return groups;
}

// Each member and its successors in its group, `copies` in all: for a group of that size everyone,
// for the ring the next ones.
HolderTable HoldersOf(const std::vector<std::vector<uint32_t>>& groups, size_t members,
                      uint32_t copies) {
  HolderTable holders(members);
  for (const std::vector<uint32_t>& group : groups) {
    const size_t count = std::min<size_t>(copies, group.size());
    for (size_t i = 0; i < group.size(); ++i) {
      std::vector<uint32_t>& set = holders[group[i]];
      GEMEL_CHECK(set.empty()) << "member " << group[i] << " is in two groups";
      for (size_t step = 0; step < count; ++step) {
        set.push_back(group[(i + step) % group.size()]);
      }
    }
  }
  return holders;
}

uint32_t LargestLoad(const HolderTable& holders) {
  std::vector<uint32_t> loads(holders.size(), 0);
  uint32_t largest = 0;
  for (const std::vector<uint32_t>& set : holders) {
    for (const uint32_t holder : set) {
      largest = std::max(largest, ++loads[holder]);
    }
  }
  return largest;
}

Strategy StrategyFor(uint32_t members, uint32_t copies, StrategyChoice choice) {
  if (members == 0) {
    return Strategy::kEmpty;
  }
  if (members < copies) {
    return Strategy::kAll;
  }
  if (choice == StrategyChoice::kRing) {
    return Strategy::kRing;
  }
  return members % copies == 0 ? Strategy::kGroup : Strategy::kMixed;
}

// Fills in groups and holders for `level`; false when a finer level has to be tried.
bool TryLevel(std::span<const Member> members, uint32_t level, bool finest, Assignment& result) {
  const std::vector<uint32_t> ids = DomainIds(members, level);
  result.groups = Arrange(members, result.copies, level, result.strategy);
  HolderTable holders = HoldersOf(result.groups, members.size(), result.copies);
  const uint32_t load_max = kLoadFactorMax * result.copies;
  const std::optional<uint32_t> limit = finest ? std::nullopt : std::optional(load_max);
  Separation separation = Separate(members, ids, std::move(holders), limit);
  if (!finest && !separation.conflicts.empty()) {
    return false;
  }
  GEMEL_CHECK(finest || LargestLoad(separation.holders) <= load_max);
  result.level = level;
  result.holders = std::move(separation.holders);
  result.conflicts = std::move(separation.conflicts);
  result.moved = std::move(separation.moved);
  return true;
}

void CheckInvariants(std::span<const Member> members, const Assignment& result) {
  GEMEL_CHECK_EQ(result.holders.size(), members.size());
  const size_t size = std::min(result.copies, result.members);
  for (size_t i = 0; i < members.size(); ++i) {
    const std::vector<uint32_t>& set = result.holders[i];
    GEMEL_CHECK_EQ(set.size(), members[i].placeable ? size : 0) << "member " << i;
    GEMEL_CHECK(set.empty() || set.front() == i) << "member " << i << " lacks its own copy";
    for (size_t a = 0; a < set.size(); ++a) {
      GEMEL_CHECK(members[set[a]].placeable) << "member " << i << " on spare " << set[a];
      GEMEL_CHECK(std::find(set.begin() + a + 1, set.end(), set[a]) == set.end())
          << "member " << i << " stores twice on " << set[a];
    }
  }
}

}  // namespace

Assignment BuildGroups(std::span<const Member> members, uint32_t copies, StrategyChoice choice) {
  GEMEL_CHECK_GE(copies, 1u);
  GEMEL_CHECK_LE(copies, kCopiesMax);
  GEMEL_CHECK(IsValid(choice)) << static_cast<int>(choice);
  GEMEL_CHECK_LE(members.size(), size_t{kMembersMax});
  Assignment result;
  result.copies = copies;
  result.members = static_cast<uint32_t>(DomainOrder(members).size());
  result.strategy = StrategyFor(result.members, copies, choice);
  result.degraded = result.members < copies;
  if (result.members == 0) {
    result.holders.resize(members.size());
    return result;
  }
  const uint32_t deepest = DeepestLevel(members);
  for (uint32_t level = 1; level <= deepest; ++level) {
    const bool finest = level == deepest;
    // Too few domains: no holder set can be separated at this level.
    const bool hopeless = CountDomains(members, level) < std::min(copies, result.members);
    if ((finest || !hopeless) && TryLevel(members, level, finest, result)) {
      break;
    }
  }
  result.domains = CountDomains(members, result.level);
  GEMEL_CHECK(result.conflicts.empty() || result.domains < std::min(copies, result.members));
  CheckInvariants(members, result);
  return result;
}

std::vector<uint32_t> Loads(const Assignment& assignment) {
  std::vector<uint32_t> loads(assignment.holders.size(), 0);
  for (const std::vector<uint32_t>& set : assignment.holders) {
    for (const uint32_t holder : set) {
      GEMEL_CHECK_LT(holder, loads.size());
      ++loads[holder];
    }
  }
  return loads;
}

const char* StrategyName(Strategy strategy) {
  switch (strategy) {
    case Strategy::kEmpty:
      return "empty";
    case Strategy::kAll:
      return "all";
    case Strategy::kGroup:
      return "group";
    case Strategy::kMixed:
      return "mixed";
    case Strategy::kRing:
      return "ring";
  }
  GEMEL_CHECK(false) << "strategy " << static_cast<int>(strategy);
  return "";
}

}  // namespace gemel::model

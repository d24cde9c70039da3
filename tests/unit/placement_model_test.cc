// SPDX-License-Identifier: Apache-2.0
//
// Groups, rings and domains: properties over all small clusters and many random ones.
#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "gtest/gtest.h"

#include "placement/model/assignment.h"
#include "placement/model/explain.h"
#include "tests/unit/placement_model_shapes.h"

namespace gemel::model {
namespace {

constexpr int kRandomClusters = 3000;

// How many pairs of one holder set share a domain, over all sets.
uint32_t SharedPairs(const Assignment& assignment, const std::vector<uint32_t>& ids) {
  uint32_t pairs = 0;
  for (const auto& set : assignment.holders) {
    for (size_t a = 0; a < set.size(); ++a) {
      for (size_t b = a + 1; b < set.size(); ++b) {
        pairs += ids[set[a]] == ids[set[b]] ? 1 : 0;
      }
    }
  }
  return pairs;
}

std::vector<uint32_t> Placeable(const std::vector<Member>& members) {
  std::vector<uint32_t> list;
  for (uint32_t i = 0; i < members.size(); ++i) {
    if (members[i].placeable) {
      list.push_back(i);
    }
  }
  return list;
}

std::map<uint32_t, uint32_t> DomainSizes(const std::vector<Member>& members, uint32_t level) {
  const std::vector<uint32_t> ids = DomainIds(members, level);
  std::map<uint32_t, uint32_t> sizes;
  for (const uint32_t member : Placeable(members)) {
    ++sizes[ids[member]];
  }
  return sizes;
}

// The exact condition for Algorithm 1 to separate a level without moving a copy (assignment.h).
bool Separable(const std::vector<Member>& members, uint32_t copies, uint32_t level) {
  const std::map<uint32_t, uint32_t> sizes = DomainSizes(members, level);
  const auto n = static_cast<uint32_t>(Placeable(members).size());
  if (n < copies || n % copies == 0) {
    const uint32_t groups = n < copies ? 1 : n / copies;
    return std::all_of(sizes.begin(), sizes.end(), [&](auto& s) { return s.second <= groups; });
  }
  const uint32_t groups = n / copies - 1;
  const uint32_t ring = n - groups * copies;
  uint32_t forced = 0;
  for (const auto& [domain, size] : sizes) {
    if (size > groups + 1) {
      return false;
    }
    forced += size == groups + 1 ? 1 : 0;
  }
  return sizes.size() >= ring && forced <= ring;
}

void ExpectWellFormed(const std::vector<Member>& members, uint32_t copies,
                      const Assignment& result) {
  const std::vector<uint32_t> placeable = Placeable(members);
  const auto n = static_cast<uint32_t>(placeable.size());
  ASSERT_EQ(result.members, n);
  ASSERT_EQ(result.degraded, n < copies);
  std::vector<uint32_t> grouped;
  for (size_t i = 0; i < result.groups.size(); ++i) {
    const bool ring = result.strategy == Strategy::kMixed && i + 1 == result.groups.size();
    const size_t want = n < copies ? n : ring ? n - copies * (n / copies - 1) : copies;
    ASSERT_EQ(result.groups[i].size(), want);
    grouped.insert(grouped.end(), result.groups[i].begin(), result.groups[i].end());
  }
  std::sort(grouped.begin(), grouped.end());
  ASSERT_EQ(grouped, placeable) << "the groups partition the placeable members";
  for (uint32_t i = 0; i < members.size(); ++i) {
    const std::vector<uint32_t>& set = result.holders[i];
    ASSERT_EQ(set.size(), members[i].placeable ? std::min(n, copies) : 0);
    ASSERT_EQ(std::set<uint32_t>(set.begin(), set.end()).size(), set.size());
    ASSERT_TRUE(set.empty() || set.front() == i);
    for (const uint32_t holder : set) {
      ASSERT_TRUE(members[holder].placeable);
    }
  }
}

// Sets that were not moved are those of Algorithm 1.
void ExpectAlgorithmOne(const Assignment& result) {
  for (const auto& group : result.groups) {
    for (size_t i = 0; i < group.size(); ++i) {
      if (std::binary_search(result.moved.begin(), result.moved.end(), group[i])) {
        continue;
      }
      const auto& set = result.holders[group[i]];
      ASSERT_EQ(set.size(), std::min<size_t>(result.copies, group.size()));
      std::set<uint32_t> want;
      for (size_t step = 0; step < set.size(); ++step) {
        want.insert(group[(i + step) % group.size()]);
      }
      ASSERT_EQ(std::set<uint32_t>(set.begin(), set.end()), want) << "owner " << group[i];
    }
  }
}

void ExpectSeparated(const std::vector<Member>& members, uint32_t copies,
                     const Assignment& result) {
  const std::vector<uint32_t> ids = DomainIds(members, result.level);
  const uint32_t deepest = DeepestLevel(members);
  ASSERT_EQ(result.domains, CountDomains(members, result.level));
  if (CountDomains(members, deepest) >= std::min(copies, result.members)) {
    ASSERT_TRUE(result.conflicts.empty()) << "a shared domain could be avoided";
    ASSERT_EQ(SharedPairs(result, ids), 0u);
  } else {
    ASSERT_EQ(result.conflicts.size(), result.members) << "every set has too few domains";
  }
  for (uint32_t level = 1; level < deepest; ++level) {
    if (Separable(members, copies, level)) {
      ASSERT_LE(result.level, level) << "a coarser level could be separated";
      break;
    }
  }
  if (Separable(members, copies, result.level)) {
    ASSERT_TRUE(result.moved.empty()) << "a copy moved without need";
  }
  if (result.level < deepest) {
    const std::vector<uint32_t> loads = Loads(result);
    ASSERT_LE(*std::max_element(loads.begin(), loads.end()), kLoadFactorMax * copies);
  }
}

// Dealing in depth-first order balances every domain at every level.
void ExpectBalanced(const std::vector<Member>& members, const Assignment& result) {
  if (result.strategy != Strategy::kGroup) {
    return;
  }
  for (uint32_t level = 1; level <= DeepestLevel(members); ++level) {
    const std::vector<uint32_t> ids = DomainIds(members, level);
    for (const auto& [domain, size] : DomainSizes(members, level)) {
      const size_t low = size / result.groups.size();
      for (const auto& group : result.groups) {
        const auto count = static_cast<size_t>(std::count_if(
            group.begin(), group.end(), [&](uint32_t m) { return ids[m] == domain; }));
        ASSERT_GE(count, low);
        ASSERT_LE(count, low + (size % result.groups.size() != 0 ? 1 : 0));
      }
    }
  }
}

void ExpectAll(const std::vector<Member>& members, uint32_t copies) {
  const Assignment result = BuildGroups(members, copies);
  ExpectWellFormed(members, copies, result);
  if (result.members == 0) {
    return;
  }
  ExpectAlgorithmOne(result);
  ExpectSeparated(members, copies, result);
  ExpectBalanced(members, result);
}

TEST(PlacementModelMap, RefusesBadDomainsByName) {
  for (const std::string& bad :
       {std::string(), std::string("/a"), std::string("a/"), std::string("a//b"),
        std::string("a/b/c/d/e/f/g/h/i"), std::string(256, 'x')}) {
    EXPECT_EQ(ValidateDomain(bad).code(), absl::StatusCode::kInvalidArgument) << bad;
  }
  EXPECT_TRUE(ValidateDomain("pod0/rack3/host7").ok());
  ClusterMap map{.version = 3, .members = InDomains({"a", "b//c"})};
  const absl::Status status = Validate(map);
  EXPECT_NE(std::string(status.message()).find("map 3 member 1"), std::string::npos) << status;
  map.members.pop_back();
  EXPECT_TRUE(Validate(map).ok());
  map.version = 0;
  EXPECT_FALSE(Validate(map).ok());
}

TEST(PlacementModelMap, RefusesTooManyMembers) {
  const ClusterMap map{.version = 1, .members = OwnDomains(kMembersMax + 1)};
  EXPECT_EQ(Validate(map).code(), absl::StatusCode::kInvalidArgument);
}

TEST(PlacementModelMap, DomainsOfEveryLevelAreContiguousInDomainOrder) {
  SplitMix random(1);
  for (int round = 0; round < kRandomClusters; ++round) {
    const std::vector<Member> members = RandomCluster(random, 40);
    const std::vector<uint32_t> order = DomainOrder(members);
    for (uint32_t level = 1; level <= DeepestLevel(members); ++level) {
      const std::vector<uint32_t> ids = DomainIds(members, level);
      std::set<uint32_t> closed;
      for (size_t i = 1; i < order.size(); ++i) {
        if (ids[order[i]] != ids[order[i - 1]]) {
          closed.insert(ids[order[i - 1]]);
        }
        ASSERT_FALSE(closed.contains(ids[order[i]])) << "round " << round;
      }
    }
  }
}

TEST(PlacementModelMap, ComparesPathsByComponentNotByCharacter) {
  // '-' sorts before '/': as strings "a-b/x" would stand between "a" and "a/x".
  const std::vector<Member> members = InDomains({"a/x", "a-b/x", "a/y", "a"});
  EXPECT_EQ(DomainOrder(members), (std::vector<uint32_t>{3, 0, 2, 1}));
  EXPECT_EQ(CountDomains(members, 1), 2u);
  EXPECT_EQ(CountDomains(members, 2), 4u);
}

TEST(PlacementModelAssignment, HoldsForEveryShapeOfUpToEightMembers) {
  ExpectOnEveryShape(ExpectAll);
}

TEST(PlacementModelAssignment, HoldsForRandomTreesOfUpToFortyMembers) {
  SplitMix random(2);
  for (int round = 0; round < kRandomClusters; ++round) {
    const std::vector<Member> members = RandomCluster(random, 40);
    for (uint32_t copies = 1; copies <= 4; ++copies) {
      ExpectAll(members, copies);
      ASSERT_FALSE(HasFatalFailure()) << "round " << round << ", " << copies << " copies";
    }
  }
}

// Whether some partition of `left` into groups of `copies` has no group with a shared domain.
bool SomePartitionSeparates(std::vector<uint32_t> left, uint32_t copies,
                            const std::vector<uint32_t>& ids) {
  if (left.empty()) {
    return true;
  }
  std::vector<bool> chosen(left.size(), false);
  std::fill(chosen.begin(), chosen.begin() + copies, true);
  do {
    if (!chosen[0]) {
      break;  // Without loss of generality the first member is in the first group.
    }
    std::set<uint32_t> domains;
    std::vector<uint32_t> rest;
    for (size_t i = 0; i < left.size(); ++i) {
      if (chosen[i]) {
        domains.insert(ids[left[i]]);
      } else {
        rest.push_back(left[i]);
      }
    }
    if (domains.size() == copies && SomePartitionSeparates(rest, copies, ids)) {
      return true;
    }
  } while (std::prev_permutation(chosen.begin(), chosen.end()));
  return false;
}

// The same with a ring of `ring` members, any two of which share a holder set.
bool SomeRingSeparates(uint32_t n, uint32_t copies, const std::vector<uint32_t>& ids) {
  const uint32_t ring = n - copies * (n / copies - 1);
  std::vector<bool> chosen(n, false);
  std::fill(chosen.begin(), chosen.begin() + ring, true);
  do {
    std::set<uint32_t> domains;
    std::vector<uint32_t> rest;
    for (uint32_t i = 0; i < n; ++i) {
      if (chosen[i]) {
        domains.insert(ids[i]);
      } else {
        rest.push_back(i);
      }
    }
    if (domains.size() == ring && SomePartitionSeparates(rest, copies, ids)) {
      return true;
    }
  } while (std::prev_permutation(chosen.begin(), chosen.end()));
  return false;
}

TEST(PlacementModelAssignment, MovesNoCopyWhenAnyPartitionOfAlgorithmOneSeparates) {
  for (uint32_t n = 2; n <= 8; ++n) {
    for (uint32_t copies = 2; copies <= std::min(n, 4u); ++copies) {
      ForEachShape(n, [&](const std::vector<Member>& members) {
        const std::vector<uint32_t> ids = DomainIds(members, 1);
        std::vector<uint32_t> all(n);
        std::iota(all.begin(), all.end(), 0u);
        const bool possible = n % copies == 0 ? SomePartitionSeparates(all, copies, ids)
                                              : SomeRingSeparates(n, copies, ids);
        const Assignment result = BuildGroups(members, copies);
        ASSERT_EQ(possible, result.moved.empty() && result.conflicts.empty())
            << n << " members, " << copies << " copies";
      });
      ASSERT_FALSE(HasFatalFailure());
    }
  }
}

TEST(PlacementModelAssignment, AnyTwoMembersOfARingShareAHolderSet) {
  for (uint32_t copies = 2; copies <= 8; ++copies) {
    for (uint32_t n = copies + 1; n < 2 * copies; ++n) {
      const Assignment result = BuildGroups(OwnDomains(n), copies);
      ASSERT_EQ(result.strategy, Strategy::kMixed);
      for (uint32_t a = 0; a < n; ++a) {
        for (uint32_t b = 0; b < a; ++b) {
          EXPECT_TRUE(std::any_of(result.holders.begin(), result.holders.end(),
                                  [&](auto& set) {
                                    return std::count(set.begin(), set.end(), a) == 1 &&
                                           std::count(set.begin(), set.end(), b) == 1;
                                  }))
              << n << " members, " << copies << " copies: " << a << " and " << b;
        }
      }
    }
  }
}

TEST(PlacementModelAssignment, PrefersTheCoarsestDomainThatSeparates) {
  const Assignment pods = BuildGroups(InDomains({"p0/r0", "p0/r1", "p1/r0", "p1/r1"}), 2);
  EXPECT_EQ(pods.level, 1u);
  const Assignment racks = BuildGroups(InDomains({"p0/r0", "p0/r0", "p0/r1", "p0/r1"}), 2);
  EXPECT_EQ(racks.level, 2u);
  EXPECT_TRUE(racks.conflicts.empty());
}

TEST(PlacementModelAssignment, OverloadsNoServerForACoarserDomain) {
  std::vector<std::string> domains = {"p1/h0"};
  for (int i = 0; i < 11; ++i) {
    domains.push_back("p0/h" + std::to_string(i));
  }
  const Assignment result = BuildGroups(InDomains(domains), 2);
  EXPECT_EQ(result.level, 2u) << "p1's one server would hold twelve copies";
  EXPECT_TRUE(result.moved.empty());
}

TEST(PlacementModelAssignment, GoesPastTheLoadLimitRatherThanShareTheLastDomain) {
  const std::vector<std::string> domains = {"a", "a", "a", "a", "a", "a", "b"};
  const Assignment result = BuildGroups(InDomains(domains), 2);
  EXPECT_TRUE(result.conflicts.empty());
  EXPECT_EQ(Loads(result)[6], 7u);
}

TEST(PlacementModelAssignment, ReportsASharedDomainThatCannotBeAvoided) {
  const Assignment result = BuildGroups(InDomains({"a", "a", "a", "a"}), 2);
  EXPECT_EQ(result.conflicts, (std::vector<uint32_t>{0, 1, 2, 3}));
  EXPECT_FALSE(result.degraded);
}

TEST(PlacementModelAssignment, StoresOnAllWhenThereAreFewerMembersThanCopies) {
  const Assignment result = BuildGroups(OwnDomains(2), 3);
  EXPECT_EQ(result.strategy, Strategy::kAll);
  EXPECT_TRUE(result.degraded);
  EXPECT_EQ(result.holders, (std::vector<std::vector<uint32_t>>{{0, 1}, {1, 0}}));
}

TEST(PlacementModelAssignment, GivesSparesNoSlot) {
  std::vector<Member> members = OwnDomains(5);
  members[1].placeable = false;
  const Assignment result = BuildGroups(members, 2);
  EXPECT_EQ(result.strategy, Strategy::kGroup);
  EXPECT_TRUE(result.holders[1].empty());
  EXPECT_EQ(Loads(result), (std::vector<uint32_t>{2, 0, 2, 2, 2}));
  members.assign(3, {.domain = "a", .placeable = false});
  EXPECT_EQ(BuildGroups(members, 2).strategy, Strategy::kEmpty);
  EXPECT_EQ(BuildGroups({}, 2).strategy, Strategy::kEmpty);
}

TEST(PlacementModelAssignment, DependsOnlyOnWhichPathsAreEqualUpToTheirOrder) {
  const Assignment plain = BuildGroups(InDomains({"a/1", "a/2", "b/1", "b/2", "c/1"}), 2);
  const Assignment renamed = BuildGroups(InDomains({"x/5", "x/6", "y/5", "y/6", "z/5"}), 2);
  EXPECT_EQ(plain.holders, renamed.holders);
}

TEST(PlacementModelAssignment, PlacesTheLargestCluster) {
  std::vector<Member> members;
  for (uint32_t i = 0; i < kMembersMax; ++i) {
    members.push_back({.domain = "pod" + std::to_string(i / 1024) + "/rack" +
                                 std::to_string(i / 16) + "/host" + std::to_string(i)});
  }
  const Assignment result = BuildGroups(members, 3);
  EXPECT_EQ(result.strategy, Strategy::kMixed);
  EXPECT_EQ(result.level, 1u);
  EXPECT_TRUE(result.moved.empty());
}

TEST(PlacementModelExplain, NamesGroupsHoldersDomainsAndOdds) {
  ClusterMap map{.version = 7, .members = InDomains({"r0/h0", "r0/h1", "r1/h0", "r1/h1", "r2/h0"})};
  map.members.push_back({.domain = "r3/h0", .placeable = false});
  const Explanation explanation = Explain(map, BuildGroups(map.members, 2));
  EXPECT_EQ(explanation.spares, 1u);
  EXPECT_EQ(explanation.load_max, 2u);
  EXPECT_EQ(explanation.survival.size(), 4u);
  const std::vector<std::string> names = {"s0", "s1", "s2", "s3", "s4", "s5"};
  const std::vector<std::string> lines = ExplainLines(explanation, names);
  const std::vector<std::string> want = {
      "map 7: 5 members, 1 spares, 2 copies, strategy mixed",
      "domains: 3 at level 1; at most 2 copies on a member",
      "group 0: s1 s3",
      "ring 1: s0 s2 s4",
      "s0 -> s0 (r0/h0), s2 (r1/h0)",
      "s1 -> s1 (r0/h1), s3 (r1/h1)",
      "s2 -> s2 (r1/h0), s4 (r2/h0)",
      "s3 -> s3 (r1/h1), s1 (r0/h1)",
      "s4 -> s4 (r2/h0), s0 (r0/h0)",
      "P(survive 1 lost at once) = 1.0000 (Corollary 1: 1.0000)",
      "P(survive 2 lost at once) = 0.6000 (Corollary 1: 0.7500)",
      "P(survive 3 lost at once) = 0.0000 (Corollary 1: 0.2500)",
      "P(survive 4 lost at once) = 0.0000 (Corollary 1: 0.0000)",
  };
  EXPECT_EQ(lines, want);
}

TEST(PlacementModelExplain, SaysDegradedAndSharedDomain) {
  const ClusterMap map{.version = 1, .members = InDomains({"a", "a"})};
  const std::vector<std::string> names = {"x", "y"};
  const std::vector<std::string> lines =
      ExplainLines(Explain(map, BuildGroups(map.members, 3)), names);
  const auto has = [&](const std::string& part) {
    return std::any_of(lines.begin(), lines.end(), [&](const std::string& line) {
      return line.find(part) != std::string::npos;
    });
  };
  EXPECT_TRUE(has("DEGRADED: 2 members cannot hold 3 copies; add 1 servers"));
  EXPECT_TRUE(has("x -> x (a), y (a)  SHARED DOMAIN"));
}

}  // namespace
}  // namespace gemel::model

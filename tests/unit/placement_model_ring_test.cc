// SPDX-License-Identifier: Apache-2.0
//
// One ring of all members: where the copies lie, which domains it keeps apart, what it survives.
#include <algorithm>
#include <map>
#include <set>

#include "gtest/gtest.h"

#include "placement/model/assignment.h"
#include "placement/model/explain.h"
#include "placement/model/receipts.h"
#include "placement/model/survival.h"
#include "tests/unit/placement_model_shapes.h"

namespace gemel::model {
namespace {

using Indices = std::vector<uint32_t>;

Assignment RingOf(const std::vector<Member>& members, uint32_t copies) {
  return BuildGroups(members, copies, StrategyChoice::kRing);
}

uint32_t PlaceableOf(const std::vector<Member>& members) {
  return static_cast<uint32_t>(
      std::count_if(members.begin(), members.end(), [](auto& m) { return m.placeable; }));
}

uint32_t LargestDomain(const std::vector<Member>& members, uint32_t level) {
  const Indices ids = DomainIds(members, level);
  std::map<uint32_t, uint32_t> sizes;
  uint32_t largest = 0;
  for (size_t i = 0; i < members.size(); ++i) {
    if (members[i].placeable) {
      largest = std::max(largest, ++sizes[ids[i]]);
    }
  }
  return largest;
}

// Sets that were not moved are the member and its successors.
void ExpectSuccessors(const std::vector<Member>& members, const Assignment& result) {
  ASSERT_EQ(result.groups.size(), 1u);
  const Indices& ring = result.groups.front();
  ASSERT_EQ(ring.size(), result.members);
  ASSERT_EQ(std::set<uint32_t>(ring.begin(), ring.end()).size(), ring.size());
  const size_t copies = std::min<size_t>(result.copies, ring.size());
  for (size_t at = 0; at < ring.size(); ++at) {
    const Indices& set = result.holders[ring[at]];
    ASSERT_TRUE(members[ring[at]].placeable);
    ASSERT_EQ(set.size(), copies);
    if (std::binary_search(result.moved.begin(), result.moved.end(), ring[at])) {
      continue;
    }
    std::set<uint32_t> want;
    for (size_t step = 0; step < copies; ++step) {
      want.insert(ring[(at + step) % ring.size()]);
    }
    ASSERT_EQ(std::set<uint32_t>(set.begin(), set.end()), want) << "place " << at;
    ASSERT_EQ(set.front(), ring[at]);
  }
}

// No order of a ring separates a level with a domain of more than N/m members: m neighbours have
// one of it at most. Every other level is separated, and no copy moved for it.
void ExpectSeparated(const std::vector<Member>& members, uint32_t copies,
                     const Assignment& result) {
  const uint32_t deepest = DeepestLevel(members);
  const uint32_t rows = result.members / copies;
  for (uint32_t level = 1; level <= deepest; ++level) {
    if (LargestDomain(members, level) <= rows) {
      ASSERT_LE(result.level, level) << "a coarser level could be separated";
      if (level == result.level) {
        ASSERT_TRUE(result.moved.empty()) << "a copy moved without need";
      }
    }
  }
  const DomainRule rule = RuleOn(members, result.level);
  for (const Indices& set : result.holders) {
    if (!set.empty() && !result.degraded) {
      ASSERT_TRUE(CountReceipts(members, set, {copies, copies}, rule).full);
    }
  }
  if (CountDomains(members, deepest) >= copies) {
    ASSERT_TRUE(result.conflicts.empty()) << "a shared domain could be avoided";
  }
}

void ExpectRing(const std::vector<Member>& members, uint32_t copies) {
  const Assignment result = RingOf(members, copies);
  ASSERT_EQ(result.members, PlaceableOf(members));
  ASSERT_EQ(result.strategy, result.members == 0       ? Strategy::kEmpty
                             : result.members < copies ? Strategy::kAll
                                                       : Strategy::kRing);
  if (result.members > 0) {
    ExpectSuccessors(members, result);
  }
  if (result.members >= copies) {
    ExpectSeparated(members, copies, result);
  }
}

TEST(PlacementModelRing, HoldsForEveryShapeOfUpToEightMembers) { ExpectOnEveryShape(ExpectRing); }

TEST(PlacementModelRing, HoldsForRandomTreesOfUpToFortyMembers) {
  SplitMix random(12);
  for (int round = 0; round < 3000; ++round) {
    const std::vector<Member> members = RandomCluster(random, 40);
    for (uint32_t copies = 1; copies <= 4; ++copies) {
      ExpectRing(members, copies);
      ASSERT_FALSE(HasFatalFailure()) << "round " << round << ", " << copies << " copies";
    }
  }
}

TEST(PlacementModelRing, EveryMemberHoldsAsManyCopiesAsTheOthers) {
  for (uint32_t copies = 1; copies <= 4; ++copies) {
    for (uint32_t n = copies; n <= 20; ++n) {
      EXPECT_EQ(Loads(RingOf(OwnDomains(n), copies)), Indices(n, copies)) << n;
    }
  }
}

TEST(PlacementModelRing, ADomainThatIsTooLargeForTheRingHasCopiesMovedWithinTheLoadLimit) {
  // Three of five hosts in one rack: two of them are neighbours in every ring.
  const Assignment result = RingOf(InDomains({"a/0", "a/1", "a/2", "b/0", "c/0"}), 2);
  EXPECT_EQ(result.level, 1u);
  EXPECT_FALSE(result.moved.empty());
  EXPECT_TRUE(result.conflicts.empty());
  const Indices loads = Loads(result);
  EXPECT_LE(*std::max_element(loads.begin(), loads.end()), kLoadFactorMax * 2);
}

TEST(PlacementModelRing, TheLargestClusterIsPlacedAndCounted) {
  std::vector<Member> members;
  for (uint32_t i = 0; i < kMembersMax; ++i) {
    members.push_back({.domain = "pod" + std::to_string(i / 1024) + "/rack" +
                                 std::to_string(i / 16) + "/host" + std::to_string(i)});
  }
  const Assignment result = RingOf(members, 3);
  EXPECT_EQ(result.level, 1u);
  EXPECT_TRUE(result.moved.empty());
  EXPECT_EQ(*ExactSurvival(result, 3),
            SubtractToZero({1, 1}, Fraction::Of(kMembersMax, Binomial(kMembersMax, 3))));
}

TEST(PlacementModelRing, SurvivesAsMuchAsCountingSetsSays) {
  // The closed form against the holder sets themselves, counted without knowing of a ring.
  SplitMix random(13);
  for (int round = 0; round < 300; ++round) {
    const std::vector<Member> members = RandomCluster(random, 14);
    const uint32_t copies = 1 + random.Below(4);
    Assignment ring = RingOf(members, copies);
    const uint32_t last = std::min(ring.members, kLossesMax);
    std::vector<Fraction> told;
    for (uint32_t k = 0; k <= last; ++k) {
      told.push_back(*ExactSurvival(ring, k));
    }
    ring.strategy = Strategy::kMixed;
    for (uint32_t k = 0; k <= last; ++k) {
      ASSERT_EQ(*ExactSurvival(ring, k), told[k]) << "round " << round << ", " << k << " losses";
    }
  }
}

TEST(PlacementModelRing, SurvivesNoMoreThanGroupsAndNoLessThanItsBound) {
  for (uint32_t copies = 2; copies <= 4; ++copies) {
    for (uint32_t n = copies + 1; n <= 64; ++n) {
      const Assignment ring = RingOf(OwnDomains(n), copies);
      const Assignment groups = BuildGroups(OwnDomains(n), copies);
      for (uint32_t k = 1; k <= std::min(n, kLossesMax); ++k) {
        const Fraction exact = *ExactSurvival(ring, k);
        ASSERT_FALSE(Less(exact, RingBound(n, copies, k))) << n << " " << copies << " " << k;
        ASSERT_FALSE(Less(*ExactSurvival(groups, copies), *ExactSurvival(ring, copies))) << n;
      }
    }
  }
}

TEST(PlacementModelRing, ExplainSaysTheRingItsOddsItsBoundAndWhatGroupsWouldSurvive) {
  const ClusterMap map{.version = 7,
                       .members = InDomains({"r0/h0", "r0/h1", "r1/h0", "r1/h1", "r2/h0"})};
  const std::vector<std::string> names = {"s0", "s1", "s2", "s3", "s4"};
  const std::vector<std::string> want = {
      "map 7: 5 members, 0 spares, 2 copies, strategy ring",
      "domains: 3 at level 1; at most 2 copies on a member",
      "ring 0: s0 s2 s4 s1 s3",
      "s0 -> s0 (r0/h0), s2 (r1/h0)",
      "s1 -> s1 (r0/h1), s3 (r1/h1)",
      "s2 -> s2 (r1/h0), s4 (r2/h0)",
      "s3 -> s3 (r1/h1), s0 (r0/h0)",
      "s4 -> s4 (r2/h0), s1 (r0/h1)",
      "P(survive 1 lost at once) = 1.0000 (the ring's bound: 1.0000; groups, Corollary 1: 1.0000)",
      "P(survive 2 lost at once) = 0.5000 (the ring's bound: 0.5000; groups, Corollary 1: 0.7500)",
      "P(survive 3 lost at once) = 0.0000 (the ring's bound: 0.0000; groups, Corollary 1: 0.2500)",
      "P(survive 4 lost at once) = 0.0000 (the ring's bound: 0.0000; groups, Corollary 1: 0.0000)",
  };
  EXPECT_EQ(ExplainLines(Explain(map, RingOf(map.members, 2)), names), want);
}

}  // namespace
}  // namespace gemel::model

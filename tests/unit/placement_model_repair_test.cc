// SPDX-License-Identifier: Apache-2.0
//
// RepairPlanner: where lacking copies go.
#include <algorithm>

#include "gtest/gtest.h"

#include "placement/model/receipts.h"
#include "placement/model/repair.h"
#include "tests/unit/placement_model_shapes.h"

namespace gemel::model {
namespace {

using Indices = std::vector<uint32_t>;

struct Planned {
  Planned(std::vector<Member> given, uint32_t copies)
      : members(std::move(given)),
        assignment(BuildGroups(members, copies)),
        planner(members, assignment) {}

  std::vector<Member> members;
  Assignment assignment;
  RepairPlanner planner;
};

TEST(PlacementModelRepair, EndsFullOnEveryClusterWhateverDied) {
  SplitMix random(7);
  for (int round = 0; round < 2000; ++round) {
    std::vector<Member> members;
    const uint32_t size = 1 + random.Below(12);
    for (uint32_t i = 0; i < size; ++i) {
      members.push_back(
          {.domain = "rack" + std::to_string(random.Below(4)) + "/host" + std::to_string(i),
           .placeable = random.Below(5) != 0});
    }
    const uint32_t copies = 1 + random.Below(4);
    Planned p(members, copies);
    RepairShard shard;
    for (uint32_t i = 0; i < size; ++i) {
      if (random.Below(4) == 0) {
        shard.holders.push_back(i);
      } else if (random.Below(6) == 0) {
        shard.pulling.push_back(i);
      }
    }
    if (random.Below(2) == 0) {
      shard.heir = random.Below(size);
    }
    const RepairTargets found = p.planner.TargetsOf(shard);
    ASSERT_FALSE(found.blocked) << "nobody is barred";
    Indices after;
    for (const Indices& list : std::vector<Indices>{shard.holders, shard.pulling, found.targets}) {
      for (const uint32_t member : list) {
        after.push_back(member);
      }
    }
    for (const uint32_t target : found.targets) {
      EXPECT_TRUE(members[target].placeable);
      EXPECT_EQ(std::count(after.begin(), after.end(), target), 1) << "nothing twice";
    }
    EXPECT_EQ(p.planner.Missing(after), 0U);
    if (p.planner.Missing(shard.holders) == 0) {
      EXPECT_TRUE(found.targets.empty()) << "what is full is left alone";
    }
  }
}

TEST(PlacementModelRepair, ADrainingMembersCopyCountsForNothing) {
  Planned p(OwnDomains(4), 2);
  EXPECT_EQ(p.planner.Missing(Indices{0, 1}), 0U);
  std::vector<Member> members = OwnDomains(4);
  members[1].placeable = false;
  Planned drained(members, 2);
  EXPECT_EQ(drained.planner.Missing(Indices{0, 1}), 1U);
  const RepairTargets found = drained.planner.TargetsOf({.holders = {0, 1}});
  ASSERT_EQ(found.targets.size(), 1U);
  EXPECT_NE(found.targets[0], 1U);
}

TEST(PlacementModelRepair, TheHeirComesFirstUnlessItSharesTheOnlyDomain) {
  Planned p(OwnDomains(6), 2);
  EXPECT_EQ(p.planner.TargetsOf({.holders = {0}, .heir = 4}).targets, Indices{4});
  EXPECT_EQ(p.planner.TargetsOf({.holders = {4}, .heir = 4}).targets.size(), 1U);
  Planned racks(InDomains({"a/1", "a/2", "b/3", "b/4"}), 2);
  const RepairTargets found = racks.planner.TargetsOf({.holders = {0}, .heir = 1});
  ASSERT_EQ(found.targets.size(), 1U);
  EXPECT_GE(found.targets[0], 2U) << "both copies would die with rack a";
}

TEST(PlacementModelRepair, WhoIsBarredIsPassedOverAndTooFewIsSaid) {
  Planned p(OwnDomains(4), 3);
  const Indices first = p.planner.TargetsOf({.holders = {0}}).targets;
  ASSERT_EQ(first.size(), 2U);
  const RepairTargets other = p.planner.TargetsOf({.holders = {0}, .barred = {first[0]}});
  EXPECT_FALSE(other.blocked);
  EXPECT_EQ(std::count(other.targets.begin(), other.targets.end(), first[0]), 0);
  const RepairTargets few = p.planner.TargetsOf({.holders = {0}, .barred = first});
  EXPECT_TRUE(few.blocked);
  EXPECT_EQ(few.targets.size(), 1U) << "what can be had is had";
}

TEST(PlacementModelRepair, ASharedDomainIsLackingWhileAnotherIsFree) {
  Planned p(InDomains({"a/1", "a/2", "b/3"}), 2);
  EXPECT_EQ(p.planner.Missing(Indices{0, 1}), 1U);
  EXPECT_EQ(p.planner.TargetsOf({.holders = {0, 1}}).targets, Indices{2});
}

TEST(PlacementModelRepair, WithoutMembersNothingIsLacking) {
  Planned p({}, 2);
  EXPECT_EQ(p.planner.Missing({}), 0U);
  EXPECT_TRUE(p.planner.TargetsOf({}).targets.empty());
}

}  // namespace
}  // namespace gemel::model

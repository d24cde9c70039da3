// SPDX-License-Identifier: Apache-2.0
//
// Where the copies of a shard go when the servers that should have them lack room.
#include <algorithm>
#include <bit>
#include <set>

#include "gtest/gtest.h"

#include "placement/model/receipts.h"
#include "placement/model/room.h"
#include "tests/unit/placement_model_shapes.h"

namespace gemel::model {
namespace {

using Indices = std::vector<uint32_t>;

// A cluster, what its servers have, and one shard of 100 bytes after the other. A copy takes twice
// its bytes: a pin's too.
struct Servers {
  explicit Servers(std::vector<Member> given, uint32_t copies,
                   StrategyChoice strategy = StrategyChoice::kGroup)
      : members(std::move(given)),
        assignment(BuildGroups(members, copies, strategy)),
        planner(members, assignment),
        staged(members.size(), 0),
        expected(members.size(), 0) {
    for (size_t i = 0; i < members.size(); ++i) {
      memory.push_back({.name = "s" + std::to_string(i), .capacity_bytes = 1000});
    }
  }

  Servers(const Servers&) = delete;
  Servers& operator=(const Servers&) = delete;

  PlacedShard Place(uint32_t owner, uint64_t bytes = 100) const {
    return PlaceShard(planner, {.bytes = bytes, .preferred = assignment.holders[owner]}, Room());
  }

  SnapshotRoom Room() const {
    return {.memory = [this](uint32_t member) { return memory.at(member); },
            .staged_bytes = [this](uint32_t member) { return staged.at(member); },
            .expected_bytes = [this](uint32_t member) { return expected.at(member); }};
  }

  // Sizes in hundreds, some full, some with pins and saves in flight.
  void Randomize(SplitMix& random) {
    for (size_t i = 0; i < members.size(); ++i) {
      memory[i].capacity_bytes = 100UL * (1 + random.Below(12));
      memory[i].committed_bytes = 100UL * random.Below(4);
      memory[i].pinned_bytes = random.Below(2) == 0 ? 0 : memory[i].committed_bytes;
      memory[i].in_flight_bytes = 100UL * random.Below(3);
      staged[i] = 100UL * random.Below(2);
      expected[i] = 100UL * random.Below(2);
    }
  }

  // Places it and counts it.
  Indices Take(uint32_t owner, uint64_t bytes = 100) {
    const PlacedShard placed = Place(owner, bytes);
    for (const uint32_t holder : placed.holders) {
      staged[holder] += bytes;
    }
    return placed.holders;
  }

  const std::vector<Member> members;
  const Assignment assignment;
  const RepairPlanner planner;
  std::vector<ServerMemory> memory;
  std::vector<uint64_t> staged;
  std::vector<uint64_t> expected;
};

TEST(PlacementModelRoom, LiesWhereTheStrategyPutsItWhenThatFits) {
  for (const StrategyChoice strategy : {StrategyChoice::kGroup, StrategyChoice::kRing}) {
    Servers servers(OwnDomains(6), 3, strategy);
    for (uint32_t owner = 0; owner < 6; ++owner) {
      const PlacedShard placed = servers.Place(owner);
      EXPECT_EQ(placed.holders, servers.assignment.holders[owner]);
      EXPECT_FALSE(placed.elsewhere);
      EXPECT_TRUE(placed.status.ok());
    }
  }
}

TEST(PlacementModelRoom, GoesToAServerWithRoomWhenTheUsualOneIsTooSmall) {
  Servers servers(OwnDomains(4), 2);
  ASSERT_EQ(servers.assignment.holders[0], (Indices{0, 2}));
  servers.memory[2].capacity_bytes = 199;
  servers.memory[1].capacity_bytes = 199;
  const PlacedShard placed = servers.Place(0);
  EXPECT_EQ(placed.holders, (Indices{0, 3}));
  EXPECT_TRUE(placed.elsewhere);
  EXPECT_NE(std::string(placed.status.message()).find("server s2 has 199 bytes"), std::string::npos)
      << placed.status;
  servers.memory[2].capacity_bytes = 200;
  EXPECT_EQ(servers.Place(0).holders, (Indices{0, 2}));
}

TEST(PlacementModelRoom, NeverTakesRoomInADomainThatHasACopy) {
  Servers servers(InDomains({"a", "a", "b", "b"}), 2);
  ASSERT_EQ(servers.assignment.holders[0], (Indices{0, 2}));
  servers.memory[2].capacity_bytes = 150;
  servers.memory[3].capacity_bytes = 150;
  const PlacedShard placed = servers.Place(0);
  EXPECT_EQ(placed.verdict, Verdict::kRefuse);
  EXPECT_TRUE(placed.holders.empty());
}

TEST(PlacementModelRoom, LeavesRoomForLocalCopiesThatAreExpected) {
  // Each of 1 and 2 holds one copy and no more; the rank of 2 has yet to open.
  Servers servers(OwnDomains(4), 2);
  ASSERT_EQ(servers.assignment.holders[0], (Indices{0, 2}));
  servers.memory[2].capacity_bytes = 200;
  servers.expected = {0, 100, 100, 100};
  EXPECT_EQ(servers.Take(0), (Indices{0, 1}));
  servers.expected[2] = 0;
  EXPECT_EQ(servers.Take(2), (Indices{2, 0}));
}

TEST(PlacementModelRoom, AnExpectationAloneRefusesNothing) {
  Servers servers(OwnDomains(2), 2);
  servers.memory[1].capacity_bytes = 200;
  servers.expected = {0, 100};
  EXPECT_EQ(servers.Place(0).holders, (Indices{0, 1}));
}

TEST(PlacementModelRoom, WaitsForSavesInFlightAndDoesNotMoveForThem) {
  Servers servers(OwnDomains(4), 2);
  servers.memory[2].in_flight_bytes = 900;
  EXPECT_EQ(servers.Place(0).verdict, Verdict::kWait);
  servers.memory[2] = {.name = "s2", .capacity_bytes = 1};
  servers.memory[1].in_flight_bytes = 900;
  servers.memory[3].in_flight_bytes = 900;
  EXPECT_EQ(servers.Place(0).verdict, Verdict::kWait) << "others have room soon";
  servers.memory[3].in_flight_bytes = 0;
  EXPECT_EQ(servers.Place(0).holders, (Indices{0, 3})) << "another has room now";
}

TEST(PlacementModelRoom, TheFirstCopyIsLocalWhateverOthersHave) {
  Servers servers(OwnDomains(3), 2);
  servers.memory[0].capacity_bytes = 199;
  const PlacedShard refused = servers.Place(0);
  EXPECT_EQ(refused.verdict, Verdict::kRefuse);
  EXPECT_EQ(std::string(refused.status.message()),
            "server s0 has 199 bytes for snapshots and would need 200 bytes: 0 committed + 0 in "
            "flight + 100 for this snapshot + 100 for a pin; 1 bytes short; the first copy is "
            "always at the rank's own server; give the server more memory (--memory), add "
            "servers, or lower keep or copies");
  servers.memory[0] = {.name = "s0", .capacity_bytes = 200, .in_flight_bytes = 1};
  EXPECT_EQ(servers.Place(0).verdict, Verdict::kWait);
}

TEST(PlacementModelRoom, ARefusalNamesWhatIsNeededAndFreeOnEveryServer) {
  Servers servers(InDomains({"a", "a", "b", "c", "d", "e"}), 3);
  ASSERT_EQ(servers.assignment.holders[0], (Indices{0, 2, 4}));
  servers.memory[2].capacity_bytes = 150;
  servers.memory[3] = {.name = "s3", .capacity_bytes = 1000, .committed_bytes = 840};
  servers.memory[5] = {.name = "s5", .capacity_bytes = 10, .committed_bytes = 20};
  servers.staged[3] = 100;
  const PlacedShard refused = servers.Place(0);
  EXPECT_EQ(refused.verdict, Verdict::kRefuse);
  EXPECT_EQ(std::string(refused.status.message()),
            "server s2 has 150 bytes for snapshots and would need 200 bytes: 0 committed + 0 in "
            "flight + 100 for this snapshot + 100 for a pin; 50 bytes short; elsewhere s1 has "
            "1000 bytes free of 200 needed but shares a failure domain with a copy, s3 has 160 "
            "bytes free of 400 needed, s5 has 0 bytes free of 200 needed; give the server more "
            "memory (--memory), add servers, or lower keep or copies");
  Servers alone(OwnDomains(2), 2);
  alone.memory[1].capacity_bytes = 1;
  EXPECT_NE(std::string(alone.Place(0).status.message()).find("there is no other server"),
            std::string::npos);
}

TEST(PlacementModelRoom, ManyServersAreCountedNotNamed) {
  Servers servers(OwnDomains(12), 2);
  for (uint32_t i = 1; i < 12; ++i) {
    servers.memory[i].capacity_bytes = 1;
  }
  const std::string text(servers.Place(0).status.message());
  EXPECT_NE(text.find(" and 2 servers more; give"), std::string::npos) << text;
}

TEST(PlacementModelRoom, AShardOfADrainingServerHasAllItsCopiesElsewhereWhereThereIsRoom) {
  std::vector<Member> members = OwnDomains(5);
  members[0].placeable = false;
  Servers servers(members, 2);
  const Indices usual = {0, 1, 2};
  servers.memory[1].capacity_bytes = 1;
  const PlacedShard placed =
      PlaceShard(servers.planner, {.bytes = 100, .preferred = usual}, servers.Room());
  EXPECT_EQ(placed.holders, (Indices{0, 2, 3}));
}

StrategyChoice RandomStrategy(SplitMix& random) {
  return random.Below(2) == 0 ? StrategyChoice::kGroup : StrategyChoice::kRing;
}

bool Fits(const Servers& servers, uint32_t member, bool at_last) {
  const MemoryDemand demand = DemandOn(servers.memory[member], servers.staged[member] + 100);
  return (at_last ? demand.TotalWithoutInFlight() : demand.Total()) <=
         servers.memory[member].capacity_bytes;
}

// Whether any set of members with room satisfies the domain rule, tried one by one.
bool SomePlacementFits(const Servers& servers, uint32_t owner, uint32_t copies, bool at_last) {
  const auto n = static_cast<uint32_t>(servers.members.size());
  const DomainRule rule = RuleOn(servers.members, servers.assignment.level);
  for (uint32_t set = 0; set < (1u << n); ++set) {
    if ((set >> owner & 1) == 0 || std::popcount(set) != static_cast<int>(copies)) {
      continue;
    }
    Indices holders;
    bool fits = true;
    for (uint32_t member = 0; member < n; ++member) {
      if ((set >> member & 1) != 0) {
        holders.push_back(member);
        fits = fits && servers.members[member].placeable && Fits(servers, member, at_last);
      }
    }
    if (fits && CountReceipts(servers.members, holders, {copies, copies}, rule).full) {
      return true;
    }
  }
  return false;
}

TEST(PlacementModelRoom, IsPlacedExactlyWhenSomePlacementFitsAndRefusedWhenNoneEverDoes) {
  SplitMix random(14);
  int placed_count = 0;
  int elsewhere = 0;
  int refused = 0;
  for (int round = 0; round < 6000; ++round) {
    const uint32_t copies = 1 + random.Below(4);
    Servers servers(RandomCluster(random, 9), copies, RandomStrategy(random));
    servers.Randomize(random);
    const auto owner = random.Below(static_cast<uint32_t>(servers.members.size()));
    if (!servers.members[owner].placeable || servers.assignment.degraded) {
      continue;
    }
    const PlacedShard placed = servers.Place(owner);
    const bool now = SomePlacementFits(servers, owner, copies, false);
    const bool at_last = SomePlacementFits(servers, owner, copies, true);
    if (placed.verdict == Verdict::kAccept) {
      ASSERT_TRUE(now) << "round " << round;
      ASSERT_EQ(placed.holders.front(), owner);
      for (const uint32_t holder : placed.holders) {
        ASSERT_TRUE(Fits(servers, holder, false)) << "round " << round;
      }
      const DomainRule rule = RuleOn(servers.members, servers.assignment.level);
      ASSERT_TRUE(CountReceipts(servers.members, placed.holders, {copies, copies}, rule).full);
      ASSERT_EQ(placed.elsewhere, placed.holders != servers.assignment.holders[owner]);
    } else {
      ASSERT_EQ(placed.verdict, at_last ? Verdict::kWait : Verdict::kRefuse) << "round " << round;
      ASSERT_EQ(placed.status.code(), absl::StatusCode::kResourceExhausted);
    }
    // What could be had now only waits where the preferred servers have it after the open saves.
    if (placed.verdict == Verdict::kWait && now) {
      for (const uint32_t holder : servers.assignment.holders[owner]) {
        ASSERT_TRUE(Fits(servers, holder, true)) << "round " << round;
      }
    }
    placed_count += placed.verdict == Verdict::kAccept ? 1 : 0;
    elsewhere += placed.elsewhere ? 1 : 0;
    refused += placed.verdict == Verdict::kRefuse ? 1 : 0;
  }
  EXPECT_GT(placed_count, 500);
  EXPECT_GT(elsewhere, 100);
  EXPECT_GT(refused, 500);
}

// A few bytes more or less, which change no server's verdict, move no copy.
TEST(PlacementModelRoom, DependsOnWhetherThereIsRoomAndNotOnHowMuch) {
  SplitMix random(15);
  for (int round = 0; round < 2000; ++round) {
    const uint32_t copies = 1 + random.Below(4);
    Servers servers(RandomCluster(random, 9), copies, RandomStrategy(random));
    servers.Randomize(random);
    const auto owner = random.Below(static_cast<uint32_t>(servers.members.size()));
    if (!servers.members[owner].placeable) {
      continue;
    }
    const PlacedShard before = servers.Place(owner);
    for (ServerMemory& memory : servers.memory) {
      memory.capacity_bytes += random.Below(100);  // all sizes are hundreds
    }
    const PlacedShard after = servers.Place(owner);
    ASSERT_EQ(before.holders, after.holders) << "round " << round;
    ASSERT_EQ(before.verdict, after.verdict) << "round " << round;
  }
}

TEST(PlacementModelRoom, AsksOnlyForServersThatComeIntoQuestionAndEachOnce) {
  const Servers servers(OwnDomains(100), 2);
  SnapshotRoom room = servers.Room();
  std::multiset<uint32_t> asked;
  room.memory = [&](uint32_t member) {
    asked.insert(member);
    return servers.memory[member];
  };
  PlaceShard(servers.planner, {.bytes = 100, .preferred = servers.assignment.holders[7]}, room);
  EXPECT_EQ(asked, (std::multiset<uint32_t>{7, servers.assignment.holders[7][1]}));
}

}  // namespace
}  // namespace gemel::model

// SPDX-License-Identifier: Apache-2.0
//
// Published numbers (Gemini, SOSP 2023: Figures 9, 11 and 14) and fixed assignments: what every
// machine and compiler has to compute.
#include <string>
#include <vector>

#include "gtest/gtest.h"

#include "placement/model/assignment.h"
#include "placement/model/effective_time.h"
#include "placement/model/room.h"
#include "placement/model/survival.h"

namespace gemel::model {
namespace {

using Table = std::vector<std::vector<uint32_t>>;

std::vector<Member> OwnDomains(uint32_t n) {
  std::vector<Member> members;
  members.reserve(n);
  for (uint32_t i = 0; i < n; ++i) {
    members.push_back({.domain = "rack" + std::to_string(i)});
  }
  return members;
}

std::string Exact(uint32_t n, uint32_t m, uint32_t k) {
  const absl::StatusOr<Fraction> value = ExactSurvival(BuildGroups(OwnDomains(n), m), k);
  return value.ok() ? DecimalString(*value, 4) : value.status().ToString();
}

std::string ExactOfRing(uint32_t n, uint32_t m, uint32_t k, uint32_t digits = 4) {
  const absl::StatusOr<Fraction> value =
      ExactSurvival(BuildGroups(OwnDomains(n), m, StrategyChoice::kRing), k);
  return value.ok() ? DecimalString(*value, digits) : value.status().ToString();
}

TEST(PlacementModelGolden, Figure9TwoCopies) {
  struct Row {
    uint32_t n;
    const char* group_k2;
    const char* ring_k2;
    const char* group_k3;
    const char* ring_bound_k3;
    const char* ring_exact_k3;
  };

  const std::vector<Row> rows = {
      {8, "0.8571", "0.7143", "0.5714", "0.1429", "0.2857"},
      {16, "0.9333", "0.8667", "0.8000", "0.6000", "0.6286"},
      {32, "0.9677", "0.9355", "0.9032", "0.8065", "0.8129"},
      {64, "0.9841", "0.9683", "0.9524", "0.9048", "0.9063"},
      {128, "0.9921", "0.9843", "0.9764", "0.9528", "0.9531"},
  };
  for (const Row& row : rows) {
    EXPECT_EQ(DecimalString(Corollary1(row.n, 2, 2), 4), row.group_k2) << row.n;
    EXPECT_EQ(Exact(row.n, 2, 2), row.group_k2) << row.n;
    EXPECT_EQ(DecimalString(RingSurvival(row.n, 2, 2), 4), row.ring_k2) << row.n;
    EXPECT_EQ(DecimalString(Corollary1(row.n, 2, 3), 4), row.group_k3) << row.n;
    EXPECT_EQ(Exact(row.n, 2, 3), row.group_k3) << row.n;
    EXPECT_EQ(DecimalString(RingBound(row.n, 2, 3), 4), row.ring_bound_k3) << row.n;
    EXPECT_EQ(DecimalString(RingSurvival(row.n, 2, 3), 4), row.ring_exact_k3) << row.n;
    EXPECT_EQ(ExactOfRing(row.n, 2, 2), row.ring_k2) << row.n;
    EXPECT_EQ(ExactOfRing(row.n, 2, 3), row.ring_exact_k3) << row.n;
  }
}

TEST(PlacementModelGolden, Figure9ThreeCopies) {
  struct Row {
    uint32_t n;
    const char* k3;
    const char* k4;
    const char* k5;
  };

  const std::vector<Row> rows = {{15, "0.9890", "0.9560", "0.8901"},
                                 {30, "0.9975", "0.9901", "0.9754"},
                                 {60, "0.9994", "0.9977", "0.9942"},
                                 {120, "0.9999", "0.9994", "0.9986"}};
  for (const Row& row : rows) {
    EXPECT_EQ(Exact(row.n, 3, 3), row.k3) << row.n;
    EXPECT_EQ(Exact(row.n, 3, 4), row.k4) << row.n;
    EXPECT_EQ(Exact(row.n, 3, 5), row.k5) << row.n;
    EXPECT_EQ(DecimalString(Corollary1(row.n, 3, 5), 4), row.k5) << row.n;
  }
}

TEST(PlacementModelGolden, MixedOfSeventeen) {
  const std::vector<std::vector<std::string>> mixed = {{"0.9265", "0.7824", "0.5882"},
                                                       {"0.9868", "0.9492", "0.8780"}};
  const std::vector<std::vector<std::string>> ring = {{"0.875", "0.650", "0.393"},
                                                      {"0.975", "0.907", "0.786"}};
  for (uint32_t m = 2; m <= 3; ++m) {
    for (uint32_t i = 0; i < 3; ++i) {
      EXPECT_EQ(Exact(17, m, m + i), mixed[m - 2][i]) << m << " copies, " << m + i << " losses";
      EXPECT_EQ(DecimalString(RingSurvival(17, m, m + i), 3), ring[m - 2][i]) << m << " " << m + i;
      EXPECT_EQ(ExactOfRing(17, m, m + i, 3), ring[m - 2][i]) << m << " " << m + i;
    }
  }
}

TEST(PlacementModelGolden, GroupsBeyondTheBound) {
  EXPECT_EQ(Exact(16, 2, 4), "0.6154");
  EXPECT_EQ(DecimalString(Corollary1(16, 2, 4), 4), "0.6000");
  EXPECT_EQ(Exact(4, 2, 2), "0.6667");
  EXPECT_EQ(Exact(64, 2, 3), "0.9524");
  EXPECT_EQ(Exact(1000, 2, 3), "0.9970");
}

TEST(PlacementModelGolden, Figure11CheckpointSpeedup) {
  for (uint32_t link = 1; link <= 4; link *= 2) {
    for (uint32_t n = 4; n <= 16; n += 4) {
      EXPECT_EQ(DecimalString(CheckpointSpeedup(link * 100, 20, n, 2), 0),
                std::to_string(17 * link * n / 4));
    }
  }
  EXPECT_EQ(DecimalString(CheckpointSpeedup(400, 20, 16, 2), 3), "272.000");
  EXPECT_EQ(DecimalString(CheckpointSpeedup(400, 20, 16, 3), 3), "136.000");
}

// Figure 14: minutes a failure costs, and HighFreq's share of time (8 of every 9.33 minutes).
constexpr uint32_t kGeminiMinutes = 9;
constexpr uint32_t kStrawmanMinutes = 8 * 2 + 90 + 6;
constexpr uint32_t kHighFreqMinutes = 8 * 5 / 2 + 6;
const Fraction kHighFreqShare = Fraction::Of(480, 480 + 80);

std::vector<std::string> Shares(const Fraction& share, const std::vector<Fraction>& failures,
                                uint32_t minutes) {
  std::vector<std::string> result;
  result.reserve(failures.size());
  for (const Fraction& failures_per_day : failures) {
    result.push_back(DecimalString(EffectiveTime(share, failures_per_day, minutes), 3));
  }
  return result;
}

TEST(PlacementModelGolden, Figure14aFailuresPerDay) {
  std::vector<Fraction> failures;
  for (uint32_t i = 1; i <= 8; ++i) {
    failures.push_back({i, 1});
  }
  using Row = std::vector<std::string>;
  EXPECT_EQ(Shares({1, 1}, failures, kGeminiMinutes),
            (Row{"0.994", "0.988", "0.981", "0.975", "0.969", "0.963", "0.956", "0.950"}));
  EXPECT_EQ(Shares(kHighFreqShare, failures, kHighFreqMinutes),
            (Row{"0.839", "0.821", "0.803", "0.785", "0.767", "0.749", "0.731", "0.713"}));
  EXPECT_EQ(Shares({1, 1}, failures, kStrawmanMinutes),
            (Row{"0.922", "0.844", "0.767", "0.689", "0.611", "0.533", "0.456", "0.378"}));
}

TEST(PlacementModelGolden, Figure14bMachines) {
  std::vector<Fraction> failures;  // 1.5 % of the machines a day.
  for (uint32_t machines = 200; machines <= 1000; machines += 100) {
    failures.push_back(Fraction::Of(U128{machines} * 15, 1000));
  }
  using Row = std::vector<std::string>;
  EXPECT_EQ(Shares({1, 1}, failures, kGeminiMinutes),
            (Row{"0.981", "0.972", "0.963", "0.953", "0.944", "0.934", "0.925", "0.916", "0.906"}));
  EXPECT_EQ(Shares(kHighFreqShare, failures, kHighFreqMinutes),
            (Row{"0.803", "0.776", "0.749", "0.722", "0.695", "0.668", "0.640", "0.613", "0.586"}));
  EXPECT_EQ(Shares({1, 1}, failures, kStrawmanMinutes),
            (Row{"0.767", "0.650", "0.533", "0.417", "0.300", "0.183", "0.067", "0.000", "0.000"}));
}

TEST(PlacementModelGolden, AssignmentOfThreeServersAndTwoCopies) {
  const Assignment result = BuildGroups(OwnDomains(3), 2);
  EXPECT_EQ(result.groups, (Table{{0, 1, 2}}));
  EXPECT_EQ(result.holders, (Table{{0, 1}, {1, 2}, {2, 0}}));
}

std::vector<Member> TwoPods() {
  std::vector<Member> members;
  for (const char* domain :
       {"pod0/rack0/host0", "pod0/rack0/host1", "pod0/rack1/host2", "pod0/rack1/host3",
        "pod1/rack2/host4", "pod1/rack2/host5", "pod1/rack3/host6", "pod1/rack3/host7"}) {
    members.push_back({.domain = domain});
  }
  return members;
}

TEST(PlacementModelGolden, AssignmentOverRacksAndHosts) {
  const std::vector<Member> members = TwoPods();
  const Assignment two = BuildGroups(members, 2);
  EXPECT_EQ(two.level, 1u);
  EXPECT_EQ(two.groups, (Table{{0, 4}, {1, 5}, {2, 6}, {3, 7}}));
  EXPECT_EQ(two.holders, (Table{{0, 4}, {1, 5}, {2, 6}, {3, 7}, {4, 0}, {5, 1}, {6, 2}, {7, 3}}));
  const Assignment three = BuildGroups(members, 3);
  EXPECT_EQ(three.level, 2u);
  EXPECT_EQ(three.domains, 4u);
  EXPECT_TRUE(three.conflicts.empty());
}

TEST(PlacementModelGolden, RingOfFiveServers) {
  const Assignment result = BuildGroups(OwnDomains(5), 2, StrategyChoice::kRing);
  EXPECT_EQ(result.groups, (Table{{0, 2, 4, 1, 3}}));
  EXPECT_EQ(result.holders, (Table{{0, 2}, {1, 3}, {2, 4}, {3, 0}, {4, 1}}));
}

TEST(PlacementModelGolden, RingOverRacksAndHosts) {
  const Assignment two = BuildGroups(TwoPods(), 2, StrategyChoice::kRing);
  EXPECT_EQ(two.level, 1u);
  EXPECT_EQ(two.groups, (Table{{0, 4, 1, 5, 2, 6, 3, 7}}));
  EXPECT_EQ(two.holders, (Table{{0, 4}, {1, 5}, {2, 6}, {3, 7}, {4, 1}, {5, 2}, {6, 3}, {7, 0}}));
  const Assignment three = BuildGroups(TwoPods(), 3, StrategyChoice::kRing);
  EXPECT_EQ(three.level, 2u);
  EXPECT_EQ(three.groups, (Table{{0, 2, 4, 6, 1, 3, 5, 7}}));
  EXPECT_EQ(
      three.holders,
      (Table{
          {0, 2, 4}, {1, 3, 5}, {2, 4, 6}, {3, 5, 7}, {4, 6, 1}, {5, 7, 0}, {6, 1, 3}, {7, 0, 2}}));
}

TEST(PlacementModelGolden, RingOverRacksOfUnequalSizes) {
  std::vector<Member> members;
  for (const char* domain : {"a", "b", "b", "c", "c", "d"}) {
    members.push_back({.domain = domain});
  }
  const Assignment result = BuildGroups(members, 3, StrategyChoice::kRing);
  EXPECT_EQ(result.groups, (Table{{1, 3, 0, 2, 4, 5}}));
  EXPECT_TRUE(result.moved.empty());
}

// Six ranks of 100 bytes open in order on servers of unequal memory; two of them are too small for
// any copy but the local one.
TEST(PlacementModelGolden, AssignmentByRoom) {
  const std::vector<Member> members = OwnDomains(6);
  const Assignment assignment = BuildGroups(members, 2);
  ASSERT_EQ(assignment.groups, (Table{{0, 3}, {1, 4}, {2, 5}}));
  const RepairPlanner planner(members, assignment);
  const std::vector<uint64_t> capacity_bytes = {1000, 1000, 400, 200, 200, 1000};
  std::vector<uint64_t> staged_bytes(6, 0);
  std::vector<uint64_t> expected_bytes(6, 100);
  SnapshotRoom room{.memory =
                        [&](uint32_t member) {
                          return ServerMemory{.name = "s",
                                              .capacity_bytes = capacity_bytes[member]};
                        },
                    .staged_bytes = [&](uint32_t member) { return staged_bytes[member]; },
                    .expected_bytes = [&](uint32_t member) { return expected_bytes[member]; }};
  Table holders;
  for (uint32_t owner = 0; owner < 6; ++owner) {
    expected_bytes[owner] = 0;
    holders.push_back(
        PlaceShard(planner, {.bytes = 100, .preferred = assignment.holders[owner]}, room).holders);
    for (const uint32_t holder : holders.back()) {
      staged_bytes[holder] += 100;
    }
  }
  EXPECT_EQ(holders, (Table{{0, 1}, {1, 2}, {2, 5}, {3, 0}, {4, 1}, {5, 0}}));
}

}  // namespace
}  // namespace gemel::model

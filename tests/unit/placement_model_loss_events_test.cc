// SPDX-License-Identifier: Apache-2.0
//
// What explain prints, against 10^5 simulated loss events a row: k of the servers die at once, each
// k of them as likely as another, and every shard is looked for.
#include <algorithm>
#include <numeric>

#include "gtest/gtest.h"

#include "common/random.h"
#include "placement/model/survival.h"
#include "tests/unit/placement_model_shapes.h"

namespace gemel::model {
namespace {

constexpr uint32_t kEvents = 100'000;

// N servers in racks of `rack`, each host with a domain of its own.
std::vector<Member> InRacks(uint32_t n, uint32_t rack) {
  std::vector<Member> members;
  for (uint32_t i = 0; i < n; ++i) {
    members.push_back({.domain = "rack" + std::to_string(i / rack) + "/host" + std::to_string(i)});
  }
  return members;
}

// Every server keeps copies on its m - 1 successors.
Assignment Ring(uint32_t n, uint32_t m) {
  Assignment ring{.strategy = Strategy::kMixed, .copies = m, .members = n};
  for (uint32_t i = 0; i < n; ++i) {
    ring.holders.emplace_back();
    for (uint32_t step = 0; step < m; ++step) {
      ring.holders.back().push_back((i + step) % n);
    }
  }
  return ring;
}

// True when some shard has all its holders among the dead.
bool Loses(const Assignment& assignment, const std::vector<uint32_t>& dead, uint32_t k) {
  const auto is_dead = [&dead, k](uint32_t member) {
    return std::find(dead.begin(), dead.begin() + k, member) != dead.begin() + k;
  };
  return std::any_of(dead.begin(), dead.begin() + k, [&](uint32_t owner) {
    const std::vector<uint32_t>& holders = assignment.holders[owner];
    return std::all_of(holders.begin(), holders.end(), is_dead);
  });
}

double Simulated(const Assignment& assignment, uint32_t k, Random* random) {
  std::vector<uint32_t> servers(assignment.holders.size());
  std::iota(servers.begin(), servers.end(), 0U);
  uint32_t survived = 0;
  for (uint32_t event = 0; event < kEvents; ++event) {
    for (uint32_t i = 0; i < k; ++i) {  // the first k become a random choice
      const auto other = static_cast<uint32_t>(random->Below(servers.size() - i));
      std::swap(servers[i], servers[i + other]);
    }
    survived += Loses(assignment, servers, k) ? 0 : 1;
  }
  return static_cast<double>(survived) / kEvents;
}

void ExpectAsExplained(const Assignment& assignment, const std::string& what) {
  Random random(20'231'023);
  for (uint32_t k = 1; k <= 4; ++k) {
    const absl::StatusOr<Fraction> exact = ExactSurvival(assignment, k);
    ASSERT_TRUE(exact.ok()) << what << ": " << exact.status();
    const double expected = std::stod(DecimalString(*exact, 12));
    const double simulated = Simulated(assignment, k, &random);
    EXPECT_NEAR(simulated, expected, 0.01 * expected) << what << ", " << k << " die";
    if (k < assignment.copies) {
      EXPECT_EQ(simulated, 1.0) << what << ": fewer deaths than copies lose nothing";
    }
  }
}

TEST(PlacementModelLossEvents, Groups) {
  ExpectAsExplained(BuildGroups(OwnDomains(16), 2), "16 servers, 2 copies");
  ExpectAsExplained(BuildGroups(OwnDomains(15), 3), "15 servers, 3 copies");
  ExpectAsExplained(BuildGroups(OwnDomains(64), 2), "64 servers, 2 copies");
}

TEST(PlacementModelLossEvents, Mixed) {
  ExpectAsExplained(BuildGroups(OwnDomains(17), 2), "17 servers, 2 copies");
  ExpectAsExplained(BuildGroups(OwnDomains(17), 3), "17 servers, 3 copies");
}

TEST(PlacementModelLossEvents, Rings) {
  ExpectAsExplained(Ring(16, 2), "a ring of 16, 2 copies");
  ExpectAsExplained(Ring(17, 3), "a ring of 17, 3 copies");
}

TEST(PlacementModelLossEvents, GroupsAndMixedOverRacks) {
  ExpectAsExplained(BuildGroups(InRacks(16, 4), 2), "4 racks of 4, 2 copies");
  ExpectAsExplained(BuildGroups(InRacks(17, 4), 2), "racks of 4 and one of 1, 2 copies");
  ExpectAsExplained(BuildGroups(InRacks(15, 6), 3), "racks of 6, 6 and 3, 3 copies");
}

// A rack is lost as a whole: with as many racks as copies that costs nothing.
TEST(PlacementModelLossEvents, AWholeRackIsSurvivedWhenThereAreEnough) {
  for (const auto& [servers, rack, copies] : std::vector<std::tuple<uint32_t, uint32_t, uint32_t>>{
           {16, 4, 2}, {17, 4, 2}, {18, 6, 3}, {20, 5, 3}, {13, 4, 2}}) {
    const Assignment assignment = BuildGroups(InRacks(servers, rack), copies);
    for (uint32_t first = 0; first < servers; first += rack) {
      std::vector<uint32_t> dead;
      for (uint32_t i = first; i < std::min(servers, first + rack); ++i) {
        dead.push_back(i);
      }
      EXPECT_FALSE(Loses(assignment, dead, static_cast<uint32_t>(dead.size())))
          << servers << " servers in racks of " << rack << ", rack at " << first;
    }
  }
}

}  // namespace
}  // namespace gemel::model

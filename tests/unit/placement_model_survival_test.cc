// SPDX-License-Identifier: Apache-2.0
//
// Fractions and survival: closed forms and counting against plain enumeration.
#include <algorithm>
#include <bit>

#include "gtest/gtest.h"

#include "placement/model/effective_time.h"
#include "placement/model/fraction.h"
#include "placement/model/survival.h"
#include "tests/unit/placement_model_shapes.h"

namespace gemel::model {
namespace {

// All k-subsets of the placeable members, tried one by one.
Fraction Enumerate(const Assignment& assignment, uint32_t k) {
  std::vector<uint32_t> sets;
  uint32_t placeable = 0;
  for (size_t i = 0; i < assignment.holders.size(); ++i) {
    uint32_t mask = 0;
    for (const uint32_t holder : assignment.holders[i]) {
      mask |= 1u << holder;
    }
    if (mask != 0) {
      sets.push_back(mask);
      placeable |= 1u << i;
    }
  }
  uint64_t survived = 0;
  uint64_t all = 0;
  for (uint32_t dead = 0; dead < (1u << assignment.holders.size()); ++dead) {
    if (static_cast<uint32_t>(std::popcount(dead)) != k || (dead & ~placeable) != 0) {
      continue;
    }
    ++all;
    survived +=
        std::none_of(sets.begin(), sets.end(), [&](uint32_t set) { return (set & ~dead) == 0; })
            ? 1
            : 0;
  }
  return Fraction::Of(survived, all);
}

// A ring over all n members, which BuildGroups makes only for n < 2m.
Assignment RingOfAll(uint32_t n, uint32_t m) {
  Assignment result{.strategy = Strategy::kMixed, .copies = m, .members = n};
  for (uint32_t i = 0; i < n; ++i) {
    std::vector<uint32_t> set;
    for (uint32_t step = 0; step < m; ++step) {
      set.push_back((i + step) % n);
    }
    result.holders.push_back(set);
  }
  return result;
}

TEST(PlacementModelFraction, ReducesAndCompares) {
  EXPECT_EQ(Fraction::Of(6, 8), (Fraction{3, 4}));
  EXPECT_EQ(Fraction::Of(0, 8), (Fraction{0, 1}));
  EXPECT_EQ((Fraction{2, 3} * Fraction{3, 4}), (Fraction{1, 2}));
  EXPECT_TRUE(Less({1, 3}, {1, 2}));
  EXPECT_FALSE(Less({1, 2}, {1, 2}));
  EXPECT_EQ(SubtractToZero({3, 4}, {1, 4}), (Fraction{1, 2}));
  EXPECT_EQ(SubtractToZero({1, 4}, {3, 4}), (Fraction{0, 1}));
}

TEST(PlacementModelFraction, PrintsDecimalsRoundedHalfUp) {
  EXPECT_EQ(DecimalString({2, 3}, 4), "0.6667");
  EXPECT_EQ(DecimalString({1, 8}, 2), "0.13");
  EXPECT_EQ(DecimalString({1, 3}, 0), "0");
  EXPECT_EQ(DecimalString({1, 2}, 0), "1");
  EXPECT_EQ(DecimalString({99999, 100000}, 4), "1.0000");
  EXPECT_EQ(DecimalString({12345, 10}, 3), "1234.500");
  EXPECT_EQ(DecimalString({1, 3}, 30), "0." + std::string(30, '3'));
  EXPECT_EQ(DecimalString({0, 1}, 4), "0.0000");
}

TEST(PlacementModelFraction, CountsSubsets) {
  EXPECT_TRUE(Binomial(0, 0) == 1);
  EXPECT_TRUE(Binomial(5, 6) == 0);
  EXPECT_EQ(ToString(Binomial(52, 5)), "2598960");
  EXPECT_EQ(ToString(Binomial(128, 8)), "1429702652400");
  for (uint64_t n = 1; n <= 60; ++n) {
    for (uint64_t k = 1; k <= n; ++k) {
      ASSERT_TRUE(Binomial(n, k) == Binomial(n - 1, k - 1) + Binomial(n - 1, k));
    }
  }
}

TEST(PlacementModelFractionDeathTest, EndsTheProcessInsteadOfWrapping) {
  const U128 large = ~U128{0};
  EXPECT_DEATH(CheckedMultiply(large, 2), "128 bits");
  EXPECT_DEATH(CheckedAdd(large, 1), "128 bits");
  EXPECT_DEATH(Fraction::Of(1, 0), "denominator 0");
}

TEST(PlacementModelSurvival, EqualsEnumerationOnRandomClusters) {
  SplitMix random(3);
  for (int round = 0; round < 400; ++round) {
    const std::vector<Member> members = RandomCluster(random, 12);
    const uint32_t copies = 1 + random.Below(4);
    const Assignment assignment = BuildGroups(members, copies);
    for (uint32_t k = 0; k <= std::min(assignment.members, kLossesMax); ++k) {
      const absl::StatusOr<Fraction> exact = ExactSurvival(assignment, k);
      ASSERT_TRUE(exact.ok()) << exact.status();
      ASSERT_EQ(*exact, Enumerate(assignment, k)) << "round " << round << ", " << k << " losses";
    }
  }
}

TEST(PlacementModelSurvival, EqualsEnumerationOnHolderSetsWithoutStructure) {
  SplitMix random(4);
  for (int round = 0; round < 200; ++round) {
    const uint32_t n = 2 + random.Below(11);
    const uint32_t m = 1 + random.Below(std::min(n, 4u));
    Assignment assignment{.copies = m, .members = n};
    for (uint32_t i = 0; i < n; ++i) {
      std::vector<uint32_t> set = {i};
      while (set.size() < m) {
        const uint32_t holder = random.Below(n);
        if (std::find(set.begin(), set.end(), holder) == set.end()) {
          set.push_back(holder);
        }
      }
      assignment.holders.push_back(set);
    }
    for (uint32_t k = 0; k <= std::min(n, kLossesMax); ++k) {
      const absl::StatusOr<Fraction> exact = ExactSurvival(assignment, k);
      ASSERT_TRUE(exact.ok()) << exact.status();
      ASSERT_EQ(*exact, Enumerate(assignment, k)) << "round " << round << ", " << k << " losses";
    }
  }
}

TEST(PlacementModelSurvival, CountsRingsLikeEnumeration) {
  for (uint32_t n = 1; n <= 14; ++n) {
    for (uint32_t m = 1; m <= std::min(n, 4u); ++m) {
      const Assignment ring = RingOfAll(n, m);
      for (uint32_t k = 0; k <= std::min(n, kLossesMax); ++k) {
        ASSERT_EQ(RingSurvival(n, m, k), Enumerate(ring, k)) << n << " " << m << " " << k;
        ASSERT_EQ(*ExactSurvival(ring, k), RingSurvival(n, m, k)) << n << " " << m << " " << k;
      }
    }
  }
}

TEST(PlacementModelSurvival, CorollaryOneIsExactBelowTwoGroupsAndABoundAbove) {
  for (uint32_t m = 1; m <= 4; ++m) {
    for (uint32_t n = m; n <= 128; n += m) {
      const Assignment assignment = BuildGroups(OwnDomains(n), m);
      for (uint32_t k = 0; k <= std::min(n, kLossesMax); ++k) {
        const Fraction exact = *ExactSurvival(assignment, k);
        const Fraction bound = Corollary1(n, m, k);
        ASSERT_FALSE(Less(exact, bound)) << n << " " << m << " " << k;
        if (k < 2 * m) {
          ASSERT_EQ(exact, bound) << n << " " << m << " " << k;
        }
      }
    }
  }
}

TEST(PlacementModelSurvival, MixedIsWithinTheoremOneOfTheOptimum) {
  // The optimum loses at least ceil(N/m) m-sets; mixed loses at most 2m - 3 more.
  for (uint32_t m = 2; m <= 4; ++m) {
    for (uint32_t n = m + 1; n <= 128; ++n) {
      const Fraction exact = *ExactSurvival(BuildGroups(OwnDomains(n), m), m);
      const U128 subsets = Binomial(n, m);
      const Fraction optimum = SubtractToZero({1, 1}, Fraction::Of((n + m - 1) / m, subsets));
      const Fraction gap = SubtractToZero(optimum, exact);
      ASSERT_FALSE(Less(Fraction::Of(2 * m - 3, subsets), gap)) << n << " members, " << m;
    }
  }
}

TEST(PlacementModelSurvival, NeverGrowsWithMoreLosses) {
  for (uint32_t n = 4; n <= 128; n += 31) {
    const Assignment assignment = BuildGroups(OwnDomains(n), 3);
    for (uint32_t k = 1; k <= std::min(n, kLossesMax); ++k) {
      ASSERT_FALSE(Less(*ExactSurvival(assignment, k - 1), *ExactSurvival(assignment, k)));
    }
  }
}

TEST(PlacementModelSurvival, CountsTheLargestCluster) {
  const Assignment assignment = BuildGroups(OwnDomains(kMembersMax), 3);
  const absl::StatusOr<Fraction> exact = ExactSurvival(assignment, kLossesMax);
  ASSERT_TRUE(exact.ok()) << exact.status();
  // 5,460 groups and a ring of 4 make 5,464 fatal triples; a pair of them hardly ever dies at once.
  const Fraction bound = Fraction::Of(5464 * Binomial(8, 3), Binomial(kMembersMax, 3));
  EXPECT_EQ(DecimalString(*exact, 9), DecimalString(SubtractToZero({1, 1}, bound), 9));
  EXPECT_EQ(DecimalString(*exact, 9), "0.999999582");
}

TEST(PlacementModelSurvival, RefusesImpossibleLosses) {
  const Assignment assignment = BuildGroups(OwnDomains(20), 2);
  EXPECT_EQ(ExactSurvival(assignment, 9).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ExactSurvival(BuildGroups(OwnDomains(2), 2), 3).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(PlacementModelSurvival, GivesUpWithAStatusWhenSetsAreTooEntangled) {
  // A ring of all 400 members has no structure that the counting uses; the closed form has it.
  const absl::Status status = ExactSurvival(RingOfAll(400, 2), kLossesMax).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_TRUE(Less({9, 10}, RingSurvival(400, 2, 4)));
}

TEST(PlacementModelEffectiveTime, StopsAtZeroAndFallsWithFailures) {
  EXPECT_EQ(EffectiveTime({1, 1}, {0, 1}, 9), (Fraction{1, 1}));
  EXPECT_EQ(EffectiveTime({1, 1}, {20, 1}, 112), (Fraction{0, 1}));
  EXPECT_EQ(EffectiveTime({1, 1}, {1, 1}, 720), (Fraction{1, 2}));
}

}  // namespace
}  // namespace gemel::model

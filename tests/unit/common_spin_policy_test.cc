// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "common/spin_policy.h"

namespace gemel {
namespace {

using std::chrono::microseconds;

constexpr Duration kMost = microseconds(50);
constexpr Duration kShort = microseconds(20);
constexpr Duration kLong = microseconds(500);

SpinPolicy After(std::initializer_list<Duration> parked) {
  SpinPolicy policy(kMost);
  for (const Duration took : parked) {
    policy.Waited(took, false);
  }
  return policy;
}

TEST(SpinPolicy, ParksUntilAWaitWasShort) {
  EXPECT_EQ(SpinPolicy(kMost).budget(), Duration());
  EXPECT_EQ(After({kLong, kLong}).budget(), Duration());
  EXPECT_EQ(After({kShort}).budget(), SpinPolicy::kLeast);
}

TEST(SpinPolicy, GrowsToItsMostWhileWaitsAreShort) {
  EXPECT_EQ(After({kShort, kShort}).budget(), 2 * SpinPolicy::kLeast);
  EXPECT_EQ(After({kShort, kShort, kShort, kShort, kShort, kShort}).budget(), kMost);
  EXPECT_EQ(After({kMost}).budget(), SpinPolicy::kLeast) << "the most itself is short";
}

TEST(SpinPolicy, KeepsWhatCatches) {
  SpinPolicy policy = After({kShort, kShort});
  policy.Waited(kShort, true);
  EXPECT_EQ(policy.budget(), 2 * SpinPolicy::kLeast);
}

TEST(SpinPolicy, IsGoneAfterAFewLongWaits) {
  SpinPolicy policy = After({kShort, kShort, kShort, kShort, kShort, kShort});
  for (int i = 0; i < 4; ++i) {
    policy.Waited(kLong, false);
  }
  EXPECT_EQ(policy.budget(), Duration());
}

TEST(SpinPolicy, NeverPollsWithoutAMost) {
  SpinPolicy policy;
  policy.Waited(Duration(), false);
  EXPECT_FALSE(policy.enabled());
  EXPECT_EQ(policy.budget(), Duration());
}

}  // namespace
}  // namespace gemel

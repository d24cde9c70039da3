// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>

#include "common/random.h"
#include "common/real_process.h"

namespace gemel {
namespace {

TEST(RandomStream, IsTheSameOnEveryMachine) {
  // xoshiro256** seeded by splitmix64(1): the reference implementation's outputs 1, 2 and 100.
  Random random(1);
  EXPECT_EQ(random.Next(), 0xb3f2af6d0fc710c5ULL);
  EXPECT_EQ(random.Next(), 0x853b559647364ceaULL);
  for (int i = 2; i < 99; ++i) {
    random.Next();
  }
  EXPECT_EQ(random.Next(), 0x8ffcb3abe15e0bf9ULL);
}

TEST(RandomStream, SplitsWithoutDrawing) {
  Random parent(9);
  Random twin(9);
  Random left = parent.Split("left");
  Random again = parent.Split("left");
  Random right = parent.Split("right");
  EXPECT_EQ(parent.Next(), twin.Next());
  const uint64_t first = left.Next();
  EXPECT_EQ(first, again.Next());
  EXPECT_NE(first, right.Next());
}

TEST(RandomStream, BelowStaysBelowAndIsFair) {
  Random random(4);
  std::array<int, 7> counts{};
  for (int i = 0; i < 70'000; ++i) {
    const uint64_t drawn = random.Below(counts.size());
    ASSERT_LT(drawn, counts.size());
    counts[drawn] += 1;
  }
  for (int count : counts) {
    EXPECT_NEAR(count, 10'000, 500);  // over five standard deviations
  }
  EXPECT_EQ(random.Below(1), 0U);
}

TEST(RandomStream, ChanceHoldsItsOdds) {
  Random random(6);
  int hits = 0;
  for (int i = 0; i < 10'000; ++i) {
    hits += random.Chance(1, 4) ? 1 : 0;
    ASSERT_FALSE(random.Chance(0, 3));
    ASSERT_TRUE(random.Chance(3, 3));
  }
  EXPECT_NEAR(hits, 2'500, 250);
}

TEST(RealProcessTest, GivesFreshEntropyAndItsPid) {
  RealProcess process;
  const uint64_t first = process.Entropy64();
  EXPECT_NE(first, process.Entropy64());
  EXPECT_EQ(process.pid(), static_cast<uint64_t>(getpid()));
}

}  // namespace
}  // namespace gemel

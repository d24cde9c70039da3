// SPDX-License-Identifier: Apache-2.0
//
// Spray: which slice goes over which lane, and what is sent again.
#include <gtest/gtest.h>

#include "server/spray.h"

namespace gemel {
namespace {

constexpr TimePoint kStart = TimePoint() + 1s;

class SprayTest : public ::testing::Test {
 protected:
  static constexpr size_t kSlices = 4;

  SprayTest() {
    Know(&fast_, 1ms);
    Know(&slow_, 20ms);
    for (uint32_t slice = 0; slice < kSlices; ++slice) {
      spray_.Add(slice);
    }
  }

  // Lets the lane know how long a slice takes on it.
  static void Know(Lane* lane, Duration took) {
    for (int i = 0; i < 8; ++i) {
      const LanePace::Ticket ticket = lane->pace.Begin(kStart);
      lane->pace.End(ticket, kStart + took, true);
    }
  }

  void Sent(uint32_t slice, const Lane& lane, TimePoint now, bool again = false) {
    const std::optional<Spray::Pick> pick = spray_.Take(lane, now);
    ASSERT_TRUE(pick.has_value());
    EXPECT_EQ(pick->slice, slice);
    EXPECT_EQ(pick->again, again);
  }

  Spray spray_{kSlices};
  Lane fast_{"fast", nullptr};
  Lane other_{"other", nullptr};
  Lane slow_{"slow", nullptr};
};

TEST_F(SprayTest, LanesTakeSlicesInOrderAndItIsDoneWhenAllArrived) {
  Sent(0, fast_, kStart);
  Sent(1, slow_, kStart);
  Sent(2, fast_, kStart);
  spray_.End(0, fast_, true);
  Sent(3, fast_, kStart);
  spray_.End(2, fast_, true);
  spray_.End(3, fast_, true);
  EXPECT_FALSE(spray_.done());
  spray_.End(1, slow_, true);
  EXPECT_TRUE(spray_.done());
  EXPECT_EQ(spray_.under_way(), 0U);
}

TEST_F(SprayTest, NoMoreDifferentSlicesGoOutThanAreAllowed) {
  spray_.Allow(0);
  EXPECT_TRUE(spray_.starved());
  EXPECT_FALSE(spray_.Take(fast_, kStart).has_value());
  spray_.Allow(2);
  EXPECT_FALSE(spray_.starved());
  Sent(0, fast_, kStart);
  Sent(1, fast_, kStart);
  EXPECT_FALSE(spray_.Take(fast_, kStart).has_value());
  EXPECT_FALSE(spray_.starved()) << "an answer will tell of more";
  spray_.End(0, fast_, false);
  Sent(0, other_, kStart, true);
  spray_.End(0, other_, true);
  spray_.End(1, fast_, true);
  EXPECT_TRUE(spray_.starved());
  spray_.Allow(kSlices);
  Sent(2, fast_, kStart);
}

TEST_F(SprayTest, WhileSlicesWaitForCreditOnlyWhatIsOverdueIsSentAgain) {
  spray_.Allow(1);
  Sent(0, slow_, kStart);
  EXPECT_FALSE(spray_.Take(fast_, kStart).has_value());
  EXPECT_FALSE(spray_.Take(fast_, kStart + 100ms).has_value()) << "late, but not by far";
  Sent(0, fast_, kStart + 200ms, true);
}

TEST_F(SprayTest, WhatFailedGoesFirstAndAsSentAgain) {
  Sent(0, fast_, kStart);
  Sent(1, slow_, kStart);
  spray_.End(0, fast_, false);
  Sent(0, slow_, kStart, true);
  spray_.End(0, slow_, false);
  Sent(0, fast_, kStart, true);
  Sent(2, fast_, kStart);
}

TEST_F(SprayTest, WhenNoneIsLeftTheSlowLanesSliceIsSentAgainOnTheFastOne) {
  Sent(0, slow_, kStart);
  for (uint32_t slice = 1; slice < kSlices; ++slice) {
    Sent(slice, fast_, kStart);
    spray_.End(slice, fast_, true);
  }
  Sent(0, fast_, kStart, true);
  EXPECT_FALSE(spray_.Take(fast_, kStart).has_value()) << "it is on both now";
  spray_.End(0, fast_, true);
  EXPECT_TRUE(spray_.done());
  spray_.End(0, slow_, false);
  EXPECT_TRUE(spray_.done()) << "the late one changes nothing";
  EXPECT_FALSE(spray_.Take(fast_, kStart).has_value());
}

TEST_F(SprayTest, NothingIsSentAgainThatIsSoonThereAnyway) {
  Know(&other_, 1ms);
  Sent(0, fast_, kStart);
  for (uint32_t slice = 1; slice < kSlices; ++slice) {
    Sent(slice, other_, kStart);
    spray_.End(slice, other_, true);
  }
  EXPECT_FALSE(spray_.Take(other_, kStart).has_value());
  EXPECT_FALSE(spray_.Take(other_, kStart + 2ms).has_value());
  EXPECT_EQ(spray_.LookAgainAt(fast_, kStart), kTimeNever) << "its own slices need no second lane";
  EXPECT_EQ(spray_.LookAgainAt(other_, kStart), kStart + 1ms);
  // Overdue by twice what this lane needs: the path may be cut.
  Sent(0, other_, kStart + 4ms, true);
}

TEST_F(SprayTest, AHurryTakesWhatAnotherLaneHas) {
  Know(&other_, 1ms);
  for (uint32_t slice = 0; slice < kSlices; ++slice) {
    Sent(slice, fast_, kStart);
  }
  const auto pick = spray_.Take(other_, kStart, true);
  ASSERT_TRUE(pick.has_value());
  EXPECT_EQ(pick->slice, 0U);
  EXPECT_TRUE(pick->again);
  EXPECT_FALSE(spray_.Take(fast_, kStart, true).has_value()) << "all are on it";
}

TEST_F(SprayTest, OneOfTwoThatFailsDoesNotMakeItWait) {
  Know(&other_, 1ms);
  for (uint32_t slice = 0; slice < kSlices; ++slice) {
    Sent(slice, fast_, kStart);
  }
  ASSERT_EQ(spray_.Take(other_, kStart, true)->slice, 0U);
  spray_.End(0, fast_, false);
  EXPECT_FALSE(spray_.Take(fast_, kStart).has_value()) << "the other lane still brings it";
  spray_.End(0, other_, false);
  Sent(0, fast_, kStart, true);
}

}  // namespace
}  // namespace gemel

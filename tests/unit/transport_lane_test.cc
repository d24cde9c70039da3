// SPDX-License-Identifier: Apache-2.0
//
// LanePace: windows, slowness, pauses; and the addresses of several lanes.
#include <gtest/gtest.h>

#include "transport/addresses.h"
#include "transport/lane.h"

namespace gemel {
namespace {

constexpr TimePoint kStart = TimePoint() + 1s;

// Sends `slices` one after the other, each taking `took`.
void Carry(LanePace* pace, Duration took, int slices = 1) {
  for (int i = 0; i < slices; ++i) {
    const LanePace::Ticket ticket = pace->Begin(kStart);
    pace->End(ticket, kStart + took, true);
  }
}

size_t RoomOf(LanePace pace, Duration fastest) {
  size_t room = 0;
  for (; pace.HasRoom(fastest); ++room) {
    pace.Begin(kStart);
  }
  return room;
}

TEST(LanePace, WindowGrowsWithWhatArrivesToItsBound) {
  LanePace pace;
  EXPECT_EQ(RoomOf(pace, 0ms), kLaneWindowFirst);
  Carry(&pace, 1ms);
  EXPECT_EQ(RoomOf(pace, 1ms), kLaneWindowFirst + 1);
  Carry(&pace, 1ms, 50);
  EXPECT_EQ(RoomOf(pace, 1ms), kLaneWindowMax);
}

TEST(LanePace, ASliceCountsByItsShareOfTheQueueBeforeIt) {
  LanePace pace;
  const LanePace::Ticket first = pace.Begin(kStart);
  const LanePace::Ticket second = pace.Begin(kStart);
  EXPECT_EQ(pace.under_way(), 2U);
  pace.End(first, kStart + 4ms, true);
  pace.End(second, kStart + 8ms, true);  // half of it was the first one's
  EXPECT_EQ(pace.slice_time(), 4ms);
  EXPECT_EQ(pace.Expected(), 4ms);
  pace.Begin(kStart);
  EXPECT_EQ(pace.Expected(), 8ms);
  EXPECT_EQ(pace.Due(kStart), kStart + 8ms);
}

TEST(LanePace, ASlowLaneCarriesOneSliceUntilItIsNotSlowAnyMore) {
  LanePace pace;
  Carry(&pace, 10ms, 20);
  EXPECT_FALSE(pace.IsSlow(0ms)) << "nobody knows what is fast";
  EXPECT_FALSE(pace.IsSlow(10ms));
  EXPECT_TRUE(pace.IsSlow(1ms));
  EXPECT_EQ(RoomOf(pace, 1ms), 1U);
  Carry(&pace, 1ms, 30);
  EXPECT_FALSE(pace.IsSlow(1ms));
  EXPECT_EQ(RoomOf(pace, 1ms), kLaneWindowMax);
}

TEST(LanePace, APauseDoublesAndOneSuccessDoesNotEndIt) {
  LanePace pace;
  TimePoint now = kStart;
  Duration pause = kLanePauseMin;
  for (int i = 0; i < 12; ++i) {
    pace.Blame(now);
    EXPECT_TRUE(pace.IsPaused(now + pause - 1ms)) << i;
    EXPECT_FALSE(pace.IsPaused(now + pause)) << i;
    now += pause;
    pause = std::min(2 * pause, kLanePauseMax);
  }
  Carry(&pace, 1ms);
  pace.Blame(now);
  EXPECT_TRUE(pace.IsPaused(now + kLanePauseMax - 1ms)) << "a tenth of a long pause is forgotten";
  Carry(&pace, 1ms, 100);
  now += kLanePauseMax;
  pace.Blame(now);
  EXPECT_FALSE(pace.IsPaused(now + kLanePauseMin));
}

TEST(LanePace, AllThatFailsAtOnceIsOneFailure) {
  LanePace pace;
  for (int i = 0; i < 8; ++i) {
    pace.Blame(kStart);
  }
  EXPECT_FALSE(pace.IsPaused(kStart + kLanePauseMin));
}

TEST(LanePace, AFailureShrinksTheWindow) {
  LanePace pace;
  Carry(&pace, 1ms, 20);
  const LanePace::Ticket ticket = pace.Begin(kStart);
  pace.End(ticket, kStart + 1s, false);
  EXPECT_TRUE(pace.IsPaused(kStart + 1s));
  EXPECT_EQ(RoomOf(pace, 1ms), kLaneWindowFirst);
  EXPECT_EQ(pace.slice_time(), 1ms) << "what did not arrive says nothing of the speed";
}

TEST(LanePace, WhatWasStoppedMakesALaneSlowerButNeverFaster) {
  LanePace pace;
  Carry(&pace, 8ms, 20);
  const LanePace::Ticket soon = pace.Begin(kStart);
  pace.Stop(soon, kStart + 1ms);
  EXPECT_EQ(pace.slice_time(), 8ms);
  const LanePace::Ticket late = pace.Begin(kStart);
  pace.Stop(late, kStart + 80ms);
  EXPECT_EQ(pace.slice_time(), 17ms);
  EXPECT_EQ(pace.under_way(), 0U);
  EXPECT_FALSE(pace.IsPaused(kStart + 80ms)) << "it was not the lane's fault";
}

TEST(LanePace, IsLateWhenItsOldestSliceIs) {
  LanePace pace;
  EXPECT_FALSE(pace.IsLate(kStart + 1h));
  Carry(&pace, 1ms, 20);
  const LanePace::Ticket ticket = pace.Begin(kStart);
  EXPECT_FALSE(pace.IsLate(kStart + 50ms));
  EXPECT_TRUE(pace.IsLate(kStart + 60ms));
  pace.End(ticket, kStart + 60ms, true);
  EXPECT_FALSE(pace.IsLate(kStart + 60ms));
}

TEST(Addresses, AreSplitAtCommas) {
  EXPECT_EQ(SplitAddresses("tcp://127.0.0.1:1"), std::vector<std::string>{"tcp://127.0.0.1:1"});
  EXPECT_EQ(SplitAddresses("tcp://a:1,verbs://b:2"),
            (std::vector<std::string>{"tcp://a:1", "verbs://b:2"}));
  EXPECT_EQ(SplitAddresses(",tcp://a:1,"), std::vector<std::string>{"tcp://a:1"});
  EXPECT_TRUE(SplitAddresses("").empty());
  EXPECT_EQ(LanesTo("tcp://127.0.0.1:1"), 1U);
  EXPECT_EQ(LanesTo("verbs://10.0.0.1:1"), 4U);
}

}  // namespace
}  // namespace gemel

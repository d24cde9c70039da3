// SPDX-License-Identifier: Apache-2.0
//
// CpuPressure: when a thread's waits for a core say that others want it.
#include <gtest/gtest.h>

#include "transport/tcp/cpu_pressure.h"

namespace gemel {
namespace {

using std::chrono::milliseconds;

class CpuPressureTest : public ::testing::Test {
 protected:
  // The thread was ready for so long, and waited in that share of it; then it looks.
  bool After(milliseconds passed, milliseconds ready, int waited_percent) {
    now_ += passed;
    times_.waited += ready * waited_percent / 100;
    times_.ran += ready * (100 - waited_percent) / 100;
    return pressure_.Contended(now_);
  }

  TimePoint now_{std::chrono::seconds(5)};
  CpuTimes times_;
  int reads_ = 0;
  bool counted_ = true;
  CpuPressure pressure_{[this]() -> std::optional<CpuTimes> {
    reads_ += 1;
    return counted_ ? std::optional(times_) : std::nullopt;
  }};
};

TEST_F(CpuPressureTest, WaitingForAFifthIsContendedUntilItIsLessThanATenth) {
  EXPECT_FALSE(After(milliseconds(0), milliseconds(100), 90)) << "the first look knows no window";
  EXPECT_FALSE(After(milliseconds(10), milliseconds(10), 19));
  EXPECT_TRUE(After(milliseconds(10), milliseconds(10), 20));
  EXPECT_TRUE(After(milliseconds(10), milliseconds(10), 11));
  EXPECT_FALSE(After(milliseconds(10), milliseconds(10), 9));
}

TEST_F(CpuPressureTest, WhatIsLongAgoSaysNothingOfNow) {
  After(milliseconds(0), milliseconds(0), 0);
  ASSERT_TRUE(After(milliseconds(10), milliseconds(10), 50));
  EXPECT_FALSE(After(milliseconds(501), milliseconds(400), 90));
  EXPECT_TRUE(After(milliseconds(10), milliseconds(10), 50));
}

TEST_F(CpuPressureTest, LooksNoOftenerThanItSays) {
  for (int i = 0; i < 100; ++i) {
    After(milliseconds(1), milliseconds(1), 50);
  }
  EXPECT_LE(reads_, 10);
}

TEST_F(CpuPressureTest, AThreadThatWasNotReadyKeepsTheVerdict) {
  After(milliseconds(0), milliseconds(0), 0);
  ASSERT_TRUE(After(milliseconds(10), milliseconds(10), 50));
  EXPECT_TRUE(After(milliseconds(10), milliseconds(0), 0));
}

TEST_F(CpuPressureTest, NothingIsContendedWhereNothingIsCounted) {
  After(milliseconds(0), milliseconds(0), 0);
  ASSERT_TRUE(After(milliseconds(10), milliseconds(10), 50));
  counted_ = false;
  EXPECT_FALSE(After(milliseconds(10), milliseconds(10), 50));
}

TEST(ThreadCpuTimes, TextOfTheKernel) {
  const auto times = ParseSchedstat("1234 99 7\n");
  ASSERT_TRUE(times.has_value());
  EXPECT_EQ(times->ran, Duration(1234));
  EXPECT_EQ(times->waited, Duration(99));
  for (const char* text : {"", "12", "x 1", "-1 2", "1 -2"}) {
    EXPECT_FALSE(ParseSchedstat(text).has_value()) << text;
  }
}

TEST(ThreadCpuTimes, GrowAsTheThreadRuns) {
  const ThreadCpuTimes mine;
  const auto before = mine.Read();
  if (!before.has_value()) {
    GTEST_SKIP() << "this kernel does not count (CONFIG_SCHED_INFO)";
  }
  volatile uint64_t sink = 0;
  for (uint64_t i = 0; i < 30'000'000; ++i) {
    sink = sink + i;
  }
  EXPECT_GT(mine.Read()->ran, before->ran);
}

}  // namespace
}  // namespace gemel

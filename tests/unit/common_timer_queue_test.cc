// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "common/random.h"
#include "common/timer_queue.h"

namespace gemel {
namespace {

using ::testing::ElementsAre;

TimePoint At(int64_t nanoseconds) { return TimePoint(Duration(nanoseconds)); }

// Runs what is due; how many.
size_t RunDue(TimerQueue* timers, TimePoint now) {
  size_t ran = 0;
  while (Loop::Callback callback = timers->TakeDue(now)) {
    callback();
    ran += 1;
  }
  return ran;
}

TEST(TimerQueue, LeavesByDeadlineThenByAge) {
  TimerQueue timers;
  std::vector<int> order;
  timers.Add(At(20), [&] { order.push_back(3); });
  timers.Add(At(10), [&] { order.push_back(1); });
  timers.Add(At(10), [&] { order.push_back(2); });
  EXPECT_EQ(timers.NextDeadline(), At(10));
  EXPECT_EQ(RunDue(&timers, At(9)), 0U);
  EXPECT_EQ(RunDue(&timers, At(10)), 2U);
  EXPECT_EQ(RunDue(&timers, At(20)), 1U);
  EXPECT_THAT(order, ElementsAre(1, 2, 3));
  EXPECT_EQ(timers.NextDeadline(), kTimeNever);
}

TEST(TimerQueue, ACancelledTimerDoesNotRunAndItsIdNamesNoOther) {
  TimerQueue timers;
  int ran = 0;
  const TimerQueue::TimerId first = timers.Add(At(10), [&] { ran += 1; });
  timers.Cancel(first);
  const TimerQueue::TimerId second = timers.Add(At(10), [&] { ran += 10; });
  EXPECT_NE(first, second);
  timers.Cancel(first);  // its place is another's by now
  timers.Cancel(Loop::kNoTimer);
  timers.Cancel(12345);
  EXPECT_EQ(RunDue(&timers, At(10)), 1U);
  EXPECT_EQ(ran, 10);
  timers.Cancel(second);
  EXPECT_EQ(timers.size(), 0U);
}

TEST(TimerQueue, CancelledDeadlinesAreDroppedBeforeTheyAreMostOfTheHeap) {
  TimerQueue timers;
  size_t ran = 0;
  timers.Add(At(1), [&] { ran += 1; });
  for (int64_t i = 0; i < 100'000; ++i) {
    timers.Cancel(timers.Add(At(1'000'000 + i), [&] { ran += 1; }));
    ASSERT_LE(timers.deadlines(), 2 * timers.size() + TimerQueue::kSpareDeadlines);
  }
  EXPECT_EQ(timers.size(), 1U);
  EXPECT_EQ(RunDue(&timers, kTimeNever), 1U);
  EXPECT_EQ(ran, 1U);
}

TEST(TimerQueue, WhatACallbackHoldsMayCancelAnother) {
  TimerQueue timers;
  int ran = 0;
  const TimerQueue::TimerId other = timers.Add(At(10), [&] { ran += 1; });
  auto cancels = std::shared_ptr<int>(new int, [&](const int* held) {
    delete held;
    timers.Cancel(other);
  });
  const TimerQueue::TimerId timer = timers.Add(At(10), [held = std::move(cancels)] {});
  timers.Cancel(timer);
  EXPECT_EQ(RunDue(&timers, At(10)), 0U);
  EXPECT_EQ(ran, 0);
}

TEST(TimerQueue, AgreesWithASortedMap) {
  TimerQueue timers;
  std::map<std::pair<int64_t, uint64_t>, uint64_t> model;  // (deadline, number) -> id
  std::vector<uint64_t> left;
  std::vector<uint64_t> expected;
  Random random(7);
  for (uint64_t number = 0; number < 20'000; ++number) {
    const int64_t when = static_cast<int64_t>(random.Next() % 500 + number);
    model[{when, number}] = timers.Add(At(when), [&left, number] { left.push_back(number); });
    if (random.Next() % 3 != 0) {
      auto chosen = std::next(model.begin(), static_cast<int64_t>(random.Next() % model.size()));
      timers.Cancel(chosen->second);
      model.erase(chosen);
    }
    RunDue(&timers, At(static_cast<int64_t>(number)));
    while (!model.empty() && model.begin()->first.first <= static_cast<int64_t>(number)) {
      expected.push_back(model.begin()->first.second);
      model.erase(model.begin());
    }
    ASSERT_EQ(timers.size(), model.size());
  }
  EXPECT_EQ(left, expected);
}

}  // namespace
}  // namespace gemel

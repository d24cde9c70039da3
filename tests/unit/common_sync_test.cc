// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/errors.h"
#include "common/sync.h"
#include "tests/unit/common_runner.h"

namespace gemel {
namespace {

using ::testing::ElementsAre;

class SyncTest : public ::testing::Test {
 protected:
  // Runs all that is due up to `delay` from now.
  void RunFor(Duration delay) {
    const TimePoint limit = Add(scheduler_.now(), delay);
    scheduler_.RunUntil([] { return false; }, limit);
  }

  TimePoint In(Duration delay) const { return Add(scheduler_.now(), delay); }

  SimScheduler scheduler_;
  SimLoop loop_{&scheduler_};
};

// Waits and notes "name" when notified, "name late" when the deadline came first.
Task<void> WaitAndNote(WaitQueue* queue, TimePoint deadline, std::string name,
                       std::vector<std::string>* log) {
  const bool notified = co_await queue->WaitUntil(deadline);
  log->push_back(notified ? name : name + " late");
}

TEST_F(SyncTest, WaitQueueWakesInTheOrderOfWaiting) {
  WaitQueue queue(&loop_);
  std::vector<std::string> log;
  for (const char* name : {"a", "b", "c"}) {
    loop_.Spawn(WaitAndNote(&queue, kTimeNever, name, &log));
  }
  RunFor(1ms);
  queue.NotifyOne();
  EXPECT_THAT(log, ElementsAre());  // never inline
  RunFor(1ms);
  EXPECT_THAT(log, ElementsAre("a"));
  queue.NotifyAll();
  RunFor(1ms);
  EXPECT_THAT(log, ElementsAre("a", "b", "c"));
}

TEST_F(SyncTest, WaitQueueEndsAWaitAtItsDeadline) {
  WaitQueue queue(&loop_);
  std::vector<std::string> log;
  loop_.Spawn(WaitAndNote(&queue, In(5ms), "a", &log));
  loop_.Spawn(WaitAndNote(&queue, In(-5ms), "past", &log));
  loop_.Spawn(WaitAndNote(&queue, In(8ms), "b", &log));
  RunFor(4ms);
  EXPECT_THAT(log, ElementsAre("past late"));
  RunFor(2ms);
  queue.NotifyAll();
  RunFor(10ms);
  EXPECT_THAT(log, ElementsAre("past late", "a late", "b"));
}

TEST_F(SyncTest, WaitQueueOutlivesAndIsOutlivedByWaitersOfADeadLoop) {
  std::vector<std::string> log;
  auto first = std::make_unique<WaitQueue>(&loop_);
  WaitQueue second(&loop_);
  loop_.Spawn(WaitAndNote(first.get(), In(1h), "a", &log));
  loop_.Spawn(WaitAndNote(&second, kTimeNever, "b", &log));
  RunFor(1ms);
  loop_.Kill();
  first.reset();
  second.NotifyAll();
  RunFor(2h);
  EXPECT_THAT(log, ElementsAre());
}

TEST_F(SyncTest, OneShotKeepsTheFirstValueAndWakesAllWaiters) {
  OneShot<int> shot(&loop_);
  auto first = Start(&loop_, shot.WaitUntil(kTimeNever));
  auto second = Start(&loop_, shot.WaitUntil(In(1s)));
  RunFor(1ms);
  EXPECT_FALSE(first->has_value());
  shot.Set(7);
  shot.Set(8);
  RunFor(1ms);
  EXPECT_TRUE(first->value());
  EXPECT_TRUE(second->value());
  EXPECT_EQ(shot.value(), 7);
  EXPECT_TRUE(RunTask(&scheduler_, &loop_, shot.WaitUntil(In(-1s))));
}

TEST_F(SyncTest, OneShotTellsADeadlineFromAValue) {
  OneShot<int> shot(&loop_);
  EXPECT_FALSE(RunTask(&scheduler_, &loop_, shot.WaitUntil(In(3ms))));
  EXPECT_EQ(scheduler_.now(), TimePoint(3ms));
  EXPECT_FALSE(shot.is_set());
}

TEST_F(SyncTest, SemaphoreGrantsNoMoreThanItsPermits) {
  Semaphore semaphore(&loop_, 3);
  EXPECT_TRUE(RunTask(&scheduler_, &loop_, semaphore.Acquire(2, kTimeNever)));
  auto large = Start(&loop_, semaphore.Acquire(2, kTimeNever));
  auto small = Start(&loop_, semaphore.Acquire(1, kTimeNever));
  RunFor(1ms);
  EXPECT_FALSE(large->has_value());
  EXPECT_TRUE(small->value());  // may overtake
  EXPECT_EQ(semaphore.available(), 0U);
  semaphore.Release(1);
  RunFor(1ms);
  EXPECT_FALSE(large->has_value());
  semaphore.Release(1);
  RunFor(1ms);
  EXPECT_TRUE(large->value());
  EXPECT_EQ(semaphore.available(), 0U);
}

TEST_F(SyncTest, SemaphoreAcquiresNothingAtItsDeadline) {
  Semaphore semaphore(&loop_, 1);
  EXPECT_FALSE(RunTask(&scheduler_, &loop_, semaphore.Acquire(2, In(2ms))));
  EXPECT_EQ(semaphore.available(), 1U);
  EXPECT_EQ(scheduler_.now(), TimePoint(2ms));
}

Task<void> StayInside(Loop* loop, Gate* gate, Duration delay, int* inside) {
  Gate::Pass pass = gate->Enter();
  *inside += pass ? 1 : 0;
  co_await loop->Sleep(delay);
  *inside -= pass ? 1 : 0;
}

Task<bool> CloseGate(Gate* gate) {
  co_await gate->Close();
  co_return true;
}

TEST_F(SyncTest, GateClosesWhenTheLastOneLeft) {
  Gate gate(&loop_);
  int inside = 0;
  loop_.Spawn(StayInside(&loop_, &gate, 2ms, &inside));
  loop_.Spawn(StayInside(&loop_, &gate, 5ms, &inside));
  RunFor(1ms);
  ASSERT_EQ(inside, 2);
  auto closed = Start(&loop_, CloseGate(&gate));
  RunFor(2ms);
  EXPECT_TRUE(gate.closed());
  EXPECT_FALSE(gate.Enter());
  EXPECT_FALSE(closed->has_value());
  EXPECT_TRUE(scheduler_.RunUntil([&] { return closed->has_value(); }, In(10ms)));
  EXPECT_EQ(inside, 0);
  EXPECT_EQ(scheduler_.now(), TimePoint(5ms));
}

TEST_F(SyncTest, GatePassesMoveWithoutCountingTwice) {
  Gate gate(&loop_);
  Gate::Pass first = gate.Enter();
  Gate::Pass second = std::move(first);
  first = gate.Enter();
  first = Gate::Pass();
  EXPECT_TRUE(second);
  second = Gate::Pass();
  EXPECT_TRUE(RunTask(&scheduler_, &loop_, CloseGate(&gate)));
}

TEST(GateDeathTest, DiesWhenItGoesWithSomebodyInside) {
  EXPECT_DEATH(
      {
        SimScheduler scheduler;
        SimLoop loop(&scheduler);
        auto gate = std::make_unique<Gate>(&loop);
        Gate::Pass pass = gate->Enter();
        gate.reset();
      },
      "inside_");
}

Task<absl::Status> EndAfter(Loop* loop, Duration delay, absl::Status status) {
  co_await loop->Sleep(delay);
  co_return status;
}

TEST_F(SyncTest, GatherRunsAtTheSameTimeAndKeepsTheOrderGiven) {
  std::vector<Task<absl::Status>> tasks;
  tasks.push_back(EndAfter(&loop_, 3ms, absl::OkStatus()));
  tasks.push_back(EndAfter(&loop_, 1ms, error::NotFound("first")));
  tasks.push_back(EndAfter(&loop_, 2ms, error::Aborted("second")));
  auto statuses = RunTask(&scheduler_, &loop_, Gather(&loop_, std::move(tasks)));
  EXPECT_EQ(scheduler_.now(), TimePoint(3ms));
  ASSERT_EQ(statuses.size(), 3U);
  EXPECT_TRUE(statuses[0].ok());
  EXPECT_TRUE(absl::IsNotFound(statuses[1]));
  EXPECT_TRUE(absl::IsAborted(statuses[2]));
  EXPECT_TRUE(absl::IsNotFound(FirstError(statuses)));
  EXPECT_TRUE(FirstError({}).ok());
}

TEST_F(SyncTest, GatherOfNothingEndsAtOnce) {
  EXPECT_TRUE(RunTask(&scheduler_, &loop_, Gather(&loop_, {})).empty());
}

TEST_F(SyncTest, AKillInTheMiddleOfAGatherFreesParentAndChildren) {
  std::vector<Task<absl::Status>> tasks;
  for (int i = 0; i < 3; ++i) {
    tasks.push_back(EndAfter(&loop_, 1h, absl::OkStatus()));
  }
  auto statuses = Start(&loop_, Gather(&loop_, std::move(tasks)));
  RunFor(1ms);
  loop_.Kill();
  RunFor(2h);
  EXPECT_FALSE(statuses->has_value());
  EXPECT_EQ(statuses.use_count(), 1);
}

}  // namespace
}  // namespace gemel

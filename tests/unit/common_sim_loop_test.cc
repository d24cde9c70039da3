// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/random.h"
#include "common/sim_loop.h"
#include "common/sim_process.h"

namespace gemel {
namespace {

using ::testing::ElementsAre;

TimePoint At(Duration since_start) { return TimePoint(since_start); }

class SimLoopTest : public ::testing::Test {
 protected:
  void RunTo(Duration since_start) {
    scheduler_.RunUntil([] { return false; }, At(since_start));
  }

  Loop::Callback Note(std::string name) {
    return [this, name] { log_.push_back(name); };
  }

  std::vector<std::string> log_;
  SimScheduler scheduler_;
  SimLoop loop_{&scheduler_};
};

TEST_F(SimLoopTest, RunsByTimeThenByAgeOverAllLoops) {
  SimLoop other(&scheduler_);
  loop_.RunAt(At(2ms), Note("c"));
  other.RunAt(At(1ms), Note("a"));
  loop_.RunAt(At(1ms), Note("b"));
  scheduler_.At(At(2ms), Note("d"));
  RunTo(1ms);
  EXPECT_THAT(log_, ElementsAre("a", "b"));
  EXPECT_EQ(scheduler_.now(), At(1ms));
  RunTo(5ms);
  EXPECT_THAT(log_, ElementsAre("a", "b", "c", "d"));
  EXPECT_EQ(scheduler_.now(), At(5ms));
}

TEST_F(SimLoopTest, RunsWhatCameDueInAPauseAtTheResumeInOrderOfDueTime) {
  loop_.RunAt(At(3ms), Note("third"));  // older than what is due before it
  loop_.RunAt(At(2ms), Note("second"));
  loop_.RunAt(At(1ms), Note("first"));
  loop_.RunAt(At(9ms), Note("later"));
  loop_.Pause();
  RunTo(5ms);
  EXPECT_THAT(log_, ElementsAre());
  loop_.Resume();
  EXPECT_FALSE(loop_.paused());
  RunTo(5ms);
  EXPECT_THAT(log_, ElementsAre("first", "second", "third"));
  RunTo(10ms);
  EXPECT_THAT(log_, ElementsAre("first", "second", "third", "later"));
}

TEST_F(SimLoopTest, RunsWhatIsDueAtTheResumeAfterWhatCameDueBefore) {
  scheduler_.At(At(5ms), [this] { loop_.Resume(); });
  loop_.RunAt(At(5ms), Note("at the resume"));  // older than "before", not yet put aside
  loop_.RunAt(At(4ms), Note("before"));
  loop_.Pause();
  RunTo(5ms);
  EXPECT_THAT(log_, ElementsAre("before", "at the resume"));
}

TEST_F(SimLoopTest, CancelsTimersInEveryStateOfTheLoop) {
  auto waiting = loop_.RunAt(At(1ms), Note("waiting"));
  loop_.CancelTimer(waiting);
  auto deferred = loop_.RunAt(At(2ms), Note("deferred"));
  auto resumed = loop_.RunAt(At(2ms), Note("resumed"));
  loop_.RunAt(At(2ms), Note("kept"));
  loop_.Pause();
  RunTo(3ms);
  loop_.CancelTimer(deferred);
  loop_.Resume();
  loop_.CancelTimer(resumed);
  RunTo(4ms);
  EXPECT_THAT(log_, ElementsAre("kept"));
  loop_.CancelTimer(waiting);  // over: ignored
}

TEST_F(SimLoopTest, AKillDropsEventsOfThatLoopOnly) {
  SimLoop other(&scheduler_);
  loop_.Post(Note("posted"));
  loop_.RunAt(At(1ms), Note("timer"));
  other.RunAt(At(1ms), Note("other"));
  loop_.Kill();
  loop_.Post(Note("after"));
  EXPECT_EQ(loop_.RunAt(At(1ms), Note("after")), Loop::kNoTimer);
  RunTo(2ms);
  EXPECT_THAT(log_, ElementsAre("other"));
}

TEST_F(SimLoopTest, AKillOfAPausedLoopDropsWhatWasPutAside) {
  loop_.RunAt(At(1ms), Note("timer"));
  loop_.Pause();
  RunTo(2ms);
  loop_.Kill();
  loop_.Resume();
  RunTo(3ms);
  EXPECT_THAT(log_, ElementsAre());
}

struct NoteAtEnd {
  std::vector<std::string>* log;

  ~NoteAtEnd() { log->push_back("destroyed"); }
};

Task<void> SleepLong(Loop* loop, std::vector<std::string>* log) {
  NoteAtEnd note{log};
  co_await loop->Sleep(1h);
  log->push_back("never");
}

TEST_F(SimLoopTest, AKillDestroysTasks) {
  loop_.Spawn(SleepLong(&loop_, &log_));
  RunTo(1ms);
  loop_.Kill();
  EXPECT_THAT(log_, ElementsAre("destroyed"));
  RunTo(2h);
  EXPECT_EQ(log_.size(), 1U);
}

TEST_F(SimLoopTest, SleepsInVirtualTimeOnly) {
  loop_.Spawn(SleepLong(&loop_, &log_));
  RunTo(61min);
  EXPECT_THAT(log_, ElementsAre("never", "destroyed"));
  EXPECT_EQ(loop_.WallSeconds(), 61 * 60);
}

Task<void> Wander(SimScheduler* scheduler, Loop* loop, Random random) {
  for (int i = 0; i < 50; ++i) {
    const auto delay = std::chrono::microseconds(random.Below(100));
    co_await loop->Sleep(delay);
    scheduler->MixIntoHistory(random.Next());
  }
}

uint64_t HistoryOf(uint64_t seed, bool with_fault) {
  SimScheduler scheduler;
  SimLoop first(&scheduler);
  SimLoop second(&scheduler);
  Random random(seed);
  first.Spawn(Wander(&scheduler, &first, random.Split("first")));
  second.Spawn(Wander(&scheduler, &second, random.Split("second")));
  if (with_fault) {
    scheduler.At(At(500us), [&first] { first.Pause(); });
    scheduler.At(At(700us), [&first] { first.Resume(); });
  }
  scheduler.RunUntil([] { return false; }, At(1s));
  return scheduler.history_hash();
}

TEST_F(SimLoopTest, AFastClockFiresEarlyAndNeverBeforeItShowsTheTime) {
  RunTo(1s);
  loop_.SetClockRate(1500);
  EXPECT_EQ(loop_.Now(), At(1s));
  const TimePoint due = loop_.Now() + 3s;
  loop_.RunAt(due, [this, due] {
    log_.push_back("fired");
    EXPECT_GE(loop_.Now(), due);
  });
  RunTo(2999ms);
  EXPECT_THAT(log_, ElementsAre());
  RunTo(3s);
  EXPECT_THAT(log_, ElementsAre("fired"));
  EXPECT_EQ(loop_.Now(), At(4s));
}

TEST_F(SimLoopTest, AChangeOfRateMovesTimersThatAreSet) {
  loop_.RunAt(At(2s), Note("timer"));
  loop_.SetClockRate(500);
  RunTo(3s);
  EXPECT_THAT(log_, ElementsAre());
  EXPECT_EQ(loop_.Now(), At(1500ms));
  loop_.SetClockRate(2000);
  EXPECT_EQ(loop_.Now(), At(1500ms));
  RunTo(3300ms);
  EXPECT_THAT(log_, ElementsAre("timer"));
  EXPECT_EQ(loop_.ToWorld(kTimeNever), kTimeNever);
  EXPECT_EQ(loop_.ToLocal(loop_.ToWorld(At(9s))), At(9s));
}

TEST_F(SimLoopTest, ASlowCpuTakesItsEventsOneAfterTheOther) {
  loop_.set_turn_cost(10ms);
  loop_.RunAt(At(1ms), Note("a"));
  loop_.RunAt(At(1ms), Note("b"));
  loop_.RunAt(At(2ms), Note("c"));
  RunTo(10ms);
  EXPECT_THAT(log_, ElementsAre("a"));
  RunTo(11ms);
  EXPECT_THAT(log_, ElementsAre("a", "b"));
  RunTo(30ms);
  EXPECT_THAT(log_, ElementsAre("a", "b", "c"));
  EXPECT_GT(loop_.busy_delays(), 0U);
}

TEST_F(SimLoopTest, AWallClockThatIsOffMovesNoTimer) {
  const int64_t before = loop_.WallSeconds();
  loop_.set_wall_offset_s(-86'400);
  EXPECT_EQ(loop_.WallSeconds(), before - 86'400);
  loop_.RunAt(At(1ms), Note("timer"));
  RunTo(1ms);
  EXPECT_THAT(log_, ElementsAre("timer"));
}

TEST(SimSchedulerTest, HistoryIsAFunctionOfTheSeed) {
  EXPECT_EQ(HistoryOf(1, false), HistoryOf(1, false));
  EXPECT_EQ(HistoryOf(1, true), HistoryOf(1, true));
  EXPECT_NE(HistoryOf(1, false), HistoryOf(2, false));
  EXPECT_NE(HistoryOf(1, false), HistoryOf(1, true));
}

TEST(SimProcessTest, LivesOfOneSeedAreEqualAndOfOthersDiffer) {
  SimProcess first(Random(1), 41);
  SimProcess same(Random(1), 41);
  SimProcess other(Random(2), 42);
  EXPECT_EQ(first.Entropy64(), same.Entropy64());
  EXPECT_NE(first.Entropy64(), other.Entropy64());
  EXPECT_EQ(other.pid(), 42U);
}

}  // namespace
}  // namespace gemel

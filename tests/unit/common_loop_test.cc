// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "common/epoll_loop.h"
#include "tests/unit/common_runner.h"

namespace gemel {
namespace {

using ::testing::ElementsAre;

// With a loop that parks at once, and one that polls first.
class EpollLoopTest : public ::testing::TestWithParam<Duration> {
 protected:
  void SetUp() override {
    auto made = EpollLoop::Create();
    ASSERT_TRUE(made.ok()) << made.status();
    loop_ = *std::move(made);
    loop_->SpinFor(GetParam());
  }

  // Runs until what is due now has run.
  void RunDue() {
    bool reached = false;
    loop_->Post([&] { reached = true; });
    ASSERT_TRUE(RunLoop(loop_.get(), [&] { return reached; }));
  }

  std::unique_ptr<EpollLoop> loop_;
};

TEST_P(EpollLoopTest, RunsPostsInOrder) {
  std::vector<int> order;
  for (int i = 0; i < 4; ++i) {
    loop_->Post([&order, i] { order.push_back(i); });
  }
  RunDue();
  EXPECT_THAT(order, ElementsAre(0, 1, 2, 3));
}

TEST_P(EpollLoopTest, RunsTheEndOfATurnBehindItsPostsAndBeforeTheNextOnes) {
  std::vector<int> order;
  loop_->Post([&] {
    loop_->AtTurnEnd([&] { order.push_back(3); });
    loop_->Post([&] { order.push_back(4); });
    order.push_back(1);
  });
  loop_->Post([&] { order.push_back(2); });
  RunDue();
  RunDue();
  EXPECT_THAT(order, ElementsAre(1, 2, 3, 4));
}

TEST_P(EpollLoopTest, RunsTheEndOfATurnBeforeItLooksAtDescriptors) {
  std::vector<int> order;
  const int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  ASSERT_GE(fd, 0);
  loop_->Watch(fd, EPOLLIN, [&](uint32_t /*events*/) {
    loop_->Unwatch(fd);
    order.push_back(2);
  });
  loop_->Post([&] {
    const uint64_t one = 1;
    EXPECT_EQ(write(fd, &one, sizeof one), static_cast<ssize_t>(sizeof one));
    loop_->AtTurnEnd([&] { order.push_back(1); });
  });
  ASSERT_TRUE(RunLoop(loop_.get(), [&] { return order.size() == 2; }));
  EXPECT_THAT(order, ElementsAre(1, 2));
  close(fd);
}

TEST_P(EpollLoopTest, DoesNotParkBeforeTheEndOfATurnThatHasNotBegun) {
  bool ended = false;
  loop_->AtTurnEnd([&] {
    ended = true;
    loop_->AtTurnEnd([&] { ended = false; });  // of the next
  });
  EXPECT_TRUE(RunLoop(loop_.get(), [&] { return ended; }));
  EXPECT_TRUE(RunLoop(loop_.get(), [&] { return !ended; }));
}

TEST_P(EpollLoopTest, AShutdownAtTheEndOfATurnIsTheLastThatRuns) {
  int ran = 0;
  loop_->AtTurnEnd([&] {
    ran += 1;
    loop_->Shutdown();
  });
  loop_->AtTurnEnd([&] { ran += 10; });
  EXPECT_FALSE(RunLoop(loop_.get(), [&] { return ran > 1; }));
  EXPECT_EQ(ran, 1);
}

TEST_P(EpollLoopTest, FiresTimersByDeadlineThenByAge) {
  std::vector<int> order;
  const TimePoint start = loop_->Now();
  loop_->RunAt(start + 2ms, [&] { order.push_back(3); });
  loop_->RunAt(start + 1ms, [&] { order.push_back(1); });
  loop_->RunAt(start + 1ms, [&] { order.push_back(2); });
  auto cancelled = loop_->RunAt(start + 1ms, [&] { order.push_back(9); });
  loop_->CancelTimer(cancelled);
  ASSERT_TRUE(RunLoop(loop_.get(), [&] { return order.size() == 3; }));
  EXPECT_THAT(order, ElementsAre(1, 2, 3));
  EXPECT_GE(loop_->Now(), start + 2ms);
}

TEST_P(EpollLoopTest, RunsATimerOfTheDistantPastAtOnce) {
  bool fired = false;
  loop_->RunAt(TimePoint::min(), [&] { fired = true; });
  EXPECT_TRUE(RunLoop(loop_.get(), [&] { return fired; }));
}

TEST_P(EpollLoopTest, ReachesPostsBesideATaskThatSleepsUntilThePastForEver) {
  const TimePoint past = loop_->Now();
  auto forever = [](Loop* loop, TimePoint past) -> Task<void> {
    while (true) {
      co_await loop->SleepUntil(past);
    }
  };
  loop_->Spawn(forever(loop_.get(), past));
  bool reached = false;
  std::jthread poster([&] { loop_->PostFromAnyThread([&] { reached = true; }); });
  EXPECT_TRUE(RunLoop(loop_.get(), [&] { return reached; }));
  loop_->Shutdown();
}

TEST_P(EpollLoopTest, KeepsTheOrderOfEachPostingThread) {
  constexpr int kThreads = 4;
  constexpr int kPosts = 500;
  std::vector<std::vector<int>> seen(kThreads);
  size_t total = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < kPosts; ++i) {
          loop_->PostFromAnyThread([&seen, &total, t, i] {
            seen[static_cast<size_t>(t)].push_back(i);
            total += 1;
          });
        }
      });
    }
    ASSERT_TRUE(RunLoop(loop_.get(), [&] { return total == kThreads * kPosts; }));
  }
  for (const std::vector<int>& posts : seen) {
    ASSERT_EQ(posts.size(), static_cast<size_t>(kPosts));
    EXPECT_TRUE(std::is_sorted(posts.begin(), posts.end()));
  }
}

TEST_P(EpollLoopTest, BelongsToItsMakerThenToItsRunner) {
  EXPECT_TRUE(loop_->OnLoopThread());
  bool inside = false;
  std::jthread runner([&] {
    loop_->Post([&] {
      inside = loop_->OnLoopThread();
      loop_->Stop();
    });
    loop_->Run();
  });
  runner.join();
  EXPECT_TRUE(inside);
  EXPECT_FALSE(loop_->OnLoopThread());
}

TEST_P(EpollLoopTest, AStopBeforeRunIsNotLost) {
  loop_->Stop();
  loop_->Run();
  bool again = false;
  loop_->Post([&] {
    again = true;
    loop_->Stop();
  });
  loop_->Run();
  EXPECT_TRUE(again);
}

TEST_P(EpollLoopTest, RunReturnsWhenACallbackShutsTheLoopDown) {
  bool after = false;
  loop_->Post([&] {
    loop_->Shutdown();
    loop_->Post([&] { after = true; });
    loop_->PostFromAnyThread([&] { after = true; });
    loop_->RunAt(loop_->Now(), [&] { after = true; });
  });
  loop_->Run();
  EXPECT_FALSE(RunLoop(loop_.get(), [] { return false; }));
  EXPECT_FALSE(after);
}

// Posts to its loop and cancels a timer when it is destroyed, as a Gate::Pass in a callback may.
class BusyAtItsEnd {
 public:
  BusyAtItsEnd(Loop* loop, int* destroyed) : loop_(loop), destroyed_(destroyed) {}

  BusyAtItsEnd(BusyAtItsEnd&& other) noexcept
      : loop_(std::exchange(other.loop_, nullptr)), destroyed_(other.destroyed_) {}

  ~BusyAtItsEnd() {
    if (loop_ != nullptr) {
      *destroyed_ += 1;
      loop_->Post([] { FAIL() << "ran after the shutdown"; });
      loop_->PostFromAnyThread([] { FAIL() << "ran after the shutdown"; });
      loop_->CancelTimer(loop_->RunAt(loop_->Now(), [] {}));
    }
  }

 private:
  Loop* loop_;
  int* destroyed_;
};

TEST_P(EpollLoopTest, ShutdownDropsQueuesWhoseCallbacksPostAsTheyGo) {
  int destroyed = 0;
  for (int i = 0; i < 3; ++i) {
    loop_->Post([busy = BusyAtItsEnd(loop_.get(), &destroyed)] {});
    loop_->PostFromAnyThread([busy = BusyAtItsEnd(loop_.get(), &destroyed)] {});
    loop_->RunAt(loop_->Now() + 1h, [busy = BusyAtItsEnd(loop_.get(), &destroyed)] {});
  }
  loop_->Shutdown();
  EXPECT_EQ(destroyed, 9);
  loop_->PostFromAnyThread([busy = BusyAtItsEnd(loop_.get(), &destroyed)] {});
  EXPECT_EQ(destroyed, 10);  // dropped at once, not kept until the loop goes
}

TEST_P(EpollLoopTest, ShutdownDestroysFramesAndRunsDestructors) {
  struct Note {
    std::vector<std::string>* log;
    std::string name;

    ~Note() { log->push_back(name); }
  };

  std::vector<std::string> log;
  auto inner = [](Loop* loop, std::vector<std::string>* log) -> Task<void> {
    Note note{log, "inner"};
    co_await loop->Sleep(1h);
    log->push_back("never");
  };
  auto outer = [&inner](Loop* loop, std::vector<std::string>* log) -> Task<void> {
    Note note{log, "outer"};
    co_await inner(loop, log);
    log->push_back("never");
  };
  loop_->Spawn(outer(loop_.get(), &log));
  RunDue();
  EXPECT_THAT(log, ElementsAre());
  loop_->Shutdown();
  EXPECT_THAT(log, ElementsAre("inner", "outer"));
  loop_->Spawn(outer(loop_.get(), &log));  // dropped: nothing runs any more
  EXPECT_EQ(log.size(), 2U);
}

TEST_P(EpollLoopTest, ReportsAReadyDescriptorUntilUnwatched) {
  const int fd = eventfd(1, EFD_NONBLOCK);
  int calls = 0;
  loop_->Watch(fd, EPOLLIN, [&](uint32_t events) {
    EXPECT_EQ(events, static_cast<uint32_t>(EPOLLIN));
    calls += 1;
    if (calls == 2) {
      loop_->Unwatch(fd);
    }
  });
  ASSERT_TRUE(RunLoop(loop_.get(), [&] { return calls == 2; }));
  for (int i = 0; i < 3; ++i) {
    RunDue();
  }
  EXPECT_EQ(calls, 2);
  close(fd);
}

TEST_P(EpollLoopTest, ReplacesTheWatchOfADescriptorFromItsOwnCallback) {
  const int fd = eventfd(1, EFD_NONBLOCK);
  bool second = false;
  loop_->Watch(fd, EPOLLIN, [&](uint32_t) {
    loop_->Watch(fd, EPOLLIN, [&](uint32_t) {
      second = true;
      loop_->Unwatch(fd);
    });
  });
  EXPECT_TRUE(RunLoop(loop_.get(), [&] { return second; }));
  close(fd);
}

TEST_P(EpollLoopTest, DropsTheEventOfADescriptorReusedWithinOneBatch) {
  std::vector<int> fds = {eventfd(1, EFD_NONBLOCK), eventfd(1, EFD_NONBLOCK)};
  int old_calls = 0;
  int new_calls = 0;
  // Both are ready in one batch: the first to run closes the other, whose number is taken anew.
  auto on_ready = [&](int self) {
    old_calls += 1;
    const int other = fds[0] == self ? fds[1] : fds[0];
    loop_->Unwatch(self);
    loop_->Unwatch(other);
    close(other);
    const int again = eventfd(0, EFD_NONBLOCK);
    ASSERT_EQ(again, other);
    loop_->Watch(again, EPOLLIN, [&](uint32_t) { new_calls += 1; });
  };
  for (int fd : fds) {
    loop_->Watch(fd, EPOLLIN, [&on_ready, fd](uint32_t) { on_ready(fd); });
  }
  ASSERT_TRUE(RunLoop(loop_.get(), [&] { return old_calls > 0; }));
  RunDue();
  EXPECT_EQ(old_calls, 1);
  EXPECT_EQ(new_calls, 0);
  for (int fd : fds) {
    loop_->Unwatch(fd);
    close(fd);
  }
}

Task<int> Countdown(int left) {
  if (left == 0) {
    co_return 0;
  }
  const int below = co_await Countdown(left - 1);
  co_return below + 1;
}

TEST_P(EpollLoopTest, AwaitsAMillionFramesDeepOnOneStackFrame) {
  EXPECT_EQ(RunTask(loop_.get(), Countdown(1'000'000)), 1'000'000);
}

Task<int> One() { co_return 1; }

Task<int> SumOfOnes(int count) {
  int sum = 0;
  for (int i = 0; i < count; ++i) {
    sum += co_await One();
  }
  co_return sum;
}

TEST_P(EpollLoopTest, AwaitsAMillionReadyTasksInARow) {
  EXPECT_EQ(RunTask(loop_.get(), SumOfOnes(1'000'000)), 1'000'000);
}

INSTANTIATE_TEST_SUITE_P(Spin, EpollLoopTest,
                         ::testing::Values(Duration(), Duration(std::chrono::milliseconds(1))),
                         [](const auto& spin) {
                           return spin.param > Duration() ? "Polls" : "Parks";
                         });

TEST(TimePointAdd, StopsAtNeverAndTakesNegativeDelays) {
  EXPECT_EQ(Add(TimePoint(1s), Duration::max()), kTimeNever);
  EXPECT_EQ(Add(kTimeNever, 1ns), kTimeNever);
  EXPECT_EQ(Add(TimePoint(5s), -2s), TimePoint(3s));
}

}  // namespace
}  // namespace gemel

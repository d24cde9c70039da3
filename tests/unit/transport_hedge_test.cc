// SPDX-License-Identifier: Apache-2.0
//
// Hedged reads: when a read is late, the budget, two answers and one place; and the pace of
// sources.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "common/errors.h"
#include "common/random.h"
#include "common/xxh3.h"
#include "tests/unit/common_runner.h"
#include "tests/unit/transport_sockets.h"
#include "transport/hedge.h"
#include "transport/source_pace.h"

namespace gemel {
namespace {

using ::testing::HasSubstr;

constexpr TimePoint kStart = TimePoint() + 1s;

// ------------------------------------------------------------------------------------ ReadTimes

TEST(ReadTimes, IsPatientWhileItKnowsLittle) {
  ReadTimes times;
  EXPECT_EQ(times.Patience(), kPatienceFirst);
  times.Record(1ms);
  EXPECT_EQ(times.Patience(), kPatienceFirst);
  times.Record(100ms);
  EXPECT_EQ(times.Patience(), 400ms) << "four times the longest";
}

TEST(ReadTimes, LateIsWhatTwoOfAHundredAre) {
  ReadTimes times;
  for (int i = 1; i <= 10'000; ++i) {
    times.Record(std::chrono::microseconds(i * 7919 % 10'000));
  }
  EXPECT_GE(times.Patience(), 9'700us);
  EXPECT_LE(times.Patience(), 10'150us);
}

TEST(ReadTimes, ForgetsWhatWasLongAgo) {
  ReadTimes times;
  for (int i = 0; i < 10'000; ++i) {
    times.Record(100ms);
  }
  EXPECT_GE(times.Patience(), 100ms);
  for (int i = 0; i < 40'000; ++i) {
    times.Record(1ms);
  }
  EXPECT_LE(times.Patience(), 1100us);
}

TEST(ReadTimes, WhatHedgesHideDoesNotMakeTheClassLookFaster) {
  // One of a hundred stalls. Half of the histories end a stall at the hedge's answer: recorded is
  // then the time until that, not what it would have taken.
  Random random(5);
  ReadTimes seen;
  ReadTimes hidden;
  for (int i = 0; i < 50'000; ++i) {
    const Duration took = std::chrono::microseconds(800 + random.Below(400));
    const Duration stall = std::chrono::milliseconds(10 + random.Below(30));
    const bool stalls = random.Chance(1, 100);
    seen.Record(stalls ? stall : took);
    hidden.Record(stalls ? std::min(stall, hidden.Patience() + took) : took);
  }
  const double ratio = Milliseconds(hidden.Patience()) / Milliseconds(seen.Patience());
  EXPECT_NEAR(ratio, 1.0, 0.04) << Milliseconds(hidden.Patience());
}

TEST(ReadTimes, TakesAnyTime) {
  ReadTimes times;
  for (int i = 0; i < 100; ++i) {
    times.Record(Duration(-5));
    times.Record(Duration(0));
    times.Record(Duration::max());
  }
  EXPECT_GT(times.Patience(), 60s);
}

// ---------------------------------------------------------------------------------- HedgePolicy

TEST(HedgePolicy, SpendsTwoOfAHundredReads) {
  HedgePolicy policy;
  uint64_t taken = 0;
  for (int i = 0; i < 10'000; ++i) {
    policy.Begin(kChunkBytes);
    taken += policy.Take(kChunkBytes) ? 1 : 0;
  }
  EXPECT_EQ(taken, 200 + kHedgesFirst);
  EXPECT_EQ(policy.counts().hedged, taken);
  EXPECT_EQ(policy.counts().refused, 10'000 - taken);
}

TEST(HedgePolicy, SavesUpForABurstButNotForEver) {
  HedgePolicy policy;
  for (int i = 0; i < 1'000'000; ++i) {
    policy.Begin(kChunkBytes);
  }
  uint64_t taken = 0;
  while (policy.Take(kChunkBytes)) {
    taken += 1;
  }
  EXPECT_EQ(taken, kHedgesSaved);
}

TEST(HedgePolicy, SpendsFiveOfAHundredBytes) {
  HedgePolicy policy;
  while (policy.Take(kChunkBytes)) {
  }
  for (int i = 0; i < 1000; ++i) {
    policy.Begin(kChunkBytes / 100);  // twenty requests, half a chunk
  }
  EXPECT_FALSE(policy.Take(kChunkBytes));
  EXPECT_TRUE(policy.Take(kChunkBytes / 100));
}

// ----------------------------------------------------------------------------------- HedgedRead

constexpr size_t kBytes = 4 * kKiB;

// What one source does.
struct Script {
  Duration takes = 1ms;
  absl::Status error;    // instead of bytes
  bool corrupt = false;  // a byte
  bool deaf = false;     // to the stop: it answers when it would have
  int begun = 0;
  bool stopped = false;  // it noticed
};

class HedgeTest : public ::testing::Test {
 protected:
  HedgeTest() : loop_(&scheduler_), content_(Pattern(kBytes, 3)), place_(kBytes) {
    for (uint64_t i = 0; i < 2 * kReadTimesMin; ++i) {
      policy_.Record(1ms);  // late after little more
    }
  }

  ~HedgeTest() override { loop_.Kill(); }

  static Task<absl::StatusOr<Digest128>> Answer(HedgeTest* self, Script* script,
                                                HedgedRead::Into into) {
    script->begun += 1;
    co_await self->loop_.Sleep(script->takes);
    if (into.stop->stopped()) {
      script->stopped = true;
      if (!script->deaf) {
        co_return error::Cancelled("stopped");
      }
    }
    if (!script->error.ok()) {
      co_return script->error;
    }
    if (into.stop->stopped()) {
      co_return Digest128();  // what came went into scratch
    }
    std::copy(self->content_.begin(), self->content_.end(), into.place.begin());
    into.place[17] ^= script->corrupt ? std::byte{1} : std::byte{0};
    co_return Xxh3_128(into.place);
  }

  HedgedRead::Source SourceOf(Script* script) {
    return [this, script](HedgedRead::Into into) { return Answer(this, script, std::move(into)); };
  }

  std::shared_ptr<HedgedRead> NewRead() {
    HedgedRead::Wanted wanted;
    wanted.place = place_;
    wanted.digest = Xxh3_128(content_);
    wanted.first = SourceOf(&first_);
    wanted.second = [this]() -> HedgedRead::Source {
      asked_ += 1;
      return alone_ ? HedgedRead::Source() : SourceOf(&second_);
    };
    return std::make_shared<HedgedRead>(&loop_, &policy_, std::move(wanted));
  }

  // How long the result took.
  Duration Run(const std::shared_ptr<HedgedRead>& read) {
    const TimePoint began = loop_.Now();
    result_ = RunTask(&scheduler_, &loop_, read->Result());
    const Duration took = loop_.Now() - began;
    at_result_ = place_;
    bool ended = false;
    loop_.Spawn(AwaitEnd(read, &ended));
    EXPECT_TRUE(scheduler_.RunUntil([&] { return ended; }, kTimeNever));
    return took;
  }

  static Task<void> AwaitEnd(std::shared_ptr<HedgedRead> read, bool* ended) {
    co_await read->Ended();
    *ended = true;
  }

  bool Right() const { return place_ == content_; }

  SimScheduler scheduler_;
  SimLoop loop_;
  HedgePolicy policy_;
  const std::vector<std::byte> content_;
  std::vector<std::byte> place_;
  std::vector<std::byte> at_result_;
  Script first_;
  Script second_;
  int asked_ = 0;
  bool alone_ = false;
  absl::Status result_;
};

TEST_F(HedgeTest, AReadThatIsInTimeAsksNobodyElse) {
  const auto read = NewRead();
  EXPECT_EQ(Run(read), 1ms);
  EXPECT_TRUE(result_.ok() && Right());
  EXPECT_EQ(asked_, 0);
  EXPECT_FALSE(read->outcome().hedged);
}

TEST_F(HedgeTest, ALateReadIsReadAgainAndTheOtherAnswerCounts) {
  first_.takes = 500ms;
  const auto read = NewRead();
  EXPECT_LE(Run(read), 3ms);
  EXPECT_TRUE(result_.ok() && Right());
  EXPECT_TRUE(read->outcome().hedged && read->outcome().won);
  EXPECT_EQ(read->outcome().stopped, 1U);
  EXPECT_EQ(read->outcome().wasted_bytes, 0U);
  EXPECT_TRUE(first_.stopped);
  EXPECT_EQ(policy_.counts().won, 1U);
}

TEST_F(HedgeTest, AFirstThatArrivesMeanwhileStopsTheSecond) {
  first_.takes = 3ms;
  second_.takes = 500ms;
  const auto read = NewRead();
  EXPECT_EQ(Run(read), 3ms);
  EXPECT_TRUE(result_.ok() && Right());
  EXPECT_TRUE(read->outcome().hedged);
  EXPECT_FALSE(read->outcome().won);
  EXPECT_TRUE(second_.stopped);
}

TEST_F(HedgeTest, NothingIsPlacedAfterTheResult) {
  first_.takes = 5ms;
  first_.corrupt = true;
  first_.deaf = true;
  const auto read = NewRead();
  EXPECT_LE(Run(read), 3ms);
  EXPECT_TRUE(result_.ok());
  EXPECT_EQ(at_result_, content_);
  EXPECT_TRUE(Right());
  EXPECT_EQ(read->outcome().wasted_bytes, kBytes) << "both arrived";
}

TEST_F(HedgeTest, ACorruptHedgeDoesNotHurtTheFirst) {
  first_.takes = 10ms;
  second_.corrupt = true;
  const auto read = NewRead();
  EXPECT_EQ(Run(read), 10ms);
  EXPECT_TRUE(result_.ok() && Right());
  EXPECT_FALSE(first_.stopped);
  EXPECT_FALSE(read->outcome().won);
  EXPECT_EQ(read->outcome().second.code(), absl::StatusCode::kDataLoss);
}

TEST_F(HedgeTest, AFailedHedgeDoesNotHurtTheFirst) {
  first_.takes = 10ms;
  second_.error = error::Unavailable("gone");
  const auto read = NewRead();
  EXPECT_EQ(Run(read), 10ms);
  EXPECT_TRUE(result_.ok() && Right());
  EXPECT_EQ(second_.begun, 1) << "a read is hedged once";
}

TEST_F(HedgeTest, AFirstThatFailsWhileTheHedgeIsUnderWayDoesNotEndTheRead) {
  first_.takes = 3ms;
  first_.error = error::Unavailable("died");
  second_.takes = 20ms;
  const auto read = NewRead();
  EXPECT_GT(Run(read), 20ms);
  EXPECT_TRUE(result_.ok() && Right());
  EXPECT_TRUE(read->outcome().won);
}

TEST_F(HedgeTest, AFirstThatIsWrongWhileTheHedgeIsUnderWayDoesNotEndTheRead) {
  first_.takes = 3ms;
  first_.corrupt = true;
  second_.takes = 20ms;
  const auto read = NewRead();
  EXPECT_GT(Run(read), 20ms);
  EXPECT_TRUE(result_.ok() && Right());
}

TEST_F(HedgeTest, WhenBothFailItIsTheFirstOnesError) {
  first_.takes = 3ms;
  first_.error = error::NotFound("not here");
  second_.takes = 5ms;
  second_.error = error::Unavailable("gone");
  const auto read = NewRead();
  Run(read);
  EXPECT_EQ(result_.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(read->outcome().second.code(), absl::StatusCode::kUnavailable);
}

TEST_F(HedgeTest, WrongBytesAreNamedByTheirDigest) {
  first_.corrupt = true;
  Run(NewRead());
  EXPECT_EQ(result_.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(MessageOf(result_)), HasSubstr(ToHex(Xxh3_128(content_))));
}

TEST_F(HedgeTest, ABudgetThatIsUsedUpLeavesTheReadAlone) {
  while (policy_.Take(kChunkBytes)) {
  }
  const uint64_t refused = policy_.counts().refused;
  first_.takes = 300ms;
  const auto read = NewRead();
  EXPECT_EQ(Run(read), 300ms);
  EXPECT_TRUE(result_.ok() && Right());
  EXPECT_EQ(second_.begun, 0);
  EXPECT_GT(policy_.counts().refused, refused);
}

TEST_F(HedgeTest, ALateReadWaitsForASourceThatMayReadIt) {
  alone_ = true;
  first_.takes = 300ms;
  loop_.RunAt(Add(loop_.Now(), 100ms), [this] { alone_ = false; });
  const auto read = NewRead();
  EXPECT_LE(Run(read), 160ms);
  EXPECT_TRUE(result_.ok() && Right());
  EXPECT_GT(asked_, 1);
  EXPECT_EQ(policy_.counts().hedged, 1U) << "asking costs nothing";
}

TEST_F(HedgeTest, WithoutAPolicyItIsOneRead) {
  HedgedRead::Wanted wanted;
  wanted.place = place_;
  wanted.digest = Xxh3_128(content_);
  wanted.first = SourceOf(&first_);
  first_.takes = 5s;
  const auto read = std::make_shared<HedgedRead>(&loop_, nullptr, std::move(wanted));
  EXPECT_EQ(Run(read), 5s);
  EXPECT_TRUE(result_.ok() && Right());
  EXPECT_EQ(policy_.counts().reads, 0U);
}

TEST_F(HedgeTest, TheTailOfStallsIsCutWithinTheBudget) {
  // lognormal(0, 0.25), 1 % stalls of 10 to 40 medians: without hedges p99 is 10 medians and more.
  Random random(11);
  const auto draw = [&random] {
    double normal = -6;
    for (int i = 0; i < 12; ++i) {
      normal += static_cast<double>(random.Below(1'000'000)) / 1e6;
    }
    const bool stalls = random.Chance(1, 100);
    const double times = stalls ? 10 + static_cast<double>(random.Below(30)) : std::exp(normal / 4);
    return Duration(static_cast<int64_t>(times * 1e6));
  };
  std::vector<Duration> taken;
  for (int i = 0; i < 20'000; ++i) {
    first_.takes = draw();
    second_.takes = draw();
    taken.push_back(Run(NewRead()));
    ASSERT_TRUE(result_.ok() && Right()) << i;
  }
  taken.erase(taken.begin(), taken.begin() + 2'000);  // it learns
  std::sort(taken.begin(), taken.end());
  const double median = Milliseconds(taken[taken.size() / 2]);
  EXPECT_LE(Milliseconds(taken[taken.size() * 99 / 100]) / median, 2.55);
  EXPECT_LE(Milliseconds(taken[taken.size() * 999 / 1000]) / median, 3.6);
  EXPECT_LE(policy_.counts().hedged, 20'000 * 2 / 100 + kHedgesFirst);
  EXPECT_EQ(policy_.counts().reads, 20'000U);
}

// ----------------------------------------------------------------------------------- SourcePace

void Read(SourcePace* pace, TimePoint now, Duration took, Duration fastest) {
  const SourcePace::Ticket ticket = pace->Begin(now);
  pace->Arrived(ticket, now + took, fastest);
}

TEST(SourcePace, SixteenSlowSlicesBeginAProbationAndFourThatAreNotEndIt) {
  SourcePace pace;
  for (uint32_t i = 0; i < kProbationSlices; ++i) {
    EXPECT_FALSE(pace.OnProbation(kStart)) << i;
    Read(&pace, kStart, 5ms, 1ms);
  }
  EXPECT_TRUE(pace.OnProbation(kStart));
  for (uint32_t i = 0; i < kProbationEnds; ++i) {
    EXPECT_TRUE(pace.OnProbation(kStart)) << i;
    Read(&pace, kStart, 4ms, 1ms);
  }
  EXPECT_FALSE(pace.OnProbation(kStart));
}

TEST(SourcePace, OneFastSliceBetweenSlowOnesIsNoProbation) {
  SourcePace pace;
  for (int i = 0; i < 100; ++i) {
    Read(&pace, kStart, i % 16 == 15 ? 1ms : 50ms, 1ms);
  }
  EXPECT_FALSE(pace.OnProbation(kStart));
}

TEST(SourcePace, NobodyIsSlowWhereNobodyIsKnownToBeFast) {
  SourcePace pace;
  for (int i = 0; i < 100; ++i) {
    Read(&pace, kStart, 50ms, 0ms);
  }
  EXPECT_FALSE(pace.OnProbation(kStart));
}

TEST(SourcePace, AProbationIsForgottenWhenNobodyReadsThere) {
  SourcePace pace;
  for (uint32_t i = 0; i < kProbationSlices; ++i) {
    Read(&pace, kStart, 50ms, 1ms);
  }
  EXPECT_TRUE(pace.OnProbation(kStart + kProbationMemory));
  EXPECT_FALSE(pace.OnProbation(kStart + 50ms + kProbationMemory));
  EXPECT_TRUE(pace.IsIdleSince(kStart + 50ms + kProbationMemory));
  Read(&pace, kStart + 2 * kProbationMemory, 50ms, 1ms);
  EXPECT_FALSE(pace.OnProbation(kStart + 2 * kProbationMemory)) << "it is one slow slice";
}

TEST(SourcePace, WhatWasStoppedCountsAsSlowButNeverAsFast) {
  SourcePace pace;
  for (uint32_t i = 0; i < kProbationSlices; ++i) {
    const SourcePace::Ticket ticket = pace.Begin(kStart);
    pace.Stopped(ticket, kStart + 50ms, 1ms);
  }
  EXPECT_TRUE(pace.OnProbation(kStart));
  for (uint32_t i = 0; i < 2 * kProbationEnds; ++i) {
    const SourcePace::Ticket ticket = pace.Begin(kStart);
    pace.Stopped(ticket, kStart + 1us, 1ms);
  }
  EXPECT_TRUE(pace.OnProbation(kStart));
}

TEST(SourcePace, ASliceCountsWithoutThoseBeforeIt) {
  SourcePace pace;
  for (int round = 0; round < 20; ++round) {
    std::vector<SourcePace::Ticket> tickets;
    for (int i = 0; i < 8; ++i) {
      tickets.push_back(pace.Begin(kStart));
    }
    for (size_t i = 0; i < tickets.size(); ++i) {
      pace.Arrived(tickets[i], kStart + 2ms * static_cast<int64_t>(i + 1), 1ms);
    }
  }
  EXPECT_FALSE(pace.OnProbation(kStart)) << "16 ms are eight slices";
  EXPECT_EQ(pace.slice_time(), 2ms);
}

}  // namespace
}  // namespace gemel

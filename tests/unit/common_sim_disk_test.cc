// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "common/sim_disk.h"
#include "tests/unit/common_runner.h"

namespace gemel {
namespace {

using ::testing::ElementsAre;

class SimDiskTest : public ::testing::Test {
 protected:
  SimDiskTest() { Restart(1); }

  // Kills the process and starts another on the same medium.
  void Restart(uint64_t seed) {
    loop_ = std::make_unique<SimLoop>(&scheduler_);
    disk_.reset();
    disk_ = std::make_unique<SimDisk>(loop_.get(), &state_, Random(seed));
  }

  absl::Status Write(std::string name, std::string content) {
    auto write = disk_->WriteAtomically(std::move(name), std::move(content));
    return RunTask(&scheduler_, loop_.get(), std::move(write));
  }

  absl::StatusOr<std::string> Read(std::string name) {
    auto read = disk_->Read(std::move(name));
    return RunTask(&scheduler_, loop_.get(), std::move(read));
  }

  void Begin(std::string name, std::string content) {
    Start(loop_.get(), disk_->WriteAtomically(std::move(name), std::move(content)));
    scheduler_.RunUntil([] { return false; }, scheduler_.now());
  }

  SimScheduler scheduler_;
  SimDiskState state_;
  std::unique_ptr<SimLoop> loop_;
  std::unique_ptr<SimDisk> disk_;
};

TEST_F(SimDiskTest, TakesFiftyToFiveHundredMicrosecondsAnOperation) {
  for (int i = 0; i < 50; ++i) {
    const TimePoint before = scheduler_.now();
    ASSERT_TRUE(Write("record", "1").ok());
    EXPECT_GE(scheduler_.now() - before, 50us);
    EXPECT_LE(scheduler_.now() - before, 500us);
  }
  state_.set_slowness(100);
  const TimePoint before = scheduler_.now();
  ASSERT_TRUE(Read("record").ok());
  EXPECT_GE(scheduler_.now() - before, 5ms);
}

TEST_F(SimDiskTest, ACrashLeavesAnUnfinishedWriteOldOrNewAndDoneOnesDone) {
  std::set<std::string> seen;
  for (uint64_t seed = 0; seed < 64; ++seed) {
    ASSERT_TRUE(Write("record", "old").ok());
    ASSERT_TRUE(Write("other", "kept").ok());
    Begin("record", "new");
    Restart(seed);
    auto read = Read("record");
    ASSERT_TRUE(read.ok()) << read.status();
    seen.insert(*read);
    EXPECT_EQ(*Read("other"), "kept");
  }
  EXPECT_THAT(seen, ElementsAre("new", "old"));
}

TEST_F(SimDiskTest, ACrashTakesAPrefixOfUnfinishedOperations) {
  std::set<std::string> seen;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    state_.Wipe();
    Begin("a", "1");
    Begin("b", "1");
    Begin("c", "1");
    Restart(seed);
    std::string present;
    for (const auto& [name, content] : state_.contents()) {
      present += name;
    }
    seen.insert(present);
  }
  EXPECT_THAT(seen, ElementsAre("", "a", "ab", "abc"));
}

TEST_F(SimDiskTest, AFullDiskTakesNoWriteButRemovals) {
  ASSERT_TRUE(Write("record", "old").ok());
  state_.set_full(true);
  EXPECT_TRUE(absl::IsResourceExhausted(Write("record", "new")));
  EXPECT_EQ(*Read("record"), "old");
  EXPECT_TRUE(RunTask(&scheduler_, loop_.get(), disk_->Remove("record")).ok());
  state_.set_full(false);
  EXPECT_TRUE(Write("record", "new").ok());
}

TEST_F(SimDiskTest, AFileWrittenInPlaceIsWrittenOnAFullDiskIsNeverTornAndOutlivesALostWrite) {
  const auto write = [this](std::string content) {
    return RunTask(&scheduler_, loop_.get(), disk_->WriteInPlace("identity", std::move(content)));
  };
  ASSERT_TRUE(write("old").ok());
  state_.set_full(true);
  EXPECT_TRUE(write(std::string(RoomFor(3), 'x')).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(write(std::string(RoomFor(3) + 8192, 'x'))));
  EXPECT_EQ(*Read("identity"), std::string(RoomFor(3), 'x'));
  state_.set_full(false);
  state_.MisdirectNextWrite();
  EXPECT_TRUE(write("new").ok());
  EXPECT_EQ(*Read("identity"), "new");
  std::set<std::string> seen;
  for (uint64_t seed = 1; seed < 30; ++seed) {
    ASSERT_TRUE(write("old").ok());
    state_.TearAtCrash();
    Start(loop_.get(), disk_->WriteInPlace("identity", "new"));
    scheduler_.RunUntil([] { return false; }, scheduler_.now());
    Restart(seed);
    seen.insert(*Read("identity"));
  }
  EXPECT_THAT(seen, ElementsAre("new", "old"));
  EXPECT_EQ(state_.stats().torn, 0U);
}

TEST_F(SimDiskTest, AFailedSyncLeavesOldOrNewAndFailsOnce) {
  std::set<std::string> seen;
  for (int i = 0; i < 64; ++i) {
    ASSERT_TRUE(Write("record", "old").ok());
    state_.FailNextSync();
    EXPECT_TRUE(absl::IsUnavailable(Write("record", "new")));
    seen.insert(*Read("record"));
  }
  EXPECT_THAT(seen, ElementsAre("new", "old"));
}

TEST_F(SimDiskTest, AFailedSyncFailsAlsoAWriteInPlaceAndNoLaterOne) {
  const auto write = [this](std::string content) {
    return RunTask(&scheduler_, loop_.get(), disk_->WriteInPlace("identity", std::move(content)));
  };
  std::string acknowledged = "old";
  ASSERT_TRUE(write(acknowledged).ok());
  for (uint64_t seed = 0; seed < 64; ++seed) {
    const std::string next = std::to_string(seed);
    state_.FailNextSync();
    EXPECT_TRUE(absl::IsUnavailable(write(next)));
    if (seed % 2 == 0) {
      EXPECT_TRUE(write(next).ok());
      acknowledged = next;
    }
    Restart(seed);
    const absl::StatusOr<std::string> read = Read("identity");
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_TRUE(*read == acknowledged || *read == next) << *read << " " << acknowledged;
    acknowledged = *read;
  }
}

TEST_F(SimDiskTest, ARottenFileIsUnreadableWhateverBitFlips) {
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(Write("dir/record", std::to_string(i)).ok());
    auto in_place = disk_->WriteInPlace("identity", std::to_string(i));
    ASSERT_TRUE(RunTask(&scheduler_, loop_.get(), std::move(in_place)).ok());
    for (const char* name : {"dir/record", "identity"}) {
      EXPECT_TRUE(state_.Rot(name));
      EXPECT_TRUE(state_.Rot(name));
      EXPECT_TRUE(absl::IsDataLoss(Read(name).status())) << name << " " << i;
      EXPECT_FALSE(state_.Has(name));
      EXPECT_TRUE(state_.contents().contains(name));
      EXPECT_TRUE(state_.believed().empty());
    }
  }
}

TEST_F(SimDiskTest, RemovalsThatAreDoneOutliveCrashes) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    ASSERT_TRUE(Write("dir/record", "1").ok());
    Restart(2 * seed);
    EXPECT_TRUE(state_.Has("dir/record"));
    ASSERT_TRUE(RunTask(&scheduler_, loop_.get(), disk_->Remove("dir/record")).ok());
    EXPECT_FALSE(state_.Has("dir/record"));
    Restart(2 * seed + 1);
    EXPECT_TRUE(absl::IsNotFound(Read("dir/record").status()));
  }
}

TEST_F(SimDiskTest, RollsBackToAnEarlierPicture) {
  ASSERT_TRUE(Write("record", "old").ok());
  const SimDiskState::Contents picture = state_.contents();
  ASSERT_TRUE(Write("record", "new").ok());
  ASSERT_TRUE(Write("later", "1").ok());
  EXPECT_TRUE(state_.Rot("later"));
  EXPECT_FALSE(state_.Rot("none"));
  state_.RollBackTo(picture);
  EXPECT_EQ(*Read("record"), "old");
  EXPECT_TRUE(absl::IsNotFound(Read("later").status()));
}

TEST_F(SimDiskTest, AMisdirectedWriteIsToldDoneAndSpoilsAnotherFile) {
  ASSERT_TRUE(Write("record", "old").ok());
  ASSERT_TRUE(Write("other", "1").ok());
  bool spoiled = false;
  for (int i = 0; i < 30 && !spoiled; ++i) {
    state_.MisdirectNextWrite();
    EXPECT_TRUE(Write("record", "new").ok());
    EXPECT_EQ(*Read("record"), "old");
    spoiled = absl::IsDataLoss(Read("other").status());
  }
  EXPECT_TRUE(spoiled);
  EXPECT_GT(state_.stats().misdirected, 0U);
  EXPECT_TRUE(Write("record", "new").ok());
  EXPECT_EQ(*Read("record"), "new");
}

TEST_F(SimDiskTest, ATornWriteFailsItsChecksumAfterTheCrash) {
  bool torn = false;
  for (uint64_t seed = 1; seed < 30 && !torn; ++seed) {
    ASSERT_TRUE(Write("record", "old").ok());
    state_.TearAtCrash();
    Begin("record", "new");
    Restart(seed);
    const absl::StatusOr<std::string> read = Read("record");
    torn = absl::IsDataLoss(read.status());
    EXPECT_TRUE(torn || *read == "new") << read.status();
    EXPECT_EQ(state_.Has("record"), !torn);
  }
  EXPECT_TRUE(torn);
  EXPECT_EQ(state_.stats().torn, 1U);
}

TEST_F(SimDiskTest, EqualDisksHaveEqualDigestsAndOthersDiffer) {
  SimDiskState same;
  ASSERT_TRUE(Write("record", "1").ok());
  same.RollBackTo(state_.contents());
  EXPECT_EQ(same.Digest(), state_.Digest());
  EXPECT_TRUE(state_.Rot("record"));
  EXPECT_NE(same.Digest(), state_.Digest());
}

TEST_F(SimDiskTest, APausedProcessFinishesAfterItsResume) {
  auto write = Start(loop_.get(), disk_->WriteAtomically("record", "1"));
  loop_->Pause();
  scheduler_.RunUntil([] { return false; }, Add(scheduler_.now(), 1s));
  EXPECT_FALSE(write->has_value());
  loop_->Resume();
  scheduler_.RunUntil([] { return false; }, Add(scheduler_.now(), 1s));
  EXPECT_TRUE(write->value().ok());
}

TEST(SimDiskDeathTest, TwoProcessesNeverShareAState) {
  EXPECT_DEATH(
      {
        SimScheduler scheduler;
        SimLoop loop(&scheduler);
        SimDiskState state;
        SimDisk first(&loop, &state, Random(1));
        SimDisk second(&loop, &state, Random(2));
      },
      "another SimDisk");
}

}  // namespace
}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// Admission: how many slices may be under way to a server, and whose they are.
#include <gtest/gtest.h>

#include <deque>

#include "common/random.h"
#include "transport/admission.h"

namespace gemel {
namespace {

constexpr TimePoint kStart = TimePoint() + 1s;
constexpr size_t kMax = 8;

class AdmissionTest : public ::testing::Test {
 protected:
  uint64_t Begin(uint32_t slices, TransferClass of = TransferClass::kCheckpoint) {
    return admission_.Begin(of, slices, [this](uint32_t) { told_ += 1; });
  }

  uint64_t BeginWanting(uint32_t slices, TransferClass of = TransferClass::kCheckpoint) {
    const uint64_t id = Begin(slices, of);
    admission_.Want(id, slices, now_);
    return id;
  }

  uint32_t UnderWay(uint64_t id) { return admission_.credit(id) - arrived_[id]; }

  void Arrive(uint64_t id) {
    now_ += 1ms;
    arrived_[id] += 1;
    admission_.Arrived(id, now_);
  }

  // Lets one slice of what is under way arrive, transfers in turn; false when nothing is.
  bool ArriveNext(const std::vector<uint64_t>& ids) {
    for (size_t i = 0; i < ids.size(); ++i) {
      const uint64_t id = ids[turn_++ % ids.size()];
      if (UnderWay(id) > 0) {
        Arrive(id);
        return true;
      }
    }
    return false;
  }

  Admission admission_{kMax};
  TimePoint now_ = kStart;
  std::map<uint64_t, uint32_t> arrived_;
  size_t turn_ = 0;
  int told_ = 0;
};

TEST_F(AdmissionTest, OneTransferGetsAllThatMayComeAndNoMore) {
  const uint64_t id = BeginWanting(20);
  EXPECT_EQ(admission_.credit(id), kMax);
  EXPECT_GT(told_, 0);
  for (uint32_t arrived = 1; arrived <= 20; ++arrived) {
    Arrive(id);
    EXPECT_EQ(admission_.credit(id), std::min<uint32_t>(20, arrived + kMax));
  }
  EXPECT_EQ(admission_.expected(now_), 0U);
}

TEST_F(AdmissionTest, NothingIsGivenThatIsNotWanted) {
  const uint64_t id = Begin(20);
  EXPECT_EQ(admission_.credit(id), 0U);
  admission_.Want(id, 3, now_);
  EXPECT_EQ(admission_.credit(id), 3U);
  admission_.Want(id, 1, now_);  // stale
  EXPECT_EQ(admission_.credit(id), 3U);
  admission_.Want(id, 1000, now_);  // more than there are
  while (ArriveNext({id})) {
  }
  EXPECT_EQ(admission_.credit(id), 20U);
}

TEST_F(AdmissionTest, ManySendersTogetherNeverHaveMoreUnderWay) {
  std::vector<uint64_t> ids;
  for (int i = 0; i < 64; ++i) {
    ids.push_back(BeginWanting(10));
    EXPECT_LE(admission_.expected(now_), kMax);
  }
  int slices = 0;
  for (; ArriveNext(ids); ++slices) {
    ASSERT_LE(admission_.expected(now_), kMax);
  }
  EXPECT_EQ(slices, 640) << "a transfer was forgotten";
}

TEST_F(AdmissionTest, TheOneWithLeastToComeGoesFirstAndNobodyGetsMoreThanHalf) {
  const uint64_t full = BeginWanting(kMax);  // takes all there is
  const uint64_t longer = BeginWanting(100);
  const uint64_t shorter = BeginWanting(50);
  for (size_t i = 0; i < kMax; ++i) {
    Arrive(full);
  }
  admission_.End(full, now_);
  EXPECT_EQ(UnderWay(shorter), kMax / 2);
  EXPECT_EQ(UnderWay(longer), kMax / 2);
  const uint64_t shortest = BeginWanting(2);
  Arrive(longer);
  EXPECT_EQ(UnderWay(shortest), 1U);
  Arrive(shorter);
  EXPECT_EQ(UnderWay(shortest), 2U);
}

// All short ones, for ever: the long one gets its twentieth.
TEST_F(AdmissionTest, TheOldestIsNotStarvedByShortOnes) {
  const uint64_t oldest = BeginWanting(1000);
  while (UnderWay(oldest) > 0 && admission_.transfers() < 16) {
    BeginWanting(4);
  }
  std::vector<uint64_t> ids;
  for (uint64_t id = 1; id <= 16; ++id) {
    ids.push_back(id);
  }
  for (uint32_t i = 0; i < kMax; ++i) {
    Arrive(oldest);
  }
  const uint32_t before = admission_.credit(oldest);
  for (int slices = 0; slices < 400; ++slices) {
    ASSERT_TRUE(ArriveNext(ids));
    for (uint64_t& id : ids) {
      if (id != oldest && arrived_[id] == 4) {
        admission_.End(id, now_);
        id = BeginWanting(4);
      }
    }
  }
  const uint32_t given = admission_.credit(oldest) - before;
  EXPECT_GE(given, 15U);
  EXPECT_LE(given, 30U) << "short ones go first";
}

// Four of each class, which always want more; what is under way arrives in the order it was let.
TEST_F(AdmissionTest, ClassesShareByWeight) {
  std::deque<uint64_t> on_its_way;
  std::map<uint64_t, TransferClass> of;
  std::map<uint64_t, uint32_t> known;  // credit
  for (int i = 0; i < 12; ++i) {
    const auto which = static_cast<TransferClass>(i % kTransferClasses);
    const uint64_t next = admission_.transfers() + 1;
    const uint64_t id = admission_.Begin(which, 1000, [&, next](uint32_t credit) {
      for (; known[next] < credit; ++known[next]) {
        on_its_way.push_back(next);
      }
    });
    ASSERT_EQ(id, next);
    of[id] = which;
  }
  for (const auto& [id, which] : of) {
    admission_.Want(id, 1000, now_);
  }
  std::map<TransferClass, int> came;
  for (int slices = 0; slices < 1500; ++slices) {
    ASSERT_FALSE(on_its_way.empty());
    const uint64_t id = on_its_way.front();
    on_its_way.pop_front();
    came[of[id]] += 1;
    Arrive(id);
  }
  EXPECT_NEAR(came[TransferClass::kRestore], 800, 40);
  EXPECT_NEAR(came[TransferClass::kKvRead], 400, 40);
  EXPECT_NEAR(came[TransferClass::kCheckpoint], 200, 40);
  EXPECT_NEAR(came[TransferClass::kRepair], 100, 40);
}

TEST_F(AdmissionTest, WhoIsSilentDoesNotHoldTheOthersUp) {
  const uint64_t hangs = BeginWanting(100);
  EXPECT_EQ(UnderWay(hangs), kMax);
  const uint64_t waits = BeginWanting(100);
  EXPECT_EQ(admission_.credit(waits), 0U);
  admission_.Give(now_ + 50ms);
  EXPECT_EQ(admission_.credit(waits), 0U) << "too early";
  now_ += 10s;
  admission_.Give(now_);
  EXPECT_EQ(UnderWay(waits), kMax / 2);
  Arrive(hangs);  // it counts again, and what it has is still good
  EXPECT_EQ(admission_.expected(now_), kMax - 1 + kMax / 2);
  Arrive(waits);
  EXPECT_EQ(UnderWay(waits), kMax / 2 - 1) << "more than may be is under way";
}

TEST_F(AdmissionTest, WhatEndsGivesItsPlaceToTheOthers) {
  const uint64_t ends = BeginWanting(100);
  const uint64_t waits = BeginWanting(100);
  EXPECT_EQ(admission_.credit(waits), 0U);
  admission_.End(ends, now_);
  EXPECT_EQ(UnderWay(waits), kMax);
  EXPECT_EQ(admission_.transfers(), 1U);
}

// Any order of events: within the bound, and everything arrives in the end.
TEST(Admission, EveryTransferEndsWhateverTheOrder) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    Random random(seed);
    Admission admission(1 + random.Below(6));
    TimePoint now = kStart;
    std::map<uint64_t, uint32_t> left;
    std::map<uint64_t, uint32_t> arrived;
    uint32_t unbegun = 30;
    for (int event = 0; unbegun > 0 || !left.empty(); ++event) {
      ASSERT_LT(event, 100'000) << "seed " << seed << ": " << left.size() << " hang";
      now += std::chrono::milliseconds(random.Below(30));
      if (unbegun > 0 && random.Below(4) == 0) {
        const auto slices = static_cast<uint32_t>(1 + random.Below(9));
        const auto of = static_cast<TransferClass>(random.Below(kTransferClasses));
        left[admission.Begin(of, slices, [](uint32_t) {})] = slices;
        unbegun -= 1;
        continue;
      }
      if (left.empty()) {
        continue;
      }
      auto one = left.begin();
      std::advance(one, random.Below(left.size()));
      const auto [id, slices] = *one;
      admission.Want(id, static_cast<uint32_t>(1 + random.Below(slices)), now);
      if (random.Below(3) == 0) {
        admission.Want(id, slices, now);
      }
      if (arrived[id] < admission.credit(id)) {
        arrived[id] += 1;
        admission.Arrived(id, now);
      }
      if (arrived[id] == slices) {
        admission.End(id, now);
        left.erase(id);
      }
    }
    EXPECT_EQ(admission.transfers(), 0U);
  }
}

}  // namespace
}  // namespace gemel

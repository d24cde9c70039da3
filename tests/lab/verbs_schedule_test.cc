// SPDX-License-Identifier: Apache-2.0
//
// Many schedules of the fake: requests of one end in any order with doorbells, faults, broken
// connections and a device that dies, against a holder that binds and revokes. The invariants of
// transport/verbs/verbs_queue_pair.h hold in each, and who holds a revoked grant changes nothing.
#include <map>

#include "common/random.h"
#include "tests/lab/verbs_ends.h"

namespace gemel {
namespace {

constexpr uint64_t kSchedules =
    20'000;  // 10^6 of them: --gtest_repeat=50, each with seeds of its own
constexpr int kActions = 60;
constexpr size_t kSlotBytes = kEndBytes / kActions;

class Schedule {
 public:
  explicit Schedule(uint64_t seed) : ends_("fake", seed), random_(Random(seed).Split("schedule")) {
    const VerbsQueuePair::Options options = {
        .depth = static_cast<uint32_t>(1 + random_.Below(24)),
        .chain_max = static_cast<uint32_t>(1 + random_.Below(12)),
        .signal_every = static_cast<uint32_t>(1 + random_.Below(8)),
        .inline_bytes = static_cast<uint32_t>(random_.Below(2) * 256)};
    depth_ = options.depth;
    ends_.Make(&a_, options);
    ends_.Make(&b_, {});
    VerbsEnds::Connect(&a_, &b_);
    for (size_t i = 0; i < a_.memory.size(); ++i) {
      a_.memory[i] = static_cast<std::byte>(1 + i % 251);
    }
    EXPECT_TRUE(b_.pair->Bind(0, b_.window.get(), *b_.region, b_.First(kEndBytes), true).ok());
    EXPECT_EQ(b_.Next().status, IBV_WC_SUCCESS);
    place_ = b_.Place();
  }

  void Run() {
    for (int i = 0; i < kActions; ++i) {
      Act();
    }
    for (int i = 0; i < 4 * kActions && a_.pair->under_way() > 0; ++i) {
      PollRequester();
    }
    EXPECT_EQ(told_, taken_) << "requests that were never told";
    PollHolder();
    if (revoked_) {
      EXPECT_EQ(b_.memory, at_revocation_) << "a revoked grant was used";
    }
  }

 private:
  void Act() {
    const uint64_t action = random_.Below(40);
    if (action < 24) {
      Write();
    } else if (action < 27) {
      a_.pair->Ring();
    } else if (action < 33) {
      PollRequester();
    } else if (action < 35) {
      PollHolder();
    } else if (action == 35 && !asked_) {
      asked_ = b_.pair->Invalidate(1, *b_.window).ok();
    } else if (action == 36 && random_.Chance(1, 3)) {
      const auto status = static_cast<ibv_wc_status>(1 + random_.Below(IBV_WC_TM_RNDV_INCOMPLETE));
      ends_.fake()->FailNext(a_.pair->address().queue_pair, status, random_.Below(kSlotBytes));
    } else if (action == 37 && random_.Chance(1, 3)) {
      ends_.fake()->RefuseNext(a_.pair->address().queue_pair, random_.Below(8));
    } else if (action == 38 && random_.Chance(1, 6)) {
      a_.pair->Break();
    } else if (action == 39 && random_.Chance(1, 20)) {
      ends_.fake()->Die();
    }
  }

  // A slot of its own for every request.
  void Write() {
    const size_t offset = taken_ * kSlotBytes;
    const size_t bytes = 1 + random_.Below(kSlotBytes);
    const bool was_broken = a_.pair->broken();
    const bool was_full = a_.pair->under_way() == depth_;
    const absl::Status status =
        a_.pair->Write(taken_, ByteSpan(a_.memory).subspan(offset, bytes), *a_.region,
                       {.address = place_.address + offset, .key = place_.key});
    if (status.ok()) {
      EXPECT_FALSE(was_broken);
      bytes_[taken_++] = bytes;
    } else {
      EXPECT_TRUE(was_broken || was_full) << status;
    }
  }

  void PollRequester() {
    std::vector<WorkDone> done;
    a_.pair->Poll(&done);
    for (const WorkDone& each : done) {
      EXPECT_EQ(each.id, told_++);  // once, in order
      EXPECT_TRUE(!failed_ || each.status == IBV_WC_WR_FLUSH_ERR) << "a second error of its own";
      failed_ = failed_ || each.status != IBV_WC_SUCCESS;
      if (each.status == IBV_WC_SUCCESS) {
        const auto from = static_cast<ptrdiff_t>(each.id * kSlotBytes);
        EXPECT_TRUE(std::equal(a_.memory.begin() + from,
                               a_.memory.begin() + from + static_cast<ptrdiff_t>(bytes_[each.id]),
                               b_.memory.begin() + from))
            << "told, and not placed";
      }
    }
    constexpr size_t kDrain = 1;
    EXPECT_LE(ends_.fake()->Held(a_.pair->address().queue_pair), a_.pair->under_way() + kDrain)
        << "told, and not ended";
  }

  void PollHolder() {
    std::vector<WorkDone> done;
    b_.pair->Poll(&done);
    for (const WorkDone& each : done) {
      if (each.kind == WorkKind::kInvalidate && each.status == IBV_WC_SUCCESS) {
        revoked_ = true;
        at_revocation_ = b_.memory;
      }
    }
  }

  VerbsEnds ends_;
  VerbsEnd a_;
  VerbsEnd b_;
  Random random_;
  VerbsPlace place_;
  uint64_t depth_ = 0;
  uint64_t taken_ = 0;
  uint64_t told_ = 0;
  std::map<uint64_t, size_t> bytes_;  // by request
  bool failed_ = false;
  bool asked_ = false;
  bool revoked_ = false;
  std::vector<std::byte> at_revocation_;
};

TEST(VerbsSchedule, EveryRequestIsToldOnceInOrderAndARevokedGrantChangesNothing) {
  static uint64_t repeated = 0;  // by --gtest_repeat
  const uint64_t first = kSchedules * repeated++;
  for (uint64_t seed = first; seed < first + kSchedules && !HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    Schedule(seed).Run();
  }
}

}  // namespace
}  // namespace gemel

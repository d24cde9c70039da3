// SPDX-License-Identifier: Apache-2.0
//
// Receives that the streams of a device share (transport/verbs/verbs_receives.h): what a shared
// receive queue does, on the fake and on a device; slow, ended, broken and lying streams, on the
// fake, with so few slots that they run out.
#include "transport/verbs/verbs_receives.h"

#include <gmock/gmock.h>
#include <sys/epoll.h>

#include <array>
#include <cerrno>

#include "common/copies.h"
#include "common/random.h"
#include "tests/lab/verbs_ends.h"
#include "tests/unit/transport_sockets.h"
#include "transport/verbs/verbs_stream.h"

namespace gemel {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ValuesIn;

// Two senders; the queue pairs of both receivers take from one queue.
class VerbsSharedQueue : public ::testing::TestWithParam<std::string> {
 public:
  ~VerbsSharedQueue() override {
    for (VerbsEnd& end : to_) {
      end.window.reset();
      end.pair.reset();
    }
    EXPECT_EQ(ends_.device()->calls().destroy_srq(queue_), 0);
  }

 protected:
  VerbsSharedQueue() {
    VerbsQueuePair::Options sends = VerbsEnds::Impatient();
    sends.receiver_retries = kVerbsRetryForEver;
    VerbsQueuePair::Options takes = VerbsEnds::Impatient();
    takes.receives = queue_ = MakeQueue();
    for (size_t i = 0; i < 2; ++i) {
      ends_.Make(&from_.at(i), sends);
      ends_.Make(&to_.at(i), takes);
      VerbsEnds::Connect(&from_.at(i), &to_.at(i));
    }
  }

  ibv_srq* MakeQueue() {
    ibv_srq_init_attr wanted{};
    wanted.attr = {.max_wr = 16, .max_sge = 1, .srq_limit = 0};
    ibv_srq* made = ends_.device()->calls().create_srq(ends_.device()->domain(), &wanted);
    GEMEL_CHECK(made != nullptr) << errno;
    return made;
  }

  // Into the memory of the first receiver.
  void Post(uint64_t slot) {
    ibv_sge piece = {reinterpret_cast<uintptr_t>(to_[0].memory.data()) + slot * kSlot, kSlot,
                     to_[0].region->local_key()};
    ibv_recv_wr request{};
    request.wr_id = kVerbsReceive | slot;
    request.sg_list = &piece;
    request.num_sge = 1;
    ibv_recv_wr* refused = nullptr;
    ASSERT_EQ(ibv_post_srq_recv(queue_, &request, &refused), 0);
  }

  void Send(size_t i, size_t bytes) {
    VerbsEnd& from = from_.at(i);
    ASSERT_TRUE(from.pair->Send(1, from.First(bytes), *from.region).ok());
    from.pair->Ring();
  }

  static constexpr uint32_t kSlot = 1024;

  VerbsEnds ends_{GetParam()};
  ibv_srq* queue_ = nullptr;
  std::array<VerbsEnd, 2> from_;
  std::array<VerbsEnd, 2> to_;
};

TEST_P(VerbsSharedQueue, AReceiveIsTakenByWhoeversMessageComes) {
  Post(3);
  Post(5);
  for (size_t i = 0; i < 2; ++i) {
    from_.at(i).memory[0] = static_cast<std::byte>(7 + i);
    Send(i, 100 + i);
    EXPECT_EQ(from_.at(i).Next().status, IBV_WC_SUCCESS);
    const WorkDone done = to_.at(i).Next();
    EXPECT_EQ(done.id, 3 + 2 * i);
    EXPECT_EQ(done.kind, WorkKind::kReceived);
    EXPECT_EQ(done.status, IBV_WC_SUCCESS);
    EXPECT_EQ(done.bytes, 100 + i);
    EXPECT_EQ(to_[0].memory[done.id * kSlot], static_cast<std::byte>(7 + i));
  }
}

TEST_P(VerbsSharedQueue, AMessageWaitsForAReceive) {
  Send(1, 100);
  std::vector<WorkDone> done;
  for (int i = 0; i < 1000; ++i) {
    from_[1].pair->Poll(&done);
    to_[1].pair->Poll(&done);
  }
  EXPECT_TRUE(done.empty());
  Post(2);
  EXPECT_EQ(from_[1].Next().status, IBV_WC_SUCCESS);
  EXPECT_EQ(to_[1].Next().id, 2U);
}

TEST_P(VerbsSharedQueue, AQueuePairThatBreaksFlushesNoneAndTellsWhatItTook) {
  Post(1);
  Post(2);
  Send(0, 100);
  EXPECT_EQ(from_[0].Next().status, IBV_WC_SUCCESS);
  to_[0].window.reset();
  to_[0].pair->Fence();
  std::vector<WorkDone> done;
  to_[0].pair->Poll(&done);
  ASSERT_EQ(done.size(), 1U);
  EXPECT_EQ(done[0].id, 1U);
  EXPECT_EQ(done[0].bytes, 100U);
  Send(1, 100);
  EXPECT_EQ(to_[1].Next().id, 2U);
}

TEST_P(VerbsSharedQueue, AQueueThatIsUsedStays) {
  EXPECT_EQ(ends_.device()->calls().destroy_srq(queue_), EBUSY);
}

INSTANTIATE_TEST_SUITE_P(Fabrics, VerbsSharedQueue, ValuesIn(Fabrics()),
                         [](const auto& test) { return test.param; });

// Streams of one device of the fake, in pairs.
class VerbsLanes {
 protected:
  struct Lane {
    uint64_t number = 0;
    std::unique_ptr<VerbsStream> from;
    std::unique_ptr<VerbsStream> to;
    uint32_t sender = 0;  // its queue pair
    uint32_t receiver = 0;
    uint64_t sent = 0;
    uint64_t got = 0;
    int error = 0;  // the last one of Receive() that is no waiting
  };

  explicit VerbsLanes(uint64_t seed = 1) : fake_(seed) {}

  ~VerbsLanes() {
    lanes_.clear();
    loop_->Shutdown();
    device_.reset();
  }

  VerbsStream::Options Options() {
    return {.slots = kSlots,
            .slot_bytes = kSlotBytes,
            .shared_slots_max = slots_max_,
            .events = &events_};
  }

  std::unique_ptr<Lane> Open() {
    auto lane = std::make_unique<Lane>();
    lane->number = opened_++;
    lane->from = *VerbsStream::Make(loop_.get(), device_, Options());
    lane->to = *VerbsStream::Make(loop_.get(), device_, Options());
    lane->sender = lane->from->hello().address.queue_pair;
    lane->receiver = lane->to->hello().address.queue_pair;
    GEMEL_CHECK(lane->from->Connect(lane->to->hello()).ok());
    GEMEL_CHECK(lane->to->Connect(lane->from->hello()).ok());
    auto [one, other] = SocketPair();
    lane->from->Open(std::move(one));
    lane->to->Open(std::move(other));
    lane->from->Watch(0, [](uint32_t) {});
    lane->to->Watch(0, [](uint32_t) {});
    return lane;
  }

  Lane& Add() {
    lanes_.push_back(Open());
    return *lanes_.back();
  }

  static std::byte ByteOf(const Lane& lane, uint64_t i) {
    return static_cast<std::byte>(i * 31 + i / 251 + lane.number * 7);
  }

  // One message at most; false when there is no room.
  static bool Send(Lane* lane, size_t bytes) {
    std::vector<std::byte> some(bytes);
    for (size_t i = 0; i < bytes; ++i) {
      some[i] = ByteOf(*lane, lane->sent + i);
    }
    const std::array<ByteSpan, 1> pieces = {some};
    const IoResult sent = lane->from->Send(pieces, {});
    lane->sent += sent.bytes;
    return sent.bytes > 0;
  }

  // Of what came, at most so much.
  static void Receive(Lane* lane, size_t bytes_max = 4096) {
    std::vector<std::byte> into(bytes_max);
    const IoResult got = lane->to->Receive(into, nullptr);
    lane->error = got.error != 0 && !got.blocked() ? got.error : lane->error;
    for (size_t i = 0; i < got.bytes; ++i) {
      ASSERT_EQ(into[i], ByteOf(*lane, lane->got + i)) << lane->number << ": " << lane->got + i;
    }
    lane->got += got.bytes;
  }

  // All that is ready or posted.
  void Turn() {
    bool turned = false;
    loop_->Post([&turned] { turned = true; });
    ASSERT_TRUE(RunLoop(loop_.get(), [&turned] { return turned; }));
  }

  void Turns(int count) {
    for (int i = 0; i < count; ++i) {
      Turn();
    }
  }

  // Until nothing goes on without a reader.
  void FillUp(Lane* lane, size_t bytes) {
    for (int i = 0; i < 50; ++i) {
      Send(lane, bytes);
      Turn();
    }
  }

  void ReadAll(Lane* lane) {
    for (int i = 0; lane->got < lane->sent && i < 2000; ++i) {
      Receive(lane);
      Turn();
    }
    EXPECT_EQ(lane->got, lane->sent) << lane->number;
  }

  // A long talk over a lane that is read at once.
  void ExpectFlows(Lane* lane, int messages = 100) {
    for (int sent = 0, i = 0; sent < messages && i < 100 * messages; ++i) {
      sent += Send(lane, 100) ? 1 : 0;
      Turn();
      Receive(lane);
    }
    ReadAll(lane);
    EXPECT_GE(lane->got, 100U * static_cast<uint64_t>(messages));
  }

  static constexpr uint32_t kSlots = 8;
  static constexpr uint32_t kSlotBytes = 512;

  uint32_t slots_max_ = 4096;
  FakeVerbs fake_;
  RecordedEvents events_;
  std::unique_ptr<EpollLoop> loop_ = *EpollLoop::Create();
  std::shared_ptr<VerbsDevice> device_ = *VerbsDevice::Open(&fake_.calls(), "");
  std::vector<std::unique_ptr<Lane>> lanes_;
  uint64_t opened_ = 0;
};

class VerbsReceiving : public VerbsLanes, public ::testing::Test {};

TEST_F(VerbsReceiving, BelowTheBoundThereIsOneForEveryMessageThatMayCome) {
  for (size_t lanes = 1; lanes <= 30; ++lanes) {
    Add();
    EXPECT_GE(fake_.shared_receives(), 2 * lanes * kSlots);
    EXPECT_LT(fake_.shared_receives(), 2 * lanes * kSlots + VerbsReceives::kBlockSlots);
  }
}

TEST_F(VerbsReceiving, BeyondTheBoundIdleStreamsPinNoMore) {
  slots_max_ = 64;
  const size_t before = fake_.pinned_bytes();
  Add();
  const size_t first = fake_.pinned_bytes() - before;
  while (lanes_.size() < 16) {
    Add();
  }
  EXPECT_EQ(fake_.shared_receives(), slots_max_);
  const size_t streams = 2 * lanes_.size();
  const size_t to_send = (first - size_t{slots_max_} * kSlotBytes) / 2;
  EXPECT_EQ(fake_.pinned_bytes() - before, streams * to_send + size_t{slots_max_} * kSlotBytes);
  for (const auto& lane : lanes_) {
    ExpectFlows(lane.get(), 10);
  }
}

TEST_F(VerbsReceiving, AMessageThatFindsNoReceiveArrivesLater) {
  slots_max_ = 8;
  Lane& one = Add();
  Lane& other = Add();
  for (Lane* lane : {&one, &other}) {
    while (Send(lane, 100)) {
    }
  }
  while (fake_.Step()) {
  }
  EXPECT_EQ(fake_.shared_receives(), 0U);
  EXPECT_GT(fake_.Held(one.sender) + fake_.Held(other.sender), 0U) << "none had to wait";
  Turns(50);
  ReadAll(&one);
  ReadAll(&other);
  ExpectFlows(&one);
  ExpectFlows(&other);
  EXPECT_THAT(events_.names, ElementsAre());
}

// Together their peers may send more than there is.
TEST_F(VerbsReceiving, SlowStreamsKeepNothingFromAnotherOne) {
  slots_max_ = 16;
  std::array<Lane*, 3> slow = {&Add(), &Add(), &Add()};
  Lane& quick = Add();
  const uint64_t before = CopiedBytes();
  for (Lane* lane : slow) {
    FillUp(lane, 100);
  }
  EXPECT_GE(fake_.shared_receives(), slots_max_ - slots_max_ / 4);
  EXPECT_GT(CopiedBytes() - before, 0U);
  ExpectFlows(&quick, 1000);
  for (Lane* lane : slow) {
    EXPECT_GE(lane->sent, 100 * (kSlots - 2)) << "all that its peer may send";
    ReadAll(lane);
  }
}

TEST_F(VerbsReceiving, WhatIsReadInTimeIsNotCopiedTwice) {
  Lane& lane = Add();
  for (int i = 0; i < 100; ++i) {
    const uint64_t before = CopiedBytes();
    ASSERT_TRUE(Send(&lane, 300));
    Turns(5);
    Receive(&lane);
    EXPECT_EQ(CopiedBytes() - before, 600U);
  }
}

TEST_F(VerbsReceiving, AStreamThatEndsGivesItsSlotsBack) {
  Add();
  Lane& ended = Add();
  const size_t all = fake_.shared_receives();
  FillUp(&ended, 100);
  EXPECT_LT(fake_.shared_receives(), all);
  ended.to.reset();
  EXPECT_EQ(fake_.shared_receives(), all);
}

TEST_F(VerbsReceiving, WhatArrivedAndWasNotPolledGoesBackToo) {
  Add();
  Lane& ended = Add();
  const size_t all = fake_.shared_receives();
  while (Send(&ended, 100)) {
  }
  while (fake_.Step()) {
  }
  EXPECT_LT(fake_.shared_receives(), all);
  ended.to.reset();
  EXPECT_EQ(fake_.shared_receives(), all);
}

TEST_F(VerbsReceiving, TheyGoWithTheLastStream) {
  const size_t before = fake_.pinned_bytes();
  Add();
  Add();
  EXPECT_GT(fake_.pinned_bytes(), before);
  lanes_.clear();
  Turns(5);
  EXPECT_EQ(fake_.pinned_bytes(), before);
  Add();
  ExpectFlows(lanes_.front().get());
}

// A queue pair that ends within a message may lose the receive that this had taken.
TEST_F(VerbsReceiving, WhatEndedStreamsLoseIsMadeUpFor) {
  slots_max_ = 512;
  Lane& lasting = Add();
  const size_t first = fake_.shared_receives();
  size_t most = 0;
  for (int i = 0; i < 400; ++i) {
    const auto broken = Open();
    fake_.FailNext(broken->sender, IBV_WC_RETRY_EXC_ERR, 50);
    Send(broken.get(), 100);
    Turns(2);
    most = std::max(most, fake_.shared_receives());
  }
  EXPECT_GT(fake_.lost_receives(), 2 * first);
  EXPECT_GT(most, first);
  EXPECT_LE(most, 3 * first) << "those that lost too many go with their streams";
  ExpectFlows(&lasting);
}

TEST_F(VerbsReceiving, StreamsBeyondHalfTheSlotsGetOthers) {
  slots_max_ = 16;
  for (size_t lanes = 1; lanes <= 8; ++lanes) {
    Add();
  }
  EXPECT_EQ(fake_.shared_receives(), 2 * slots_max_);
  for (const auto& lane : lanes_) {
    ExpectFlows(lane.get(), 10);
  }
}

TEST_F(VerbsReceiving, ASlotThatTheDeviceRefusesBreaksOneStreamAndIsPostedLater) {
  Lane& lane = Add();
  Lane& other = Add();
  const size_t all = fake_.shared_receives();
  fake_.RefuseSharedReceiveAfter(0);
  ASSERT_TRUE(Send(&lane, 100));
  Turns(10);
  Receive(&lane);
  Receive(&lane);
  EXPECT_EQ(lane.got, 100U) << "what arrived comes before the error";
  EXPECT_EQ(lane.error, ECONNRESET);
  EXPECT_EQ(fake_.shared_receives(), all - 1);
  ASSERT_TRUE(Send(&other, 100));
  Turns(10);
  Receive(&other);
  EXPECT_EQ(fake_.shared_receives(), all);
  EXPECT_EQ(other.error, 0);
}

TEST_F(VerbsReceiving, SlotsThatCannotBePinnedAreAStreamThatIsNotMade) {
  Add();
  fake_.PinNoMore();
  const auto refused = VerbsStream::Make(loop_.get(), device_, Options());
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  ExpectFlows(lanes_.front().get());
}

TEST_F(VerbsReceiving, WithoutSharedQueuesEachStreamHasItsOwnAndOneSaysSo) {
  device_.reset();
  fake_.LimitSharedQueues(0, 0);
  device_ = *VerbsDevice::Open(&fake_.calls(), "");
  for (int i = 0; i < 3; ++i) {
    ExpectFlows(&Add());
  }
  EXPECT_EQ(fake_.shared_receives(), 0U);
  ASSERT_THAT(events_.names, ElementsAre("verbs_own_receives"));
  EXPECT_THAT(events_.texts[0], HasSubstr("fake0 has no shared receive queues"));
  EXPECT_THAT(events_.texts[0], HasSubstr("pins 4096 bytes"));
}

TEST_F(VerbsReceiving, AQueueThatIsNotMadeIsDoneWithout) {
  Add();
  fake_.LimitSharedQueues(1, 1 << 15);
  slots_max_ = 16;
  lanes_.clear();  // which the device has forgotten
  Turns(5);
  fake_.LimitSharedQueues(0, 1 << 15);
  ExpectFlows(&Add());
  ExpectFlows(&Add());
  EXPECT_THAT(events_.names, testing::Contains("verbs_own_receives").Times(1));
  EXPECT_THAT(events_.texts, testing::Contains(HasSubstr("a shared receive queue of fake0")));
}

// Lanes that send, read, stop, break and end as a seed says, over very few slots.
class VerbsSharing final : public VerbsLanes {
 public:
  explicit VerbsSharing(uint64_t seed) : VerbsLanes(seed), random_(Random(seed).Split("sharing")) {
    slots_max_ = uint32_t{16} << random_.Below(3);
    for (uint64_t i = 0; i < kLanes; ++i) {
      Add();
      slow_.push_back(random_.Chance(1, 2));
      broken_.push_back(false);
    }
  }

  void Run() {
    for (int i = 0; i < 250 && !testing::Test::HasFailure(); ++i) {
      Act(random_.Below(kLanes));
    }
    // Who reads gets all, whatever the slow ones leave.
    for (const bool slow : {false, true}) {
      for (size_t i = 0; i < kLanes; ++i) {
        if (!broken_[i] && slow_[i] == slow) {
          ReadAll(lanes_[i].get());
        }
      }
    }
  }

 private:
  void Act(size_t i) {
    Lane* lane = lanes_[i].get();
    const uint64_t action = random_.Below(20);
    if (action < 9) {
      Send(lane, 1 + random_.Below(kSlotBytes));
    } else if (action < 13) {
      Turn();
    } else if (action < 18) {
      slow_[i] ? Turn() : Receive(lane, 1 + random_.Below(1000));
    } else if (action == 18 && random_.Chance(1, 4)) {
      fake_.FailNext(lane->sender, IBV_WC_RETRY_EXC_ERR, random_.Below(kSlotBytes));
      broken_[i] = true;
    } else if (action == 19 && random_.Chance(1, 8)) {
      lanes_[i] = Open();
      broken_[i] = false;
    }
  }

  static constexpr size_t kLanes = 6;

  Random random_;
  std::vector<bool> slow_;
  std::vector<bool> broken_;
};

TEST(VerbsShared, WhoReadsGetsAllInAnySchedule) {
  constexpr uint64_t kSchedules = 300;
  static uint64_t repeated = 0;  // by --gtest_repeat
  const uint64_t first = kSchedules * repeated++;
  for (uint64_t seed = first; seed < first + kSchedules && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    VerbsSharing run(seed);
    run.Run();
  }
}

}  // namespace
}  // namespace gemel

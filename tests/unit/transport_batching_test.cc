// SPDX-License-Identifier: Apache-2.0
//
// StreamConnection over a scripted stream: which frames leave with one write and arrive with one
// reception, and which bytes are not copied.
#include <gmock/gmock.h>
#include <sys/epoll.h>

#include <algorithm>

#include "tests/unit/transport_sockets.h"

namespace gemel {
namespace {

using ::testing::ElementsAre;

// Takes `room` bytes; gives `arrived`.
struct Script {
  struct Write {
    std::string bytes;
    std::vector<const std::byte*> pieces;  // not empty ones: where they lie
    size_t handles = 0;
  };

  std::vector<Write> writes;
  size_t room = SIZE_MAX;
  int error = 0;
  std::string arrived;
  std::vector<MutableByteSpan> targets;  // of receptions that gave something
  size_t held = 0;                       // of what was written
  bool lands = false;                    // what is long comes by itself, and has not
  int stopped = 0;                       // landings
  uint32_t watched = 0;
  ByteStream::ReadyCallback ready;

  std::string written() const {
    std::string all;
    for (const Write& write : writes) {
      all += write.bytes;
    }
    return all;
  }
};

class ScriptedStream final : public ByteStream {
 public:
  explicit ScriptedStream(Script* script) : script_(script) {}

  IoResult Receive(MutableByteSpan into, Handles* /*handles*/) override {
    if (script_->arrived.empty()) {
      return {.error = EAGAIN, .lands = script_->lands && into.size() > kReadAheadBytes};
    }
    const size_t some = std::min(into.size(), script_->arrived.size());
    std::memcpy(into.data(), script_->arrived.data(), some);
    script_->arrived.erase(0, some);
    script_->targets.push_back(into);
    return {.bytes = some};
  }

  IoResult Send(std::span<const ByteSpan> pieces, const Handles& handles) override {
    if (script_->error != 0 || script_->room == 0) {
      return {.error = script_->error != 0 ? script_->error : EAGAIN};
    }
    Script::Write write{.handles = handles.size()};
    for (const ByteSpan& piece : pieces) {
      const size_t some = std::min(piece.size(), script_->room);
      if (some > 0) {
        write.pieces.push_back(piece.data());
        write.bytes += AsText(piece.first(some));
        script_->room -= some;
      }
    }
    script_->writes.push_back(write);
    return {.bytes = write.bytes.size()};
  }

  void StopLanding() override { script_->stopped += 1; }

  size_t Held() const override { return script_->held; }

  void Watch(uint32_t events, ReadyCallback ready) override {
    script_->watched = events;
    script_->ready = std::move(ready);
  }

 private:
  Script* const script_;
};

class BatchingTest : public SocketTest {
 protected:
  BatchingTest() { Make(StreamConnection::Carries::kBytes); }

  void Make(StreamConnection::Carries carries) {
    connection_ = std::make_unique<StreamConnection>(
        loop_.get(), std::make_unique<ScriptedStream>(&script_), "script", carries);
    connection_->Start(&recorder_);
  }

  static OutgoingFrame Small(uint64_t op) {
    return FrameWith(FrameType::kProbe, op, fmt::format("body {}", op));
  }

  static OutgoingFrame Large(uint64_t op, ByteSpan payload) {
    return FrameWith(FrameType::kWrite, op, "large", payload);
  }

  // True when the loop took it as copied.
  bool TrySend(const OutgoingFrame& frame) { return connection_->TrySend(frame); }

  auto StartSend(OutgoingFrame frame) {
    auto sent = gemel::Start(loop_.get(), connection_->Send(std::move(frame)));
    Settle();
    return sent;
  }

  void Writable(size_t room) {
    script_.room = room;
    const ByteStream::ReadyCallback ready = script_.ready;
    ready(EPOLLOUT);
  }

  // So many at the end are held from now on.
  void Hold(size_t bytes) {
    script_.held = bytes;
    const ByteStream::ReadyCallback ready = script_.ready;
    ready(0);
    Settle();
  }

  void Arrive(std::string bytes) {
    script_.arrived += bytes;
    const ByteStream::ReadyCallback ready = script_.ready;
    ready(EPOLLIN);
  }

  Script script_;
  Recorder recorder_;
  std::unique_ptr<StreamConnection> connection_;
  const std::vector<std::byte> payload_ = Pattern(kChunkBytes);
};

TEST_F(BatchingTest, SmallFramesOfOneTurnLeaveWithOneWriteAtItsEnd) {
  std::string expected;
  size_t writes_within = 0;
  loop_->Post([&] {
    for (uint64_t op = 0; op < 20; ++op) {
      EXPECT_TRUE(TrySend(Small(op)));
      expected += WireOf(Small(op));
    }
    writes_within = script_.writes.size();
  });
  Settle();
  EXPECT_EQ(writes_within, 0U);
  ASSERT_EQ(script_.writes.size(), 1U);
  EXPECT_EQ(script_.writes[0].bytes, expected);
}

TEST_F(BatchingTest, ASmallFrameLeavesInTheTurnThatSentIt) {
  size_t writes_in_next = 0;
  loop_->Post([&] {
    EXPECT_TRUE(TrySend(Small(1)));
    loop_->Post([&] { writes_in_next = script_.writes.size(); });
  });
  Settle();
  EXPECT_EQ(writes_in_next, 1U);
}

TEST_F(BatchingTest, ALargeFrameTakesTheCopiedOnesAlongAndLeavesFromWhereItLies) {
  ASSERT_TRUE(TrySend(Small(1)));
  auto sent = StartSend(Large(2, payload_));
  ASSERT_EQ(script_.writes.size(), 1U);
  EXPECT_EQ(script_.writes[0].bytes, WireOf(Small(1)) + WireOf(Large(2, payload_)));
  EXPECT_EQ(script_.writes[0].pieces.back(), payload_.data());
  EXPECT_TRUE(sent->has_value() && (*sent)->ok());
}

TEST_F(BatchingTest, TakesAsCopiedOnlyWhatIsSmallWhileNothingWaits) {
  EXPECT_FALSE(TrySend(Large(1, ByteSpan(payload_).first(kSmallFrameBytes))));
  const size_t room = kSmallFrameBytes - kFrameHeaderBytes - std::string("large").size();
  EXPECT_TRUE(TrySend(Large(1, ByteSpan(payload_).first(room))));
  EXPECT_FALSE(TrySend(Large(1, ByteSpan(payload_).first(room + 1))));
  script_.room = kSmallFrameBytes + 10;  // into the middle of the next
  auto waiting = StartSend(Large(2, payload_));
  EXPECT_FALSE(TrySend(Small(3))) << "before a frame that waits";
  Writable(SIZE_MAX);
  EXPECT_TRUE(TrySend(Small(3)));
  Settle();
  EXPECT_TRUE(waiting->has_value() && (*waiting)->ok());
  EXPECT_EQ(script_.written(), WireOf(Large(1, ByteSpan(payload_).first(room))) +
                                   WireOf(Large(2, payload_)) + WireOf(Small(3)));
  connection_->Close(error::Cancelled("enough"));
  EXPECT_FALSE(TrySend(Small(4)));
}

TEST_F(BatchingTest, CopiedFramesOfOneTurnAreBounded) {
  const ByteSpan most = ByteSpan(payload_).first(kSmallFrameBytes - 100);
  std::string expected;
  size_t largest = 0;
  loop_->Post([&] {
    for (uint64_t op = 0; op < 3 * kOutboxBytes / kSmallFrameBytes; ++op) {
      EXPECT_TRUE(TrySend(Large(op, most)));
      expected += WireOf(Large(op, most));
    }
  });
  Settle();
  for (const Script::Write& write : script_.writes) {
    largest = std::max(largest, write.bytes.size());
  }
  EXPECT_LE(largest, kOutboxBytes);
  EXPECT_LE(script_.writes.size(), 4U);
  EXPECT_EQ(script_.written(), expected);
}

TEST_F(BatchingTest, AStreamWithLittleRoomGetsAllInOrder) {
  script_.room = 100;
  std::string expected;
  for (uint64_t op = 0; op < 5; ++op) {
    ASSERT_TRUE(TrySend(Small(op)));
    expected += WireOf(Small(op));
  }
  Settle();
  EXPECT_NE(script_.watched & EPOLLOUT, 0U);
  EXPECT_FALSE(TrySend(Small(9))) << "while the stream has no room";
  std::vector<std::shared_ptr<std::optional<absl::Status>>> sent;
  for (uint64_t op = 5; op < 9; ++op) {
    OutgoingFrame frame = op == 6 ? Large(op, payload_) : Small(op);
    expected += WireOf(op == 6 ? Large(op, payload_) : Small(op));
    sent.push_back(StartSend(std::move(frame)));
  }
  EXPECT_FALSE(sent[0]->has_value());
  for (size_t i = 0; i < 100 && !sent[3]->has_value(); ++i) {
    Writable(i < 10 ? 50 : 100 * kKiB);
    Settle();
  }
  ASSERT_TRUE(sent[3]->has_value());
  EXPECT_TRUE(script_.written() == expected);
  EXPECT_EQ(script_.watched & EPOLLOUT, 0U);
}

TEST_F(BatchingTest, FramesThatWaitedLeaveWithOneWrite) {
  script_.room = 0;
  std::string expected;
  std::vector<std::shared_ptr<std::optional<absl::Status>>> sent;
  for (uint64_t op = 0; op < 5; ++op) {
    expected += WireOf(Small(op));
    sent.push_back(StartSend(Small(op)));
  }
  Writable(SIZE_MAX);
  ASSERT_EQ(script_.writes.size(), 1U);
  EXPECT_EQ(script_.writes[0].bytes, expected);
  EXPECT_TRUE(RunUntil([&] { return sent[4]->has_value(); }));
}

TEST_F(BatchingTest, CloseStillOffersWhatWasCopied) {
  ASSERT_TRUE(TrySend(Small(1)));
  connection_->Close(error::Cancelled("enough"));
  EXPECT_EQ(script_.written(), WireOf(Small(1)));
  Settle();
  EXPECT_EQ(script_.writes.size(), 1U);
}

TEST_F(BatchingTest, AStreamThatBreaksClosesOnceAndTakesNothingMore) {
  ASSERT_TRUE(TrySend(Small(1)));
  script_.error = EPIPE;
  Settle();
  ASSERT_EQ(recorder_.closed.size(), 1U);
  EXPECT_EQ(recorder_.closed[0].code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(TrySend(Small(2)));
}

TEST_F(BatchingTest, ConnectionMayGoBeforeTheEndOfTheTurn) {
  ASSERT_TRUE(TrySend(Small(1)));
  connection_.reset();
  Settle();
  EXPECT_EQ(script_.written(), WireOf(Small(1)));
}

TEST_F(BatchingTest, AFrameWithHandlesBeginsAWriteOfItsOwn) {
  Make(StreamConnection::Carries::kBytesAndHandles);
  ASSERT_TRUE(TrySend(Small(1)));
  script_.room = 0;
  OutgoingFrame with = Small(2);
  with.handles.push_back(std::make_shared<DescriptorHandle>(Descriptor(dup(STDERR_FILENO))));
  EXPECT_FALSE(TrySend(with));
  auto first = StartSend(std::move(with));
  auto second = StartSend(Small(3));
  Writable(SIZE_MAX);
  std::vector<size_t> handles;
  for (const Script::Write& write : script_.writes) {
    handles.push_back(write.handles);
  }
  ASSERT_THAT(handles, ElementsAre(0, 1));
  EXPECT_EQ(script_.writes[0].bytes, WireOf(Small(1)));
  EXPECT_EQ(script_.writes[1].bytes, WireOf(Small(2), 1) + WireOf(Small(3)));
}

TEST_F(BatchingTest, FramesThatArrivedTogetherAreReadWithOneReception) {
  std::string wire;
  for (uint64_t op = 0; op < 64; ++op) {
    wire += WireOf(Small(op));
  }
  ASSERT_LT(wire.size(), kReadAheadBytes);
  Arrive(wire);
  ASSERT_EQ(recorder_.frames.size(), 64U);
  EXPECT_EQ(recorder_.frames[63].body, "body 63");
  EXPECT_EQ(script_.targets.size(), 1U);
}

TEST_F(BatchingTest, FramesArriveInWhateverPiecesTheyCome) {
  std::vector<std::byte> place(kChunkBytes);
  recorder_.place = [&](const FrameHeader&) { return Placement{place}; };
  const ByteSpan payload = ByteSpan(payload_).first(3 * kReadAheadBytes);
  const std::string wire = WireOf(Small(1)) + WireOf(Large(2, payload)) + WireOf(Small(3));
  for (const size_t piece : {1UL, 63UL, 65UL, 1000UL, kReadAheadBytes, 20000UL}) {
    recorder_.frames.clear();
    std::fill(place.begin(), place.end(), std::byte{0});
    for (size_t at = 0; at < wire.size(); at += piece) {
      Arrive(wire.substr(at, piece));
    }
    ASSERT_EQ(recorder_.frames.size(), 3U) << piece;
    EXPECT_TRUE(SameBytes(recorder_.frames[1].payload, payload)) << piece;
    EXPECT_EQ(recorder_.frames[2].body, "body 3") << piece;
  }
}

TEST_F(BatchingTest, APayloadIsReceivedWhereItGoesFromTheEndOfWhatWasReadAhead) {
  std::vector<std::byte> place(kChunkBytes);
  recorder_.place = [&](const FrameHeader&) { return Placement{place}; };
  Arrive(WireOf(Small(1)) + WireOf(Large(2, payload_)));
  ASSERT_EQ(recorder_.frames.size(), 2U);
  EXPECT_TRUE(SameBytes(recorder_.frames[1].payload, payload_));
  ASSERT_EQ(script_.targets.size(), 2U);
  const size_t copied = kReadAheadBytes - WireOf(Small(1)).size() - WireOf(Large(2, {})).size();
  EXPECT_EQ(script_.targets[1].data(), place.data() + copied);
}

TEST_F(BatchingTest, WhatWasReadAheadIsNotWrittenOnceRevoked) {
  std::vector<std::byte> place(1000);
  auto revocation = std::make_shared<Revocation>();
  recorder_.place = [&](const FrameHeader&) { return Placement{place, revocation}; };
  const ByteSpan payload = ByteSpan(payload_).first(place.size());
  const std::string wire = WireOf(Large(1, payload));
  Arrive(wire.substr(0, wire.size() - 100));
  EXPECT_TRUE(SameBytes(ByteSpan(place).first(900), payload.first(900)));
  revocation->Revoke();
  std::fill(place.begin(), place.end(), std::byte{0});
  Arrive(wire.substr(wire.size() - 100) + WireOf(Small(2)));
  ASSERT_EQ(recorder_.frames.size(), 2U);
  EXPECT_TRUE(recorder_.frames[0].payload_dropped);
  EXPECT_TRUE(std::ranges::all_of(place, [](std::byte b) { return b == std::byte{0}; }));
}

TEST_F(BatchingTest, ASendEndsWhenTheStreamHoldsItNoMore) {
  const size_t small = WireOf(Small(2)).size();
  script_.held = kChunkBytes;
  const auto first = StartSend(Large(1, payload_));
  script_.held += small;
  loop_->Post([this] { EXPECT_TRUE(TrySend(Small(2))); });
  Settle();
  script_.held += kChunkBytes;
  const auto third = StartSend(Large(3, ByteSpan(payload_)));
  EXPECT_EQ(script_.writes.size(), 3U) << "what is held holds nobody up";
  EXPECT_FALSE(first->has_value());
  Hold(small + kChunkBytes);
  ASSERT_TRUE(first->has_value());
  EXPECT_TRUE((*first)->ok());
  EXPECT_FALSE(third->has_value());
  Hold(1);
  EXPECT_FALSE(third->has_value());
  Hold(0);
  ASSERT_TRUE(third->has_value());
  EXPECT_TRUE((*third)->ok());
}

TEST_F(BatchingTest, ASendThatIsDestroyedWhileItIsHeldEndsTheConnection) {
  script_.held = kChunkBytes;
  // The task lives on a loop of its own, which ends.
  auto other = *EpollLoop::Create();
  const auto sent = gemel::Start(other.get(), connection_->Send(Large(1, payload_)));
  bool turned = false;
  other->Post([&turned] { turned = true; });
  ASSERT_TRUE(RunLoop(other.get(), [&turned] { return turned; }));
  EXPECT_EQ(script_.writes.size(), 1U);
  ASSERT_FALSE(sent->has_value());
  other->Shutdown();
  Settle();
  ASSERT_EQ(recorder_.closed.size(), 1U);
  EXPECT_EQ(recorder_.closed[0].code(), absl::StatusCode::kCancelled);
}

TEST_F(BatchingTest, AnEndEndsWhatIsHeld) {
  script_.held = kChunkBytes;
  const auto sent = StartSend(Large(1, payload_));
  connection_->Close(error::Aborted("enough"));
  Settle();
  ASSERT_TRUE(sent->has_value());
  EXPECT_EQ((*sent)->code(), absl::StatusCode::kAborted);
}

// A frame whose payload comes to its place by itself.
class LandingTest : public BatchingTest {
 protected:
  LandingTest() {
    recorder_.place = [this](const FrameHeader&) { return Placement{place_, revocation_}; };
    script_.lands = true;
    Arrive(wire_.substr(0, wire_.size() - kChunkBytes));
    Arrive("");
  }

  void Land() { Arrive(wire_.substr(wire_.size() - kChunkBytes)); }

  const std::string wire_ = WireOf(Large(1, payload_));
  std::vector<std::byte> place_ = std::vector<std::byte>(kChunkBytes);
  const std::shared_ptr<Revocation> revocation_ = std::make_shared<Revocation>();
};

TEST_F(LandingTest, StopsWhenItsPlaceIsRevoked) {
  EXPECT_EQ(script_.stopped, 0);
  revocation_->Revoke();
  EXPECT_EQ(script_.stopped, 1);
  Land();
  ASSERT_EQ(recorder_.frames.size(), 1U);
  EXPECT_TRUE(recorder_.frames[0].payload_dropped);
}

TEST_F(LandingTest, IsStoppedNoMoreWhenItIsThere) {
  Land();
  ASSERT_EQ(recorder_.frames.size(), 1U);
  EXPECT_TRUE(SameBytes(recorder_.frames[0].payload, payload_));
  revocation_->Revoke();
  EXPECT_EQ(script_.stopped, 0);
}

TEST_F(LandingTest, IsOverWithItsConnection) {
  connection_.reset();
  revocation_->Revoke();
  EXPECT_EQ(script_.stopped, 0);
}

TEST_F(BatchingTest, MayBeDestroyedFromAnEventWithMoreReadAhead) {
  recorder_.on_frame = [this] { connection_.reset(); };
  Arrive(WireOf(Small(1)) + WireOf(Small(2)) + WireOf(Small(3)));
  Settle();
  EXPECT_EQ(recorder_.frames.size(), 1U);
}

TEST_F(BatchingTest, MayBeClosedFromAnEventWithMoreReadAhead) {
  recorder_.on_frame = [this] { connection_->Close(error::Cancelled("enough")); };
  Arrive(WireOf(Small(1)) + WireOf(Small(2)) + WireOf(Small(3)));
  Settle();
  EXPECT_EQ(recorder_.frames.size(), 1U);
  EXPECT_EQ(recorder_.closed.size(), 1U);
}

TEST_F(BatchingTest, WhereHandlesTravelNothingIsReadAhead) {
  Make(StreamConnection::Carries::kBytesAndHandles);
  Arrive(WireOf(Small(1)) + WireOf(Small(2)));
  ASSERT_EQ(recorder_.frames.size(), 2U);
  std::vector<size_t> sizes;
  for (const MutableByteSpan target : script_.targets) {
    sizes.push_back(target.size());
  }
  EXPECT_THAT(sizes, ElementsAre(kFrameHeaderBytes, 6, kFrameHeaderBytes, 6));
}

}  // namespace
}  // namespace gemel

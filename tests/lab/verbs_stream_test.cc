// SPDX-License-Identifier: Apache-2.0
//
// A stream over a queue pair whose other end says what it likes, and what the two sides of the
// verbs fabric tell each other (docs/formats/verbs.md).
#include "transport/verbs/verbs_stream.h"

#include <sys/epoll.h>

#include <array>

#include "common/copies.h"
#include "tests/lab/verbs_ends.h"
#include "tests/unit/transport_sockets.h"
#include "transport/verbs/verbs_hello.h"
#include "transport/verbs/verbs_references.h"

namespace gemel {
namespace {

// A stream whose other end is a queue pair of the test's.
class VerbsLiar : public ::testing::Test {
 public:
  ~VerbsLiar() override {
    stream_.reset();
    loop_->Shutdown();
  }

 protected:
  VerbsLiar() {
    other_.region = *device_->Register(other_.memory);
    other_.pair = *VerbsQueuePair::Make(device_.get(), {});
    auto [own, raw] = SocketPair();
    socket_ = std::move(raw);
    GEMEL_CHECK(other_.pair->Connect(stream_->hello().address).ok());
    GEMEL_CHECK(
        stream_->Connect({.address = other_.pair->address(), .slots = 16, .slot_bytes = 4096})
            .ok());
    stream_->Open(std::move(own));
    stream_->Watch(EPOLLIN, [this](uint32_t) { readable_ = true; });
  }

  // A message of the other end, as it says; the prelude is of version `version`.
  void Say(const VerbsPrelude& prelude, size_t bytes, uint8_t version = kVerbsVersion) {
    const size_t reference_bytes =
        EncodeVerbsPrelude(prelude, other_.memory) - kVerbsPreludeBytes - prelude.bytes;
    other_.memory[0] = std::byte{version};
    ASSERT_TRUE(
        other_.pair
            ->Send(1, other_.First(kVerbsPreludeBytes + bytes + reference_bytes), *other_.region)
            .ok());
    ASSERT_EQ(other_.Next().status, IBV_WC_SUCCESS);
    readable_ = false;
    ASSERT_TRUE(RunLoop(loop_.get(), [this] { return readable_; }));
  }

  IoResult Receive() {
    std::array<std::byte, 64> into{};
    return stream_->Receive(into, nullptr);
  }

  FakeVerbs fake_{1};
  std::unique_ptr<EpollLoop> loop_ = *EpollLoop::Create();
  std::shared_ptr<VerbsDevice> device_ = *VerbsDevice::Open(&fake_.calls(), "");
  std::unique_ptr<VerbsStream> stream_ = *VerbsStream::Make(loop_.get(), device_, {});
  VerbsEnd other_;
  Descriptor socket_;
  bool readable_ = false;
};

TEST_F(VerbsLiar, MoreReceivesBackThanThereAreBreaksTheStream) {
  Say({.returned = 0, .bytes = 5}, 5);
  EXPECT_EQ(Receive().bytes, 5U);
  Say({.returned = 1, .bytes = 5}, 5);
  EXPECT_EQ(Receive().error, EPROTO);
}

TEST_F(VerbsLiar, MoreMessagesThanItHasReceivesBreakTheStream) {
  const size_t all = fake_.shared_receives();
  for (uint32_t i = 0; i <= VerbsStream::Options().slots; ++i) {
    Say({.returned = 0, .bytes = 5}, 5);
  }
  EXPECT_EQ(Receive().bytes, 64U);
  EXPECT_EQ(Receive().bytes, 16U) << "of the messages that it might send";
  EXPECT_EQ(Receive().error, EPROTO);
  EXPECT_EQ(fake_.shared_receives(), all);
}

TEST_F(VerbsLiar, AWriteWithANumberBreaksTheStream) {
  const size_t all = fake_.shared_receives();
  ASSERT_TRUE(other_.pair->Write(1, {}, *other_.region, {}, 7).ok());
  ASSERT_EQ(other_.Next().status, IBV_WC_SUCCESS);
  ASSERT_TRUE(RunLoop(loop_.get(), [this] { return Receive().error == EPROTO; }));
  EXPECT_EQ(fake_.shared_receives(), all);
}

// The other one has no receive, so that a message waits.
TEST_F(VerbsLiar, AStreamThatLingersKeepsNoReceives) {
  const size_t all = fake_.shared_receives();
  const uint32_t pair = stream_->hello().address.queue_pair;
  const std::array<ByteSpan, 1> pieces = {other_.First(10)};
  EXPECT_EQ(stream_->Send(pieces, {}).bytes, 10U);
  Say({.bytes = 5}, 5);
  EXPECT_EQ(fake_.shared_receives(), all - 1);
  stream_.reset();
  EXPECT_EQ(fake_.shared_receives(), all);
  EncodeVerbsPrelude({.bytes = 5}, other_.memory);
  ASSERT_TRUE(other_.pair->Send(1, other_.First(kVerbsPreludeBytes + 5), *other_.region).ok());
  ASSERT_EQ(other_.Next().status, IBV_WC_SUCCESS);
  EXPECT_EQ(fake_.shared_receives(), all - 1);
  EXPECT_TRUE(RunLoop(loop_.get(), [&] { return fake_.shared_receives() == all; }));
  EXPECT_EQ(fake_.Held(pair), 1U) << "it lingers";
}

TEST_F(VerbsLiar, WhatIsCopiedOutOfAMessageIsCounted) {
  const uint64_t before = CopiedBytes();
  Say({.returned = 0, .bytes = 5}, 5);
  EXPECT_EQ(CopiedBytes() - before, 0U);
  EXPECT_EQ(Receive().bytes, 5U);
  EXPECT_EQ(CopiedBytes() - before, 5U);
}

TEST_F(VerbsLiar, ALengthThatIsNotTheMessagesBreaksTheStream) {
  Say({.returned = 0, .bytes = 5}, 6);
  EXPECT_EQ(Receive().error, EPROTO);
}

TEST_F(VerbsLiar, AnotherVersionBreaksTheStream) {
  Say({.returned = 0, .bytes = 5}, 5, 1);
  EXPECT_EQ(Receive().error, EPROTO);
}

TEST_F(VerbsLiar, MoreOverTcpThanItsHelloBreaksTheStream) {
  RawSend(socket_, "and");
  ASSERT_TRUE(RunLoop(loop_.get(), [this] { return readable_; }));
  EXPECT_EQ(Receive().error, EPROTO);
}

TEST_F(VerbsLiar, TheEndOfTcpIsTheEnd) {
  Say({.returned = 0, .bytes = 5}, 5);
  RawClose(&socket_);
  ASSERT_TRUE(RunLoop(loop_.get(), [this] { return stream_->Send({}, {}).error == EPIPE; }));
  EXPECT_EQ(Receive().bytes, 5U);
  const IoResult end = Receive();
  EXPECT_EQ(end.error, 0);
  EXPECT_EQ(end.bytes, 0U);
}

TEST_F(VerbsLiar, WhatArrivedBeforeItBrokeIsReadBeforeTheError) {
  Say({.returned = 0, .bytes = 5}, 5);
  fake_.FailNext(stream_->hello().address.queue_pair, IBV_WC_RETRY_EXC_ERR, 0);
  const std::array<ByteSpan, 1> pieces = {other_.First(10)};
  EXPECT_EQ(stream_->Send(pieces, {}).bytes, 10U);
  ASSERT_TRUE(RunLoop(loop_.get(), [this] { return stream_->Send({}, {}).error == ETIMEDOUT; }));
  EXPECT_EQ(Receive().bytes, 5U);
  EXPECT_EQ(Receive().error, ETIMEDOUT);
}

// Pieces that are read where they lie.
class VerbsReferred : public VerbsLiar {
 protected:
  VerbsReferred() {
    GEMEL_CHECK(device_->AddMemory(memory_).ok());
    other_.window = *device_->MakeWindow();
    for (size_t i = 0; i < kHears; ++i) {
      GEMEL_CHECK(other_.pair->PostReceive(i, HeardAt(i), *other_.region).ok());
    }
  }

  // The end of the other one's memory, where it lets the stream read.
  MutableByteSpan Shown() { return MutableByteSpan(other_.memory).last(kPieceBytes); }

  VerbsReference Show() {
    std::fill(Shown().begin(), Shown().end(), std::byte{7});
    EXPECT_TRUE(other_.pair->Bind(9, other_.window.get(), *other_.region, Shown(), false).ok());
    EXPECT_EQ(Told(WorkKind::kBind).status, IBV_WC_SUCCESS);
    return {.place = other_.Place(other_.memory.size() - kPieceBytes), .bytes = kPieceBytes};
  }

  // The next word to the other one of that kind.
  WorkDone Told(WorkKind kind) {
    WorkDone done = other_.Next();
    while (done.kind != kind && !HasFailure()) {
      done = other_.Next();
    }
    return done;
  }

  VerbsPrelude Hear() {
    const WorkDone done = Told(WorkKind::kReceived);
    const absl::StatusOr<VerbsPrelude> heard =
        DecodeVerbsPrelude(HeardAt(done.id).first(done.bytes));
    EXPECT_TRUE(heard.ok()) << heard.status();
    return heard.ok() ? *heard : VerbsPrelude();
  }

  // Until it returns something.
  IoResult ReceiveInto(MutableByteSpan into) {
    IoResult got = stream_->Receive(into, nullptr);
    EXPECT_TRUE(RunLoop(loop_.get(), [&] {
      got = got.blocked() ? stream_->Receive(into, nullptr) : got;
      return !got.blocked();
    }));
    return got;
  }

  ibv_wc_status ReadAt(const VerbsPlace& place) {
    EXPECT_TRUE(other_.pair->Read(5, Shown(), *other_.region, place).ok());
    return Told(WorkKind::kRead).status;
  }

  static constexpr uint32_t kPieceBytes = kVerbsReferredBytesMin;
  static constexpr size_t kHears = 16;

  std::vector<std::byte> memory_ = Pattern(size_t{20} * kPieceBytes);  // the device knows it

 private:
  MutableByteSpan HeardAt(size_t i) {
    return MutableByteSpan(other_.memory).subspan(4096 + i * 1024, 1024);
  }
};

TEST_F(VerbsReferred, APieceIsReadToWhereItBelongsAndThePeerIsTold) {
  Say({.bytes = 5, .reference = Show()}, 5);
  const uint64_t before = CopiedBytes();
  EXPECT_EQ(ReceiveInto(memory_).bytes, 5U);
  EXPECT_TRUE(stream_->Receive(memory_, nullptr).lands);
  EXPECT_EQ(ReceiveInto(memory_).bytes, kPieceBytes);
  EXPECT_EQ(CopiedBytes() - before, 5U);
  EXPECT_TRUE(SameBytes(ByteSpan(memory_).first(kPieceBytes), Shown()));
  EXPECT_EQ(Hear().read, 1);
}

TEST_F(VerbsReferred, APieceForMemoryThatTheDeviceDoesNotKnowIsCopiedOnTheWay) {
  Say({.reference = Show()}, 0);
  std::vector<std::byte> got(kPieceBytes + 100);
  const uint64_t before = CopiedBytes();
  EXPECT_FALSE(stream_->Receive(got, nullptr).lands);
  for (size_t bytes = 0; bytes < kPieceBytes && !HasFailure();) {
    bytes += ReceiveInto(MutableByteSpan(got).subspan(bytes, 5000)).bytes;
  }
  EXPECT_EQ(CopiedBytes() - before, kPieceBytes);
  EXPECT_TRUE(SameBytes(ByteSpan(got).first(kPieceBytes), Shown()));
  EXPECT_EQ(Hear().read, 1);
}

TEST_F(VerbsReferred, WhenLandingWasStoppedNothingIsWrittenAndTheStreamIsOver) {
  Say({.reference = Show()}, 0);
  const std::vector<std::byte> was = memory_;
  EXPECT_TRUE(stream_->Receive(memory_, nullptr).lands);
  stream_->StopLanding();
  EXPECT_EQ(fake_.Held(stream_->hello().address.queue_pair), 0U);
  while (fake_.Step()) {
  }
  EXPECT_TRUE(SameBytes(memory_, was));
  EXPECT_EQ(ReceiveInto(memory_).error, ECONNABORTED);
}

TEST_F(VerbsReferred, AKeyOfNoWindowBreaksTheStream) {
  VerbsReference wrong = Show();
  wrong.place.key += 1;
  Say({.reference = wrong}, 0);
  EXPECT_EQ(ReceiveInto(memory_).error, ECONNRESET);
}

TEST_F(VerbsReferred, MoreReadThanThereWasBreaksTheStream) {
  Say({.read = 1}, 0);
  EXPECT_EQ(Receive().error, EPROTO);
}

TEST_F(VerbsReferred, ALongPieceIsHeldUntilItWasRead) {
  const ByteSpan piece = ByteSpan(memory_).first(kPieceBytes);
  const std::array<ByteSpan, 3> pieces = {other_.First(3), piece, other_.First(10)};
  const uint64_t before = CopiedBytes();
  EXPECT_EQ(stream_->Send(pieces, {}).bytes, 13 + kPieceBytes);
  EXPECT_EQ(CopiedBytes() - before, 13U);
  EXPECT_EQ(stream_->Held(), 10 + kPieceBytes);
  const VerbsPrelude heard = Hear();
  EXPECT_EQ(heard.bytes, 3U);
  ASSERT_TRUE(heard.reference.has_value());
  EXPECT_EQ(heard.reference->bytes, kPieceBytes);
  EXPECT_EQ(Hear().bytes, 10U);
  EXPECT_EQ(ReadAt(heard.reference->place), IBV_WC_SUCCESS);
  EXPECT_TRUE(SameBytes(Shown(), piece));
  Say({.read = 1}, 0);
  EXPECT_EQ(stream_->Held(), 0U);
  while (fake_.Step()) {
  }
  EXPECT_EQ(ReadAt(heard.reference->place), IBV_WC_REM_ACCESS_ERR) << "a right that has ended";
}

TEST_F(VerbsReferred, NobodyReadsWhenTheStreamIsGone) {
  const std::array<ByteSpan, 1> pieces = {ByteSpan(memory_).first(kPieceBytes)};
  EXPECT_EQ(stream_->Send(pieces, {}).bytes, kPieceBytes);
  const VerbsPrelude heard = Hear();
  ASSERT_TRUE(heard.reference.has_value());
  stream_.reset();
  EXPECT_EQ(ReadAt(heard.reference->place), IBV_WC_RETRY_EXC_ERR);
}

TEST_F(VerbsReferred, ShortPiecesAreCopied) {
  const std::array<ByteSpan, 1> pieces = {ByteSpan(memory_).first(kPieceBytes - 1)};
  const uint64_t before = CopiedBytes();
  EXPECT_EQ(stream_->Send(pieces, {}).bytes, kPieceBytes - 1);
  EXPECT_EQ(CopiedBytes() - before, kPieceBytes - 1);
  EXPECT_EQ(stream_->Held(), 0U);
}

TEST(VerbsHellos, AreReadAsTheyWereWrittenAndRefusedOtherwise) {
  VerbsHello hello{.address = {.lid = 3, .mtu = IBV_MTU_4096, .queue_pair = 77, .first_packet = 9},
                   .slots = 16,
                   .slot_bytes = 65536};
  hello.address.gid.raw[15] = 1;
  const std::string bytes = EncodeVerbsHello(hello);
  const absl::StatusOr<VerbsHello> read = DecodeVerbsHello(AsBytes(bytes));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->address.gid.raw[15], 1);
  EXPECT_EQ(read->address.lid, 3);
  EXPECT_EQ(read->address.mtu, IBV_MTU_4096);
  EXPECT_EQ(read->address.queue_pair, 77U);
  EXPECT_EQ(read->address.first_packet, 9U);
  EXPECT_EQ(read->slots, 16U);
  EXPECT_EQ(read->slot_bytes, 65536U);
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::string wrong = bytes;
    wrong[i] = static_cast<char>(wrong[i] ^ 0x40);
    EXPECT_FALSE(DecodeVerbsHello(AsBytes(wrong)).ok()) << i;
  }
  for (const uint32_t slots : {0U, kVerbsSlotsMin - 1, kVerbsSlotsMax + 1}) {
    hello.slots = slots;
    EXPECT_FALSE(DecodeVerbsHello(AsBytes(EncodeVerbsHello(hello))).ok()) << slots;
  }
  EXPECT_FALSE(DecodeVerbsHello(AsBytes(bytes).first(63)).ok());
}

TEST(VerbsHellos, APreludeThatDoesNotFitItsMessageIsRefused) {
  std::vector<std::byte> message(kVerbsPreludeBytes + 12);
  EncodeVerbsPrelude({.returned = 3, .bytes = 12}, message);
  const absl::StatusOr<VerbsPrelude> read = DecodeVerbsPrelude(message);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->returned, 3);
  EXPECT_EQ(read->bytes, 12U);
  EXPECT_FALSE(DecodeVerbsPrelude(ByteSpan(message).first(message.size() - 1)).ok());
  EXPECT_FALSE(DecodeVerbsPrelude(ByteSpan(message).first(kVerbsPreludeBytes - 1)).ok());
  message[0] = std::byte{1};
  EXPECT_FALSE(DecodeVerbsPrelude(message).ok());
}

TEST(VerbsHellos, AReferenceIsReadAsItWasWrittenAndRefusedOtherwise) {
  std::vector<std::byte> message(kVerbsPreludeBytes + 3 + kVerbsReferenceBytes);
  VerbsPrelude prelude{.bytes = 3, .read = 7};
  prelude.reference = {.place = {.address = 0x0102030405060708, .key = 9}, .bytes = 1 << 20};
  EXPECT_EQ(EncodeVerbsPrelude(prelude, message), message.size());
  const absl::StatusOr<VerbsPrelude> read = DecodeVerbsPrelude(message);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->bytes, 3U);
  EXPECT_EQ(read->read, 7);
  ASSERT_TRUE(read->reference.has_value());
  EXPECT_EQ(read->reference->place.address, 0x0102030405060708U);
  EXPECT_EQ(read->reference->place.key, 9U);
  EXPECT_EQ(read->reference->bytes, 1U << 20);
  EXPECT_FALSE(DecodeVerbsPrelude(ByteSpan(message).first(message.size() - 1)).ok());
  for (const uint8_t references : {0, 2}) {
    message[1] = std::byte{references};
    EXPECT_FALSE(DecodeVerbsPrelude(message).ok()) << int{references};
  }
  for (const uint32_t bytes : {0U, kVerbsReferredBytesMax + 1}) {
    prelude.reference->bytes = bytes;
    EncodeVerbsPrelude(prelude, message);
    EXPECT_FALSE(DecodeVerbsPrelude(message).ok()) << bytes;
  }
}

}  // namespace
}  // namespace gemel

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
    EncodeVerbsPrelude(prelude, other_.First(kVerbsPreludeBytes));
    other_.memory[0] = std::byte{version};
    ASSERT_TRUE(
        other_.pair->Send(1, other_.First(kVerbsPreludeBytes + bytes), *other_.region).ok());
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
  Say({.returned = 0, .bytes = 5}, 5, 2);
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
  std::vector<std::byte> message(20);
  EncodeVerbsPrelude({.returned = 3, .bytes = 12}, message);
  const absl::StatusOr<VerbsPrelude> read = DecodeVerbsPrelude(message);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->returned, 3);
  EXPECT_EQ(read->bytes, 12U);
  EXPECT_FALSE(DecodeVerbsPrelude(ByteSpan(message).first(19)).ok());
  EXPECT_FALSE(DecodeVerbsPrelude(ByteSpan(message).first(7)).ok());
  message[0] = std::byte{2};
  EXPECT_FALSE(DecodeVerbsPrelude(message).ok());
}

}  // namespace
}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// Payloads that leave over TCP by reference: what arrives, what is copied all the same, full
// sockets, and a peer that goes.
#include <gtest/gtest.h>

#include <csignal>
#include <numeric>

#include "tests/unit/transport_sockets.h"
#include "transport/tcp/referenced_send.h"

namespace gemel {
namespace {

constexpr size_t kLong = kMiB;

class ReferencedSendTest : public SocketTest {
 protected:
  ReferencedSendTest() {
    std::signal(SIGPIPE, SIG_IGN);  // NOLINT(cert-err33-c): as processes do that use it
    auto [own, peer] = TcpPair();
    sender_ = ConnectionOf(std::move(own));
    receiver_ = ConnectionOf(std::move(peer));
    placed_.place = [this](const FrameHeader& header) {
      places_.emplace_back(header.payload_bytes);
      return Placement{places_.back()};
    };
    sender_->Start(&told_);
  }

  std::pair<Descriptor, Descriptor> TcpPair() {
    const TcpAddress any = *ParseLoopbackAddress("127.0.0.1:0");
    Descriptor listening = *ListenTcp(*TcpSocket(any), any);
    const TcpAddress address = OwnAddressOf(listening.get());
    Descriptor connected = *Run(ConnectTcp(loop_.get(), *TcpSocket(address), address, In(5s)));
    Descriptor accepted(accept4(listening.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    GEMEL_CHECK(accepted.valid());
    return {std::move(connected), std::move(accepted)};
  }

  std::unique_ptr<StreamConnection> ConnectionOf(Descriptor socket) {
    return std::make_unique<StreamConnection>(
        loop_.get(), std::make_unique<SocketStream>(loop_.get(), std::move(socket), referenced_),
        "tcp", StreamConnection::Carries::kBytes);
  }

  // A frame under way; `sent` once Send() has returned.
  struct Sent {
    bool done = false;
    absl::Status status;
  };

  std::shared_ptr<Sent> Send(FrameType type, ByteSpan payload) {
    auto sent = std::make_shared<Sent>();
    loop_->Spawn(RunSend(sender_.get(), FrameWith(type, next_++, "a body", payload), sent));
    return sent;
  }

  static Task<void> RunSend(StreamConnection* sender, OutgoingFrame frame,
                            std::shared_ptr<Sent> sent) {
    sent->status = co_await sender->Send(std::move(frame));
    sent->done = true;
  }

  std::shared_ptr<ReferencedSend> referenced_ =
      std::make_shared<ReferencedSend>(SendByReference::kAlways);
  std::unique_ptr<StreamConnection> sender_;
  std::unique_ptr<StreamConnection> receiver_;
  Recorder told_;
  Recorder placed_;
  std::list<std::vector<std::byte>> places_;
  uint64_t next_ = 1;
};

// More than the sockets take, in sources that begin and end anywhere.
TEST_F(ReferencedSendTest, WrittenChunksArriveAsTheyAre) {
  const std::vector<std::byte> source = Pattern(33 * kLong);
  std::vector<ByteSpan> payloads;
  for (size_t i = 0; i < 32; ++i) {
    payloads.push_back(ByteSpan(source).subspan(i * kLong + 13 * i, kLong - 7 * i));
    Send(FrameType::kWrite, payloads.back());
    Send(FrameType::kProbe, {});  // small frames between them
  }
  Settle();  // the sockets are full, and nobody reads
  receiver_->Start(&placed_);
  ASSERT_TRUE(RunUntil([&] { return placed_.frames.size() == 64; }));
  for (size_t i = 0; i < 32; ++i) {
    EXPECT_TRUE(SameBytes(placed_.frames[2 * i].payload, payloads[i])) << i;
  }
  const size_t all = std::accumulate(payloads.begin(), payloads.end(), size_t{0},
                                     [](size_t sum, ByteSpan one) { return sum + one.size(); });
  EXPECT_GT(referenced_->sent_bytes(), all / 2);
  EXPECT_LE(referenced_->sent_bytes(), all);
}

// What another frame carries may be reused once Send() has returned.
TEST_F(ReferencedSendTest, OtherPayloadsAreCopied) {
  std::vector<std::byte> source = Pattern(kLong);
  const std::vector<std::byte> before = source;
  const auto sent = Send(FrameType::kRead, source);
  ASSERT_TRUE(RunUntil([&] { return sent->done; }));
  std::fill(source.begin(), source.end(), std::byte{0});
  receiver_->Start(&placed_);
  ASSERT_TRUE(RunUntil([&] { return placed_.frames.size() == 1; }));
  EXPECT_TRUE(SameBytes(placed_.frames[0].payload, before));
  EXPECT_EQ(referenced_->sent_bytes(), 0U);
}

TEST_F(ReferencedSendTest, ShortPiecesAreCopied) {
  const std::vector<std::byte> source = Pattern(kReferencedBytesMin - 1);
  Send(FrameType::kWrite, source);
  receiver_->Start(&placed_);
  ASSERT_TRUE(RunUntil([&] { return placed_.frames.size() == 1; }));
  EXPECT_TRUE(SameBytes(placed_.frames[0].payload, source));
  EXPECT_EQ(referenced_->sent_bytes(), 0U);
}

TEST_F(ReferencedSendTest, APeerThatGoesInTheMiddleEndsTheConnection) {
  const std::vector<std::byte> source = Pattern(8 * kLong);
  std::vector<std::shared_ptr<Sent>> sent;
  for (size_t i = 0; i < 8; ++i) {
    sent.push_back(Send(FrameType::kWrite, ByteSpan(source).subspan(i * kLong, kLong)));
  }
  Settle();
  receiver_ = nullptr;
  ASSERT_TRUE(RunUntil([&] { return !told_.closed.empty() && sent.back()->done; }));
  EXPECT_EQ(told_.closed[0].code(), absl::StatusCode::kUnavailable) << told_.closed[0];
  EXPECT_EQ(sent.back()->status.code(), absl::StatusCode::kUnavailable);
}

TEST_F(ReferencedSendTest, MemoryThatTheKernelRefusesIsCopiedFromThenOn) {
  // Nothing is mapped there.
  std::array<ByteSpan, 1> nowhere = {
      ByteSpan(reinterpret_cast<const std::byte*>(kLong), kReferencedBytesMin)};
  auto [own, peer] = TcpPair();
  EXPECT_FALSE(referenced_->Send(own.get(), nowhere).has_value());
  EXPECT_FALSE(referenced_->Pays(loop_->Now()));
  const std::vector<std::byte> source = Pattern(kLong);
  Send(FrameType::kWrite, source);
  receiver_->Start(&placed_);
  ASSERT_TRUE(RunUntil([&] { return placed_.frames.size() == 1; }));
  EXPECT_TRUE(SameBytes(placed_.frames[0].payload, source));
  EXPECT_EQ(referenced_->sent_bytes(), 0U);
}

TEST(ReferencedSendChoice, FollowsWhatWasAskedFor) {
  EXPECT_FALSE(ReferencedSend(SendByReference::kNever).Pays(TimePoint(1s)));
  EXPECT_TRUE(ReferencedSend(SendByReference::kAlways).Pays(TimePoint(1s)));
  EXPECT_FALSE(ReferencedSend(SendByReference::kWhenContended).Pays(TimePoint(1s)))
      << "a first look knows no window";
}

}  // namespace
}  // namespace gemel

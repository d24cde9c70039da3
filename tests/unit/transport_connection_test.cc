// SPDX-License-Identifier: Apache-2.0
//
// StreamConnection against a raw socket: half frames, garbage, handles, closing.
#include <fcntl.h>
#include <gmock/gmock.h>

#include <array>

#include "tests/unit/transport_sockets.h"

namespace gemel {
namespace {

using ::testing::HasSubstr;

class StreamConnectionTest : public SocketTest {
 protected:
  StreamConnectionTest() : before_(OpenDescriptors()) {
    auto [connection, raw] = Pair();
    connection_ = std::move(connection);
    raw_ = std::move(raw);
    connection_->Start(&recorder_);
  }

  void ExpectClosed(absl::StatusCode code, const std::string& saying) {
    ASSERT_TRUE(RunUntil([this] { return !recorder_.closed.empty(); }));
    EXPECT_EQ(recorder_.closed[0].code(), code) << recorder_.closed[0];
    EXPECT_THAT(std::string(MessageOf(recorder_.closed[0])), HasSubstr(saying));
    Settle();
    EXPECT_EQ(recorder_.closed.size(), 1U);
  }

  // Sends `bytes` with `count` descriptors attached.
  void RawSendHandles(std::string_view bytes, size_t count) {
    std::array<char, CMSG_SPACE(253 * sizeof(int))> control{};
    iovec piece{const_cast<char*>(bytes.data()), bytes.size()};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    cmsghdr* part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(count * sizeof(int));
    for (size_t i = 0; i < count; ++i) {
      const int fd = STDERR_FILENO;
      std::memcpy(CMSG_DATA(part) + i * sizeof(int), &fd, sizeof(fd));
    }
    ASSERT_EQ(sendmsg(raw_.get(), &message, MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }

  const size_t before_;
  Recorder recorder_;
  std::unique_ptr<StreamConnection> connection_;
  Descriptor raw_;
};

TEST_F(StreamConnectionTest, ClosedPeerBetweenFramesIsUnavailable) {
  RawSend(raw_, WireOf(FrameWith(FrameType::kProbe, 1, "last words")));
  RawClose(&raw_);
  ExpectClosed(absl::StatusCode::kUnavailable, "pair ended the connection");
  ASSERT_EQ(recorder_.frames.size(), 1U);
  EXPECT_EQ(recorder_.frames[0].body, "last words");
}

TEST_F(StreamConnectionTest, HalfAFrameThenTheEndIsCutInsideAFrame) {
  const std::vector<std::byte> payload = Pattern(50);
  const std::string wire = WireOf(FrameWith(FrameType::kWrite, 1, "body", payload));
  for (size_t cut : {1UL, 63UL, 64UL, 66UL, 68UL, 100UL, wire.size() - 1}) {
    Recorder recorder;
    auto [connection, raw] = Pair();
    connection->Start(&recorder);
    RawSend(raw, wire.substr(0, cut));
    RawClose(&raw);
    ASSERT_TRUE(RunUntil([&] { return !recorder.closed.empty(); }));
    EXPECT_EQ(recorder.closed[0].code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(MessageOf(recorder.closed[0])), HasSubstr("cut inside a frame")) << cut;
    EXPECT_TRUE(recorder.frames.empty());
  }
}

TEST_F(StreamConnectionTest, GarbageIsInvalidArgument) {
  RawSend(raw_, std::string(200, 'G'));
  ExpectClosed(absl::StatusCode::kInvalidArgument, "is something else speaking");
}

TEST_F(StreamConnectionTest, BodyThatFailsItsChecksumIsInvalidArgument) {
  std::string wire = WireOf(FrameWith(FrameType::kProbe, 1, "body"));
  wire[65] ^= 1;
  RawSend(raw_, wire);
  ExpectClosed(absl::StatusCode::kInvalidArgument, "checksum");
  EXPECT_TRUE(recorder_.frames.empty());
}

TEST_F(StreamConnectionTest, OwnCloseTellsItsReasonOnceAndLater) {
  connection_->Close(error::Cancelled("enough"));
  EXPECT_TRUE(recorder_.closed.empty()) << "told from within the call";
  connection_->Close(error::Internal("again"));
  ExpectClosed(absl::StatusCode::kCancelled, "enough");
}

TEST_F(StreamConnectionTest, DestroyedConnectionTellsNothing) {
  RawSend(raw_, WireOf(FrameWith(FrameType::kProbe, 1)));
  connection_.reset();
  Settle();
  EXPECT_TRUE(recorder_.frames.empty());
  EXPECT_TRUE(recorder_.closed.empty());
}

TEST_F(StreamConnectionTest, MayBeDestroyedFromWithinItsOwnEvent) {
  recorder_.on_frame = [this] { connection_.reset(); };
  const std::string one = WireOf(FrameWith(FrameType::kProbe, 1));
  RawSend(raw_, one + one + one);
  ASSERT_TRUE(RunUntil([this] { return !recorder_.frames.empty(); }));
  Settle();
  EXPECT_EQ(recorder_.frames.size(), 1U);
}

TEST_F(StreamConnectionTest, FramesOfManySendersLeaveWholeAndInOrder) {
  const std::vector<std::byte> payload = Pattern(kChunkBytes);
  std::string expected;
  std::vector<std::shared_ptr<std::optional<absl::Status>>> sent;
  for (uint64_t op = 0; op < 5; ++op) {
    OutgoingFrame frame = FrameWith(FrameType::kWrite, op, fmt::format("body {}", op), payload);
    OutgoingFrame copy = FrameWith(FrameType::kWrite, op, fmt::format("body {}", op), payload);
    expected += WireOf(std::move(copy));
    sent.push_back(gemel::Start(loop_.get(), connection_->Send(std::move(frame))));
  }
  Settle();
  EXPECT_FALSE(sent[4]->has_value()) << "LOCAL before the kernel took the last byte";
  size_t filled = 0;
  std::string got(expected.size(), '\0');
  for (const TimePoint end = In(20s); filled < got.size() && loop_->Now() < end;) {
    Settle();
    const ssize_t some = recv(raw_.get(), got.data() + filled, got.size() - filled, MSG_DONTWAIT);
    filled += some > 0 ? static_cast<size_t>(some) : 0;
  }
  EXPECT_TRUE(got == expected);
  ASSERT_TRUE(RunUntil([&] { return sent[4]->has_value(); }));
  for (const auto& status : sent) {
    EXPECT_TRUE((*status)->ok());
  }
}

TEST_F(StreamConnectionTest, CloseFailsSendsInProgressAndLaterOnes) {
  const std::vector<std::byte> payload = Pattern(kChunkBytes);
  auto stuck =
      gemel::Start(loop_.get(), connection_->Send(FrameWith(FrameType::kWrite, 1, "", payload)));
  Settle();
  ASSERT_FALSE(stuck->has_value());
  connection_->Close(error::Cancelled("enough"));
  ASSERT_TRUE(RunUntil([&] { return stuck->has_value(); }));
  EXPECT_EQ((*stuck)->code(), absl::StatusCode::kCancelled);
  const absl::Status later = Run(connection_->Send(FrameWith(FrameType::kProbe, 2)));
  EXPECT_EQ(later.code(), absl::StatusCode::kCancelled);
}

TEST_F(StreamConnectionTest, SendThatIsDestroyedInTheMiddleOfItsFrameClosesTheConnection) {
  const std::vector<std::byte> payload = Pattern(kChunkBytes);
  // The task lives on a loop of its own, which ends while the socket is full.
  auto other = *EpollLoop::Create();
  auto sent =
      gemel::Start(other.get(), connection_->Send(FrameWith(FrameType::kWrite, 1, "", payload)));
  bool turned = false;
  other->Post([&turned] { turned = true; });
  ASSERT_TRUE(RunLoop(other.get(), [&turned] { return turned; }));
  ASSERT_FALSE(sent->has_value());
  other->Shutdown();
  ExpectClosed(absl::StatusCode::kCancelled, "given up");
}

TEST_F(StreamConnectionTest, SendToADeadPeerIsUnavailable) {
  RawClose(&raw_);
  const absl::Status sent = Run(connection_->Send(FrameWith(FrameType::kProbe, 1)));
  EXPECT_EQ(sent.code(), absl::StatusCode::kUnavailable);
  ExpectClosed(absl::StatusCode::kUnavailable, "pair");
}

TEST_F(StreamConnectionTest, FrameOverTheLimitsIsRefused) {
  const std::string body(kFrameBodyBytesMax + 1, 'x');
  const absl::Status sent = Run(connection_->Send(FrameWith(FrameType::kProbe, 1, body)));
  EXPECT_EQ(sent.code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(StreamConnectionTest, HandlesArriveWithTheirFrame) {
  Recorder other;
  StreamConnection receiver(loop_.get(),
                            std::make_unique<SocketStream>(loop_.get(), std::move(raw_)),
                            "receiver", StreamConnection::Carries::kBytesAndHandles);
  receiver.Start(&other);
  OutgoingFrame frame = FrameWith(FrameType::kClientHello, 1, "two pipes");
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  frame.handles.push_back(std::make_shared<DescriptorHandle>(Descriptor(ends[0])));
  frame.handles.push_back(std::make_shared<DescriptorHandle>(Descriptor(ends[1])));
  EXPECT_TRUE(Run(connection_->Send(FrameWith(FrameType::kProbe, 0, "before"))).ok());
  EXPECT_TRUE(Run(connection_->Send(std::move(frame))).ok());
  EXPECT_TRUE(Run(connection_->Send(FrameWith(FrameType::kProbe, 2, "after"))).ok());
  ASSERT_TRUE(RunUntil([&] { return other.frames.size() == 3; }));
  EXPECT_TRUE(other.frames[0].handles.empty());
  EXPECT_TRUE(other.frames[2].handles.empty());
  const Handles& got = other.frames[1].handles;
  ASSERT_EQ(got.size(), 2U);
  char byte = 'x';
  EXPECT_EQ(write(got[1]->descriptor(), "y", 1), 1);
  EXPECT_EQ(read(got[0]->descriptor(), &byte, 1), 1);
  EXPECT_EQ(byte, 'y');
  EXPECT_NE(fcntl(got[0]->descriptor(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST_F(StreamConnectionTest, HandlesThatDoNotMatchTheHeaderCloseAndLeakNothing) {
  struct Bad {
    uint32_t said;
    size_t sent;
  };

  for (const Bad& bad : {Bad{0, 1}, Bad{2, 1}, Bad{1, 3}, Bad{64, 65}, Bad{64, 253}}) {
    auto [connection, raw] = Pair();
    connection_ = std::move(connection);
    raw_ = std::move(raw);
    recorder_ = Recorder();
    connection_->Start(&recorder_);
    RawSendHandles(WireOf(FrameWith(FrameType::kProbe, 1, "body"), bad.said), bad.sent);
    ExpectClosed(absl::StatusCode::kInvalidArgument, "handles");
    EXPECT_TRUE(recorder_.frames.empty());
  }
  connection_.reset();
  RawClose(&raw_);
  EXPECT_EQ(OpenDescriptors(), before_);
}

TEST_F(StreamConnectionTest, HandlesWithTheBodyCloseAndLeakNothing) {
  const std::string wire = WireOf(FrameWith(FrameType::kProbe, 1, "body"));
  RawSend(raw_, wire.substr(0, kFrameHeaderBytes));
  Settle();
  RawSendHandles(wire.substr(kFrameHeaderBytes), 2);
  ExpectClosed(absl::StatusCode::kInvalidArgument, "in the middle of a frame");
  connection_.reset();
  RawClose(&raw_);
  EXPECT_EQ(OpenDescriptors(), before_);
}

TEST_F(StreamConnectionTest, HandlesGatheredByteForByteAreBounded) {
  const std::string wire = WireOf(FrameWith(FrameType::kProbe, 1, "body"), 64);
  RawSendHandles(wire.substr(0, 1), 60);
  RawSendHandles(wire.substr(1, 1), 60);
  ExpectClosed(absl::StatusCode::kInvalidArgument, "more than 64 handles");
  connection_.reset();
  RawClose(&raw_);
  EXPECT_EQ(OpenDescriptors(), before_);
}

TEST_F(StreamConnectionTest, HandlesOverABareSocketAreRefused) {
  auto [unused, raw] = Pair();
  Recorder recorder;
  StreamConnection bytes(loop_.get(), std::make_unique<SocketStream>(loop_.get(), std::move(raw)),
                         "tcp://x", StreamConnection::Carries::kBytes);
  bytes.Start(&recorder);
  OutgoingFrame frame = FrameWith(FrameType::kProbe, 1);
  frame.handles.push_back(std::make_shared<DescriptorHandle>(Descriptor(dup(STDERR_FILENO))));
  EXPECT_EQ(Run(bytes.Send(std::move(frame))).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(StreamConnectionTest, PayloadGoesStraightToItsPlaceAndStopsWhenRevoked) {
  const std::vector<std::byte> payload = Pattern(kChunkBytes);
  std::vector<std::byte> place(kChunkBytes);
  auto revocation = std::make_shared<Revocation>();
  recorder_.place = [&](const FrameHeader&) { return Placement{place, revocation}; };
  const std::string wire = WireOf(FrameWith(FrameType::kWrite, 1, "", payload));
  constexpr size_t kFirst = 64 + 1000;
  RawSend(raw_, wire.substr(0, kFirst));
  ASSERT_TRUE(RunUntil([&] { return place[999] == payload[999]; }));
  revocation->Revoke();
  std::fill(place.begin(), place.end(), std::byte{0});
  size_t at = kFirst;
  for (const TimePoint end = In(20s); recorder_.frames.empty() && loop_->Now() < end;) {
    const ssize_t sent = send(raw_.get(), wire.data() + at, wire.size() - at, MSG_DONTWAIT);
    at += sent > 0 ? static_cast<size_t>(sent) : 0;
    Settle();
  }
  ASSERT_FALSE(recorder_.frames.empty());
  EXPECT_TRUE(recorder_.frames[0].payload_dropped);
  EXPECT_TRUE(
      std::all_of(place.begin(), place.end(), [](std::byte b) { return b == std::byte{0}; }));
  // The connection goes on.
  RawSend(raw_, WireOf(FrameWith(FrameType::kProbe, 2, "next")));
  ASSERT_TRUE(RunUntil([&] { return recorder_.frames.size() == 2; }));
  EXPECT_EQ(recorder_.frames[1].body, "next");
}

TEST_F(StreamConnectionTest, CloseInTheMiddleOfAPayloadWritesNoMoreOfIt) {
  const std::vector<std::byte> payload = Pattern(100000);
  std::vector<std::byte> place(payload.size());
  recorder_.place = [&](const FrameHeader&) { return Placement{place}; };
  const std::string wire = WireOf(FrameWith(FrameType::kWrite, 1, "", payload));
  RawSend(raw_, wire.substr(0, 1064));
  ASSERT_TRUE(RunUntil([&] { return place[999] == payload[999]; }));
  RawSend(raw_, wire.substr(1064));
  connection_->Close(error::Cancelled("enough"));
  const std::vector<std::byte> before = place;
  ExpectClosed(absl::StatusCode::kCancelled, "enough");
  EXPECT_TRUE(SameBytes(place, before));
}

TEST_F(StreamConnectionTest, PlacingMayCloseTheConnection) {
  recorder_.place = [&](const FrameHeader&) {
    connection_->Close(error::InvalidArgument("too long"));
    return Placement();
  };
  const std::vector<std::byte> payload = Pattern(10);
  RawSend(raw_, WireOf(FrameWith(FrameType::kWrite, 1, "", payload)));
  ExpectClosed(absl::StatusCode::kInvalidArgument, "too long");
  EXPECT_TRUE(recorder_.frames.empty());
}

}  // namespace
}  // namespace gemel

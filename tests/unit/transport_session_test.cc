// SPDX-License-Identifier: Apache-2.0
//
// Session over the unix and the tcp fabric: both ends are ours, or one end is a raw socket.
#include <gmock/gmock.h>

#include <algorithm>

#include "common/xxh3.h"
#include "tests/unit/transport_sockets.h"
#include "transport/region.h"
#include "transport/session.h"

namespace gemel {
namespace {

using ::testing::HasSubstr;

// kRead: its bytes, with an offset after Release(). kProbe: the body back. kDescribe: waits for
// Release(). kWrite: into a region, the digest being the body. kRevoke: an error.
class Server final : public SessionHandler {
 public:
  explicit Server(Loop* loop) : held_(loop) {}

  Placement PlaceRequestPayload(Session* session, const FrameHeader& header,
                                std::string_view /*body*/) override {
    auto placement = regions.BeginPlacing(header, {session});
    return placement.ok() ? *placement : Placement();
  }

  Task<Reply> Handle(std::shared_ptr<Session> session, IncomingRequest request) override {
    handled += 1;
    order.push_back(request.header.type);
    Reply reply;
    reply.body = request.body;
    const bool held = request.header.type == FrameType::kRead && request.header.offset > 0;
    if (request.header.type == FrameType::kDescribe || held) {
      const bool released = co_await held_.WaitUntil(kTimeNever);
      GEMEL_CHECK(released);
    }
    if (request.header.type == FrameType::kRead) {
      reply.payload = store;
    } else if (request.header.type == FrameType::kWrite) {
      reply.status = request.payload_dropped
                         ? error::FailedPrecondition("dropped")
                         : regions.FinishPlacing(request.header, DecodeDigest(request.body.data()),
                                                 session.get());
    } else if (request.header.type == FrameType::kRevoke) {
      reply.status = error::DataLoss("chunk {} is bad", request.header.offset);
    }
    reply.handles = std::move(request.handles);
    co_return reply;
  }

  void OnSessionClosed(Session* session, const absl::Status& why) override {
    regions.AbandonLane(session);
    closed.push_back(why);
  }

  void Release() { held_.NotifyAll(); }

  RegionTable regions;
  std::vector<std::byte> store = Pattern(kChunkBytes, 7);
  int handled = 0;
  std::vector<FrameType> order;
  std::vector<absl::Status> closed;

 private:
  WaitQueue held_;
};

class SessionTest : public SocketTest, public ::testing::WithParamInterface<std::string> {
 protected:
  SessionTest() : server_(loop_.get()) {}

  void SetUp() override {
    auto listener = net_.Listen(FreshAddress(GetParam()), [this](std::unique_ptr<Connection> made) {
      serving_.push_back(Session::Start(loop_.get(), std::move(made), &server_, serving_options_));
    });
    ASSERT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
  }

  void TearDown() override {
    calling_ = nullptr;
    serving_.clear();
    Settle();
    loop_->Shutdown();
  }

  std::shared_ptr<Session> Connected() {
    auto made = Run(net_.Connect(listener_->address(), In(10s)));
    GEMEL_CHECK(made.ok()) << made.status();
    const size_t count = serving_.size();
    auto session = Session::Start(loop_.get(), *std::move(made), nullptr, Session::Options());
    GEMEL_CHECK(RunUntil([&] { return serving_.size() > count || !serving_.empty(); }));
    return session;
  }

  void Connect() { calling_ = Connected(); }

  // The server is ours, the client a raw socket.
  Descriptor ConnectRaw() {
    const size_t count = serving_.size();
    Descriptor raw = RawConnect(listener_->address());
    GEMEL_CHECK(RunUntil([&] { return serving_.size() > count; }));
    return raw;
  }

  // The client is ours, the server a raw socket.
  Descriptor CallRaw() {
    auto [connection, raw] = Pair();
    calling_ = Session::Start(loop_.get(), std::move(connection), nullptr, Session::Options());
    return std::move(raw);
  }

  static Request Ask(FrameType type, std::string body = "") {
    Request request;
    request.type = type;
    request.body = std::move(body);
    return request;
  }

  absl::StatusOr<Reply> Call(Request request, MutableByteSpan into = {}) {
    return Run(calling_->Call(std::move(request), into, In(20s)));
  }

  auto StartCall(Request request, MutableByteSpan into, TimePoint deadline) {
    return gemel::Start(loop_.get(), calling_->Call(std::move(request), into, deadline));
  }

  static Request WriteOf(const Grant& grant, uint64_t offset, ByteSpan payload) {
    Request request = Ask(FrameType::kWrite, std::string(kDigestBytes, '\0'));
    EncodeDigest(Xxh3_128(payload), request.body.data());
    request.region = grant.region;
    request.generation = grant.generation;
    request.offset = offset;
    request.payload = payload;
    return request;
  }

  static std::string ReplyWire(FrameType type, uint64_t op, std::string body,
                               ByteSpan payload = {}) {
    OutgoingFrame frame = FrameWith(type, op, std::move(body), payload);
    frame.header.flags = kFlagReply;
    return WireOf(std::move(frame));
  }

  Server server_;
  Session::Options serving_options_;
  std::unique_ptr<Listener> listener_;
  std::vector<std::shared_ptr<Session>> serving_;
  std::shared_ptr<Session> calling_;
};

INSTANTIATE_TEST_SUITE_P(Fabrics, SessionTest, ::testing::Values("unix", "tcp"),
                         [](const auto& info) { return info.param; });

TEST_P(SessionTest, RepliesMatchTheirRequests) {
  Connect();
  std::vector<std::shared_ptr<std::optional<absl::StatusOr<Reply>>>> calls;
  for (int i = 0; i < 20; ++i) {
    calls.push_back(StartCall(Ask(FrameType::kProbe, fmt::format("n{}", i)), {}, In(20s)));
  }
  ASSERT_TRUE(RunUntil([&] {
    return std::ranges::all_of(calls, [](const auto& call) { return call->has_value(); });
  }));
  for (int i = 0; i < 20; ++i) {
    const absl::StatusOr<Reply>& reply = **calls[static_cast<size_t>(i)];
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_EQ(reply->body, fmt::format("n{}", i));
  }
}

TEST_P(SessionTest, ErrorOfThePeerArrivesWithCodeAndMessage) {
  Connect();
  Request request = Ask(FrameType::kRevoke);
  request.offset = 12;
  const absl::Status status = Call(std::move(request)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(MessageOf(status), "chunk 12 is bad");
}

TEST_P(SessionTest, ReplyPayloadIsPlacedWhereTheCallerSaid) {
  Connect();
  std::vector<std::byte> into(kChunkBytes + 10);
  const absl::StatusOr<Reply> reply = Call(Ask(FrameType::kRead), into);
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->payload.data(), into.data());
  EXPECT_TRUE(SameBytes(reply->payload, server_.store));
}

TEST_P(SessionTest, LargeWritesArePlacedVerifiedAndClosedComplete) {
  Connect();
  const std::vector<std::byte> content = Pattern(8 * kChunkBytes + 77);
  std::vector<std::byte> memory(content.size());
  const Grant grant = server_.regions.Open({memory}, memory.size(), Incarnation());
  std::vector<std::shared_ptr<std::optional<absl::StatusOr<Reply>>>> calls;
  for (uint64_t at = 0; at < content.size(); at += kChunkBytes) {
    const ByteSpan piece = ByteSpan(content).subspan(at);
    const ByteSpan chunk = piece.first(std::min<size_t>(piece.size(), kChunkBytes));
    calls.push_back(StartCall(WriteOf(grant, at, chunk), {}, In(20s)));
  }
  ASSERT_TRUE(RunUntil([&] {
    return std::ranges::all_of(calls, [](const auto& call) { return call->has_value(); });
  }));
  for (const auto& call : calls) {
    EXPECT_TRUE((*call)->ok()) << (*call)->status();
  }
  EXPECT_TRUE(SameBytes(memory, content));
  EXPECT_TRUE(server_.regions.Close(grant.region, grant.generation)->complete);
}

TEST_P(SessionTest, RepliesMayComeInAnyOrder) {
  const Descriptor raw = CallRaw();
  std::vector<std::shared_ptr<std::optional<absl::StatusOr<Reply>>>> calls;
  for (int i = 0; i < 6; ++i) {
    calls.push_back(StartCall(Ask(FrameType::kProbe), {}, In(20s)));
  }
  Settle();
  for (const uint64_t op : {3, 4, 99, 3, 1, 6, 5, 2}) {  // one that nobody asked, one twice
    RawSend(raw, ReplyWire(FrameType::kProbe, op, fmt::format("reply {}", op)));
    Settle();
  }
  for (size_t i = 0; i < calls.size(); ++i) {
    ASSERT_TRUE(calls[i]->has_value()) << i;
    ASSERT_TRUE((*calls[i])->ok()) << (*calls[i])->status();
    EXPECT_EQ((**calls[i])->body, fmt::format("reply {}", i + 1));
  }
}

TEST_P(SessionTest, ASmallRequestDoesNotOvertakeALargeOneBeforeIt) {
  Connect();
  const std::vector<std::byte> content = Pattern(kChunkBytes);
  std::vector<std::byte> memory(content.size());
  const Grant grant = server_.regions.Open({memory}, memory.size(), Incarnation());
  auto large = StartCall(WriteOf(grant, 0, content), {}, In(20s));
  auto small = StartCall(Ask(FrameType::kProbe), {}, In(20s));
  ASSERT_TRUE(RunUntil([&] { return large->has_value() && small->has_value(); }));
  EXPECT_EQ(server_.order, (std::vector{FrameType::kWrite, FrameType::kProbe}));
}

TEST_P(SessionTest, WrongDigestIsDataLossAndTheNextTryPasses) {
  Connect();
  const std::vector<std::byte> content = Pattern(5000);
  std::vector<std::byte> memory(content.size());
  const Grant grant = server_.regions.Open({memory}, memory.size(), Incarnation());
  Request bad = WriteOf(grant, 0, content);
  bad.body[3] ^= 1;
  EXPECT_EQ(Call(std::move(bad)).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(server_.regions.corrupt_slices(), 1U);
  EXPECT_TRUE(Call(WriteOf(grant, 0, content)).ok());
}

TEST_P(SessionTest, OfTwoSessionsRacingForOneSliceOnePlacesIt) {
  Connect();
  auto other = Connected();
  ASSERT_TRUE(RunUntil([this] { return serving_.size() == 2; }));
  const std::vector<std::byte> content = Pattern(kChunkBytes);
  std::vector<std::byte> memory(content.size());
  const Grant grant = server_.regions.Open({memory}, memory.size(), Incarnation());
  auto one = StartCall(WriteOf(grant, 0, content), {}, In(20s));
  auto two = gemel::Start(loop_.get(), other->Call(WriteOf(grant, 0, content), {}, In(20s)));
  ASSERT_TRUE(RunUntil([&] { return one->has_value() && two->has_value(); }));
  EXPECT_NE((*one)->ok(), (*two)->ok());
  const auto closed = server_.regions.Close(grant.region, grant.generation);
  EXPECT_TRUE(closed->complete);
  EXPECT_EQ(closed->digests[0], Xxh3_128(content));
}

TEST_P(SessionTest, RegionClosedInTheMiddleOfAPayloadIsNotWrittenAfterwards) {
  const Descriptor raw = ConnectRaw();
  const std::vector<std::byte> content = Pattern(20000);
  std::vector<std::byte> memory(content.size());
  const Grant grant = server_.regions.Open({memory}, memory.size(), Incarnation());
  OutgoingFrame frame = FrameWith(FrameType::kWrite, 1, std::string(kDigestBytes, 'x'), content);
  frame.header.region = grant.region;
  frame.header.generation = grant.generation;
  const std::string wire = WireOf(std::move(frame));
  RawSend(raw, wire.substr(0, 5000));
  ASSERT_TRUE(RunUntil([&] { return memory[4000] == content[4000]; }));
  ASSERT_TRUE(server_.regions.Close(grant.region, grant.generation).ok());
  std::fill(memory.begin(), memory.end(), std::byte{0});
  RawSend(raw, wire.substr(5000));
  ASSERT_TRUE(RunUntil([&] { return server_.handled == 1; }));
  EXPECT_TRUE(std::ranges::all_of(memory, [](std::byte b) { return b == std::byte{0}; }));
}

TEST_P(SessionTest, SliceOfAPeerThatDiesInTheMiddleIsFreeAgain) {
  Descriptor raw = ConnectRaw();
  std::vector<std::byte> memory(20000);
  const Grant grant = server_.regions.Open({memory}, memory.size(), Incarnation());
  OutgoingFrame frame = FrameWith(FrameType::kWrite, 1, "", memory);
  frame.header.region = grant.region;
  frame.header.generation = grant.generation;
  RawSend(raw, WireOf(std::move(frame)).substr(0, 5000));
  ASSERT_TRUE(
      RunUntil([&] { return *server_.regions.StateOf(grant.region, 0) == SliceState::kPlacing; }));
  RawClose(&raw);
  ASSERT_TRUE(RunUntil([&] { return !server_.closed.empty(); }));
  EXPECT_EQ(*server_.regions.StateOf(grant.region, 0), SliceState::kEmpty);
  EXPECT_THAT(std::string(MessageOf(server_.closed[0])), HasSubstr("cut inside a frame"));
}

TEST_P(SessionTest, GarbageClosesThatConnectionOnly) {
  Connect();
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const size_t before = server_.closed.size();
    const Descriptor raw = ConnectRaw();
    const std::vector<std::byte> garbage = Pattern(64 + seed * 37, seed);
    RawSend(raw, AsText(garbage));
    ASSERT_TRUE(RunUntil([&] { return server_.closed.size() > before; }));
    EXPECT_EQ(server_.closed.back().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_TRUE(Call(Ask(FrameType::kProbe, "still here")).ok());
}

TEST_P(SessionTest, DeadlineEndsACallAndItsLateReplyIsDropped) {
  Connect();
  std::vector<std::byte> into(kChunkBytes);
  auto late = StartCall(Ask(FrameType::kDescribe), into, In(5ms));
  ASSERT_TRUE(RunUntil([&] { return late->has_value(); }));
  EXPECT_EQ((*late)->status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(calling_->open());
  server_.Release();
  EXPECT_TRUE(Call(Ask(FrameType::kProbe)).ok());
}

TEST_P(SessionTest, LateReplyPayloadDoesNotTouchTheBuffer) {
  const Descriptor raw = CallRaw();
  std::vector<std::byte> into(10000);
  auto call = StartCall(Ask(FrameType::kRead), into, In(20ms));
  const std::vector<std::byte> payload = Pattern(into.size());
  const std::string wire = ReplyWire(FrameType::kRead, 1, "", payload);
  Settle();
  // Half of it arrives in time.
  RawSend(raw, wire.substr(0, 4000));
  ASSERT_TRUE(RunUntil([&] { return call->has_value(); }));
  EXPECT_EQ((*call)->status().code(), absl::StatusCode::kDeadlineExceeded);
  std::fill(into.begin(), into.end(), std::byte{0});
  auto next = StartCall(Ask(FrameType::kProbe), {}, In(20s));
  Settle();
  RawSend(raw, wire.substr(4000));
  RawSend(raw, ReplyWire(FrameType::kProbe, 2, "next"));
  ASSERT_TRUE(RunUntil([&] { return next->has_value(); }));
  EXPECT_EQ((**next)->body, "next");
  EXPECT_TRUE(std::ranges::all_of(into, [](std::byte b) { return b == std::byte{0}; }));
}

TEST_P(SessionTest, DuplicateAndUnknownRepliesAreIgnored) {
  const Descriptor raw = CallRaw();
  std::vector<std::byte> into(100);
  const std::vector<std::byte> first = Pattern(100, 1);
  const std::vector<std::byte> second = Pattern(100, 2);
  auto call = StartCall(Ask(FrameType::kRead), into, In(20s));
  Settle();
  RawSend(raw, ReplyWire(FrameType::kRead, 99, "unknown", second) +
                   ReplyWire(FrameType::kRead, 1, "first", first) +
                   ReplyWire(FrameType::kRead, 1, "second", second));
  ASSERT_TRUE(RunUntil([&] { return call->has_value(); }));
  ASSERT_TRUE((*call)->ok());
  EXPECT_EQ((**call)->body, "first");
  RawSend(raw, ReplyWire(FrameType::kRead, 1, "third", second));
  Settle();
  EXPECT_TRUE(SameBytes(into, first));
  EXPECT_TRUE(calling_->open());
}

TEST_P(SessionTest, ReplyLongerThanItsBufferClosesTheSession) {
  const Descriptor raw = CallRaw();
  std::vector<std::byte> into(100);
  auto call = StartCall(Ask(FrameType::kRead), MutableByteSpan(into).first(50), In(20s));
  Settle();
  const std::vector<std::byte> payload = Pattern(51);
  RawSend(raw, ReplyWire(FrameType::kRead, 1, "", payload));
  ASSERT_TRUE(RunUntil([&] { return call->has_value(); }));
  EXPECT_EQ((*call)->status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(MessageOf((*call)->status())), HasSubstr("51 bytes where 50"));
  EXPECT_FALSE(calling_->open());
}

TEST_P(SessionTest, ReplyOfAnotherTypeClosesTheSession) {
  const Descriptor raw = CallRaw();
  auto call = StartCall(Ask(FrameType::kRead), {}, In(20s));
  Settle();
  RawSend(raw, ReplyWire(FrameType::kProbe, 1, ""));
  ASSERT_TRUE(RunUntil([&] { return call->has_value(); }));
  EXPECT_FALSE(calling_->open());
}

// A read whose answer waits for Release().
struct HeldRead {
  explicit HeldRead(size_t bytes) : into(bytes) {
    request.type = FrameType::kRead;
    request.offset = 1;
    request.stop = stop;
  }

  bool Untouched() const {
    return std::ranges::all_of(into, [](std::byte b) { return b == std::byte{0}; });
  }

  std::vector<std::byte> into;
  std::shared_ptr<CallStop> stop = std::make_shared<CallStop>();
  Request request;
};

TEST_P(SessionTest, AReadThatIsStoppedIsAnsweredShortAndTheSessionLives) {
  Connect();
  calling_->SetPeerCancels();
  HeldRead read(kChunkBytes);
  auto call = StartCall(std::move(read.request), read.into, In(20s));
  ASSERT_TRUE(RunUntil([&] { return server_.handled == 1; }));
  read.stop->Stop();
  Settle();
  EXPECT_FALSE(call->has_value()) << "the peer has still to do with it";
  server_.Release();
  ASSERT_TRUE(RunUntil([&] { return call->has_value(); }));
  EXPECT_EQ((*call)->status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(read.stop->wasted_bytes(), 0U);
  EXPECT_TRUE(read.Untouched());
  EXPECT_TRUE(calling_->open());
  EXPECT_TRUE(Call(Ask(FrameType::kProbe)).ok());
}

TEST_P(SessionTest, APeerThatIsNotToldOfAStopSendsItsAnswerForNothing) {
  Connect();
  HeldRead read(kChunkBytes);
  auto call = StartCall(std::move(read.request), read.into, In(20s));
  ASSERT_TRUE(RunUntil([&] { return server_.handled == 1; }));
  read.stop->Stop();
  server_.Release();
  ASSERT_TRUE(RunUntil([&] { return call->has_value(); }));
  EXPECT_EQ((*call)->status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(read.stop->wasted_bytes(), kChunkBytes);
  EXPECT_TRUE(read.Untouched());
  EXPECT_TRUE(Call(Ask(FrameType::kProbe)).ok());
}

TEST_P(SessionTest, AStopInTheMiddleOfAPayloadIsAFence) {
  const Descriptor raw = CallRaw();
  HeldRead read(10000);
  auto call = StartCall(std::move(read.request), read.into, In(20s));
  const std::vector<std::byte> payload = Pattern(read.into.size());
  const std::string wire = ReplyWire(FrameType::kRead, 1, "", payload);
  Settle();
  RawSend(raw, wire.substr(0, 4000));
  ASSERT_TRUE(RunUntil([&] { return read.into[3000] == payload[3000]; }));
  read.stop->Stop();
  std::fill(read.into.begin(), read.into.end(), std::byte{0});
  RawSend(raw, wire.substr(4000));
  ASSERT_TRUE(RunUntil([&] { return call->has_value(); }));
  EXPECT_EQ((*call)->status().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(read.Untouched());
  EXPECT_EQ(read.stop->wasted_bytes(), payload.size());
  EXPECT_TRUE(calling_->open());
}

TEST_P(SessionTest, AStoppedReadEndsAtItsDeadlineWhenThePeerSaysNothing) {
  Connect();
  calling_->SetPeerCancels();
  HeldRead read(100);
  auto call = StartCall(std::move(read.request), read.into, In(30ms));
  ASSERT_TRUE(RunUntil([&] { return server_.handled == 1; }));
  read.stop->Stop();
  ASSERT_TRUE(RunUntil([&] { return call->has_value(); }));
  EXPECT_EQ((*call)->status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(calling_->open());
  server_.Release();
  Settle();
}

TEST_P(SessionTest, ARequestThatIsStoppedBeforeItLeavesIsNotSent) {
  const Descriptor raw = CallRaw();  // reads nothing yet
  const std::vector<std::byte> payload = Pattern(kChunkBytes);
  Request before = Ask(FrameType::kWrite);
  before.payload = payload;
  auto first = StartCall(std::move(before), {}, In(20s));
  HeldRead read(100);
  auto call = StartCall(std::move(read.request), read.into, In(20s));
  Settle();
  read.stop->Stop();
  std::string drain(2 * kChunkBytes, '\0');
  size_t drained = 0;
  for (const TimePoint end = In(20s); !call->has_value() && loop_->Now() < end;) {
    const ssize_t some = recv(raw.get(), drain.data(), drain.size(), MSG_DONTWAIT);
    drained += some > 0 ? static_cast<size_t>(some) : 0;
    Settle();
  }
  EXPECT_EQ((*call)->status().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(calling_->open());
  for (const TimePoint end = In(20s);
       drained < kFrameHeaderBytes + kChunkBytes && loop_->Now() < end;) {
    const ssize_t some = recv(raw.get(), drain.data(), drain.size(), MSG_DONTWAIT);
    drained += some > 0 ? static_cast<size_t>(some) : 0;
    Settle();
  }
  EXPECT_EQ(recv(raw.get(), drain.data(), drain.size(), MSG_DONTWAIT), -1) << "nothing follows";
  RawSend(raw, ReplyWire(FrameType::kWrite, 1, "done"));
  ASSERT_TRUE(RunUntil([&] { return first->has_value(); }));
  EXPECT_TRUE((*first)->ok());
}

TEST_P(SessionTest, ACallThatWasStoppedBeforeSendsNothing) {
  Connect();
  HeldRead read(100);
  read.stop->Stop();
  EXPECT_EQ(Call(std::move(read.request), read.into).status().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(Call(Ask(FrameType::kProbe)).ok());
  EXPECT_EQ(server_.handled, 1);
}

TEST_P(SessionTest, AStopAfterTheAnswerChangesNothing) {
  Connect();
  calling_->SetPeerCancels();
  std::vector<std::byte> into(kChunkBytes);
  Request request = Ask(FrameType::kRead);
  const auto stop = std::make_shared<CallStop>();
  request.stop = stop;
  ASSERT_TRUE(Call(std::move(request), into).ok());
  stop->Stop();
  EXPECT_TRUE(SameBytes(into, server_.store));
  EXPECT_TRUE(Call(Ask(FrameType::kProbe)).ok());
}

TEST_P(SessionTest, OnlyReadsAreCancelled) {
  const Descriptor raw = ConnectRaw();
  RawSend(raw, WireOf(FrameWith(FrameType::kDescribe, 1, "asked")));
  RawSend(raw, WireOf(FrameWith(FrameType::kCancel, 1)));
  RawSend(raw, WireOf(FrameWith(FrameType::kCancel, 77, "of nobody")));
  ASSERT_TRUE(RunUntil([&] { return server_.handled == 1; }));
  Settle();
  server_.Release();
  std::string answer(kFrameHeaderBytes + 5, '\0');
  size_t got = 0;
  for (const TimePoint end = In(20s); got < answer.size() && loop_->Now() < end;) {
    const ssize_t some = recv(raw.get(), answer.data() + got, answer.size() - got, MSG_DONTWAIT);
    got += some > 0 ? static_cast<size_t>(some) : 0;
    Settle();
  }
  EXPECT_EQ(answer.substr(kFrameHeaderBytes), "asked");
  EXPECT_TRUE(serving_[0]->open());
}

TEST_P(SessionTest, AnAnswerThatHasNotBegunToLeaveIsDropped) {
  constexpr uint64_t kReads = 40;  // more than the socket takes
  const Descriptor raw = ConnectRaw();
  for (uint64_t op = 1; op <= kReads; ++op) {
    RawSend(raw, WireOf(FrameWith(FrameType::kRead, op)));
  }
  ASSERT_TRUE(RunUntil([&] { return server_.handled == static_cast<int>(kReads); }));
  Settle();
  RawSend(raw, WireOf(FrameWith(FrameType::kCancel, kReads)));
  Settle();
  std::string answers;
  std::string some(kChunkBytes, '\0');
  for (const TimePoint end = In(20s); loop_->Now() < end;) {
    const ssize_t got = recv(raw.get(), some.data(), some.size(), MSG_DONTWAIT);
    answers.append(some, 0, got > 0 ? static_cast<size_t>(got) : 0);
    Settle();
    const auto last = answers.size() < kFrameHeaderBytes ? 0 : answers.size() - kFrameHeaderBytes;
    if (answers.size() > (kReads - 1) * (kChunkBytes + kFrameHeaderBytes) && last > 0) {
      break;
    }
  }
  const std::string_view end = std::string_view(answers).substr(
      (kReads - 1) * (kChunkBytes + kFrameHeaderBytes), kFrameHeaderBytes);
  const auto header = DecodeFrameHeader(AsBytes(end));
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->op, kReads);
  EXPECT_EQ(header->payload_bytes, 0U);
  EXPECT_EQ(header->status, static_cast<uint32_t>(absl::StatusCode::kCancelled));
}

TEST_P(SessionTest, DeadlineBeforeTheRequestIsSentClosesTheConnection) {
  const Descriptor raw = CallRaw();  // reads nothing
  const std::vector<std::byte> payload = Pattern(kChunkBytes);
  Request request = Ask(FrameType::kWrite);
  request.payload = payload;
  auto call = StartCall(std::move(request), {}, In(20ms));
  ASSERT_TRUE(RunUntil([&] { return call->has_value(); }));
  EXPECT_EQ((*call)->status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_FALSE(calling_->open());
}

TEST_P(SessionTest, ReplyThatOvertakesItsRequestWaitsUntilTheSourceIsFree) {
  const Descriptor raw = CallRaw();
  const std::vector<std::byte> payload = Pattern(kChunkBytes);
  Request request = Ask(FrameType::kWrite);
  request.payload = payload;
  auto call = StartCall(std::move(request), {}, In(20s));
  Settle();
  RawSend(raw, ReplyWire(FrameType::kWrite, 1, "early"));
  Settle();
  EXPECT_FALSE(call->has_value());
  std::string drain(kChunkBytes + kFrameHeaderBytes, '\0');
  size_t drained = 0;
  for (const TimePoint end = In(20s); drained < drain.size() && loop_->Now() < end;) {
    const ssize_t some = recv(raw.get(), drain.data(), drain.size() - drained, MSG_DONTWAIT);
    drained += some > 0 ? static_cast<size_t>(some) : 0;
    Settle();
  }
  ASSERT_TRUE(RunUntil([&] { return call->has_value(); }));
  EXPECT_TRUE((*call)->ok());
}

TEST_P(SessionTest, DeadlineThatHasPassedSendsNothing) {
  Connect();
  const auto late = Run(calling_->Call(Ask(FrameType::kProbe), {}, loop_->Now()));
  EXPECT_EQ(late.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(calling_->open());
  EXPECT_TRUE(Call(Ask(FrameType::kProbe)).ok());
  EXPECT_EQ(server_.handled, 1);
}

TEST_P(SessionTest, RequestOverTheLimitsIsRefusedAndTheSessionLives) {
  Connect();
  EXPECT_EQ(Call(Ask(FrameType::kProbe, std::string(kFrameBodyBytesMax + 1, 'x'))).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Call(Ask(FrameType::kProbe)).ok());
}

TEST_P(SessionTest, RequestsOverTheBoundAreAnsweredAtOnceAndPlaceNothing) {
  serving_options_.requests_in_flight_max = 2;
  Connect();
  auto one = StartCall(Ask(FrameType::kDescribe), {}, In(20s));
  auto two = StartCall(Ask(FrameType::kDescribe), {}, In(20s));
  const std::vector<std::byte> content = Pattern(5000);
  std::vector<std::byte> memory(content.size());
  const Grant grant = server_.regions.Open({memory}, memory.size(), Incarnation());
  EXPECT_EQ(Call(WriteOf(grant, 0, content)).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(*server_.regions.StateOf(grant.region, 0), SliceState::kEmpty);
  EXPECT_FALSE(one->has_value());
  server_.Release();
  ASSERT_TRUE(RunUntil([&] { return one->has_value() && two->has_value(); }));
  EXPECT_TRUE((*one)->ok() && (*two)->ok());
  EXPECT_TRUE(Call(WriteOf(grant, 0, content)).ok());
}

TEST_P(SessionTest, BurstOfRequestsIsBoundedFromTheFirstByte) {
  serving_options_.requests_in_flight_max = 3;
  const Descriptor raw = ConnectRaw();
  std::string burst;
  for (uint64_t op = 1; op <= 50; ++op) {
    burst += WireOf(FrameWith(FrameType::kDescribe, op));
  }
  RawSend(raw, burst);
  ASSERT_TRUE(RunUntil([&] { return server_.handled == 3; }));
  Settle();
  EXPECT_EQ(server_.handled, 3);
  EXPECT_TRUE(serving_[0]->open());
  server_.Release();
  Settle();
}

TEST_P(SessionTest, PeerThatNeverReadsItsRefusalsIsClosed) {
  serving_options_.requests_in_flight_max = 1;
  const Descriptor raw = ConnectRaw();
  std::string requests;
  for (int i = 0; i < 1000; ++i) {
    requests += WireOf(FrameWith(FrameType::kDescribe, 1));
  }
  size_t at = 0;
  for (const TimePoint end = In(20s); server_.closed.empty() && loop_->Now() < end;) {
    const ssize_t sent =
        send(raw.get(), requests.data() + at, requests.size() - at, MSG_NOSIGNAL | MSG_DONTWAIT);
    at = (at + (sent > 0 ? static_cast<size_t>(sent) : 0)) % requests.size();
    Settle();
  }
  ASSERT_FALSE(server_.closed.empty());
  EXPECT_EQ(server_.closed[0].code(), absl::StatusCode::kResourceExhausted);
  server_.Release();
  Settle();
}

TEST_P(SessionTest, CloseEndsCallsInFlightWithItsReason) {
  Connect();
  auto call = StartCall(Ask(FrameType::kDescribe), {}, In(20s));
  Settle();
  calling_->Close(error::Cancelled("going down"));
  ASSERT_TRUE(RunUntil([&] { return call->has_value(); }));
  EXPECT_EQ((*call)->status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(MessageOf((*call)->status())), HasSubstr("going down"));
  EXPECT_EQ(Call(Ask(FrameType::kProbe)).status().code(), absl::StatusCode::kUnavailable);
  ASSERT_TRUE(RunUntil([&] { return server_.closed.size() == 1; }));
  server_.Release();
  Settle();
}

TEST_P(SessionTest, DeathOfThePeerEndsCallsAndTellsTheHandlerOnce) {
  Connect();
  auto call = StartCall(Ask(FrameType::kDescribe), {}, In(20s));
  ASSERT_TRUE(RunUntil([this] { return server_.handled == 1; }));
  serving_[0]->Close(error::Internal("killed"));
  ASSERT_TRUE(RunUntil([&] { return call->has_value(); }));
  EXPECT_EQ((*call)->status().code(), absl::StatusCode::kUnavailable);
  Settle();
  EXPECT_EQ(server_.closed.size(), 1U);
  server_.Release();  // its answer goes nowhere, and nothing breaks
  Settle();
}

TEST_P(SessionTest, PureCallerRefusesRequests) {
  Connect();
  const auto reply = Run(serving_[0]->Call(Ask(FrameType::kProbe), {}, In(20s)));
  EXPECT_EQ(reply.status().code(), absl::StatusCode::kUnimplemented);
}

TEST_P(SessionTest, DetachedHandlerIsNotCalledAgain) {
  Connect();
  ASSERT_TRUE(Call(Ask(FrameType::kProbe)).ok());
  serving_[0]->Detach();
  EXPECT_EQ(Call(Ask(FrameType::kProbe)).status().code(), absl::StatusCode::kUnimplemented);
  calling_->Close(error::Cancelled("enough"));
  ASSERT_TRUE(RunUntil([this] { return !serving_[0]->open(); }));
  EXPECT_EQ(server_.handled, 1);
  EXPECT_TRUE(server_.closed.empty());
}

TEST_P(SessionTest, HandlesPassBothWaysOverUnixOnly) {
  Connect();
  const size_t before = OpenDescriptors();
  Request request = Ask(FrameType::kProbe);
  request.handles.push_back(std::make_shared<DescriptorHandle>(Descriptor(dup(STDERR_FILENO))));
  {
    const absl::StatusOr<Reply> reply = Call(std::move(request));
    if (GetParam() == "tcp") {
      EXPECT_FALSE(reply.ok());
      return;
    }
    ASSERT_TRUE(reply.ok()) << reply.status();
    ASSERT_EQ(reply->handles.size(), 1U);
  }
  Settle();
  EXPECT_EQ(OpenDescriptors(), before);
}

TEST_P(SessionTest, NothingIsLeftOpenAfterManySessions) {
  Connect();
  const size_t before = OpenDescriptors();
  for (int i = 0; i < 20; ++i) {
    auto session = Connected();
    ASSERT_TRUE(RunUntil([this] { return serving_.size() == 2; }));
    session->Close(error::Cancelled("enough"));
    ASSERT_TRUE(RunUntil([this] { return !serving_[1]->open(); }));
    serving_.pop_back();
  }
  Settle();
  EXPECT_EQ(OpenDescriptors(), before);
}

}  // namespace
}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// Session, as it is, on the simulated fabric.
#include <cstring>

#include "tests/unit/sim_fabric_nodes.h"
#include "transport/session.h"

namespace gemel::testing {
namespace {

// Answers kRead with its bytes, kProbe with its body, and waits for ever on kDescribe.
class Answerer final : public SessionHandler {
 public:
  explicit Answerer(Loop* loop) : never_(loop) {}

  Placement PlaceRequestPayload(Session* /*session*/, const FrameHeader& header,
                                std::string_view /*body*/) override {
    return Placement{MutableByteSpan(store).first(header.payload_bytes)};
  }

  Task<Reply> Handle(std::shared_ptr<Session> session, IncomingRequest request) override {
    handled += 1;
    Reply reply;
    if (request.header.type == FrameType::kDescribe) {
      co_await never_.WaitUntil(Add(never_.loop()->Now(), 30s));
    }
    if (request.header.type == FrameType::kRead) {
      reply.payload = store;
    }
    if (!session->open()) {
      reply.status = error::Cancelled("the session is closed");
    }
    reply.body = request.body;
    co_return reply;
  }

  void OnSessionClosed(Session* /*session*/, const absl::Status& /*why*/) override { closed += 1; }

  std::vector<std::byte> store = std::vector<std::byte>(kChunkBytes);
  int handled = 0;
  int closed = 0;

 private:
  WaitQueue never_;
};

class SimSession : public ::testing::Test {
 protected:
  void SetUp() override {
    listener_ = *b_.net.Listen("sim://b/1", [this](std::unique_ptr<Connection> connection) {
      serving_ = Session::Start(&b_.loop, std::move(connection), &answerer_, Session::Options());
    });
    auto made = a_.Run(a_.net.Connect("sim://b/1", world_.In(1s)));
    ASSERT_TRUE(made.ok());
    calling_ = Session::Start(&a_.loop, *std::move(made), nullptr, Session::Options());
    ASSERT_TRUE(world_.RunUntil([this] { return serving_ != nullptr; }));
  }

  void TearDown() override {
    a_.Kill();
    b_.Kill();
  }

  absl::StatusOr<Reply> Call(FrameType type, std::string body, Duration timeout = 1s,
                             MutableByteSpan into = {}) {
    Request request;
    request.type = type;
    request.body = std::move(body);
    return a_.Run(calling_->Call(std::move(request), into, world_.In(timeout)));
  }

  World world_{11};
  Life a_{&world_, "a"};
  Life b_{&world_, "b"};
  Answerer answerer_{&b_.loop};
  std::unique_ptr<Listener> listener_;
  std::shared_ptr<Session> calling_;
  std::shared_ptr<Session> serving_;
};

TEST_F(SimSession, CallsAreAnswered) {
  for (int i = 0; i < 50; ++i) {
    auto reply = Call(FrameType::kProbe, std::to_string(i));
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_EQ(reply->body, std::to_string(i));
  }
  std::vector<std::byte> into(kChunkBytes);
  answerer_.store[1000] = std::byte{7};
  ASSERT_TRUE(Call(FrameType::kRead, "", 1s, into).ok());
  EXPECT_EQ(into, answerer_.store);
}

TEST_F(SimSession, ABlackholeEndsACallAtItsDeadline) {
  world_.world.PartitionOneWay({"b"}, {"a"});
  EXPECT_EQ(Call(FrameType::kProbe, "x").status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(answerer_.handled, 1) << "executed: the outcome is unknown to the caller only";
  world_.world.Heal();
  EXPECT_TRUE(Call(FrameType::kProbe, "y").ok()) << "the late reply is ignored";
}

// The other side's end is gone without a word, as behind a switch that drops the flow.
TEST_F(SimSession, ASilentConnectionIsClosedAtADeadlineWhereTheUserWantsThat) {
  Session::Options options;
  options.silence_closes = true;
  calling_ = Session::Start(&a_.loop, *a_.Run(a_.net.Connect("sim://b/1", world_.In(1s))), nullptr,
                            options);
  ASSERT_TRUE(Call(FrameType::kProbe, "w").ok());
  Request slow;
  slow.type = FrameType::kDescribe;  // never answered
  auto unanswered = std::make_shared<std::optional<absl::StatusOr<Reply>>>();
  a_.loop.Spawn(Life::Keep(calling_->Call(std::move(slow), {}, world_.In(100ms)), unanswered));
  world_.RunFor(50ms);
  ASSERT_TRUE(Call(FrameType::kProbe, "x").ok());
  world_.RunFor(100ms);
  ASSERT_TRUE(unanswered->has_value());
  EXPECT_TRUE(calling_->open()) << "something was heard since that call began";
  world_.world.PartitionOneWay({"b"}, {"a"});
  EXPECT_EQ(Call(FrameType::kProbe, "y").status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_FALSE(calling_->open());
}

TEST_F(SimSession, AKilledPeerEndsCallsWithUnavailable) {
  Request request;
  request.type = FrameType::kDescribe;
  auto result = std::make_shared<std::optional<absl::StatusOr<Reply>>>();
  a_.loop.Spawn(Life::Keep(calling_->Call(std::move(request), {}, world_.In(60s)), result));
  world_.RunFor(100ms);
  ASSERT_EQ(answerer_.handled, 1);
  b_.Kill();
  ASSERT_TRUE(world_.RunUntil([&] { return result->has_value(); }, 1s));
  EXPECT_EQ((*result)->status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(answerer_.closed, 0);
}

TEST_F(SimSession, DuplicatedAndLateFramesAreAnsweredOnceToTheCaller) {
  LinkFaults faults;
  faults.duplicate_ppm = 500'000;
  faults.late_write_ppm = 500'000;
  faults.late_max = 10ms;
  world_.world.SetLink("a", "b", faults);
  world_.world.SetLink("b", "a", faults);
  std::vector<std::byte> payload(5000, std::byte{3});
  for (int i = 0; i < 50; ++i) {
    Request request;
    request.type = FrameType::kWrite;
    request.body = std::to_string(i);
    request.payload = payload;
    auto reply = a_.Run(calling_->Call(std::move(request), {}, world_.In(1s)));
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_EQ(reply->body, std::to_string(i));
  }
  world_.RunFor(1s);
  EXPECT_GT(answerer_.handled, 70);
  EXPECT_TRUE(calling_->open() && serving_->open());
}

TEST_F(SimSession, ResetsEndEveryCall) {
  world_.world.Faults("a", "b").reset_ppm = 200'000;
  int answered = 0;
  while (calling_->open()) {
    answered += Call(FrameType::kProbe, "x").ok() ? 1 : 0;
    ASSERT_LT(answered, 1000);
  }
  EXPECT_EQ(Call(FrameType::kProbe, "x").status().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(world_.RunUntil([&] { return answerer_.closed == 1; }, 1s));
}

}  // namespace
}  // namespace gemel::testing

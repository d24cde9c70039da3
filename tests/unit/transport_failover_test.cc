// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include <optional>

#include "common/sim_loop.h"
#include "common/sync.h"
#include "transport/control/failover_channel.h"

namespace gemel {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Reply = absl::StatusOr<std::string>;

// A placement as a caller sees it.
class Scripted final : public RpcChannel {
 public:
  Scripted(Loop* loop, std::string address) : loop_(loop), address_(std::move(address)) {}

  Task<Reply> Call(std::string method, std::string, TimePoint deadline) override {
    calls += 1;
    if (silent) {
      co_await loop_->SleepUntil(deadline);
      co_return error::DeadlineExceeded("{} at {}", method, address_);
    }
    co_await loop_->Sleep(1ms);
    co_return answer;
  }

  std::string address() const override { return address_; }

  Reply answer = StandsBy("stands by");
  bool silent = false;
  int calls = 0;

 private:
  Loop* const loop_;
  const std::string address_;
};

class Failover : public ::testing::Test {
 protected:
  void SetUp() override {
    std::vector<std::unique_ptr<RpcChannel>> channels;
    for (int i = 0; i < 3; ++i) {
      auto channel = std::make_unique<Scripted>(&loop, "p" + std::to_string(i));
      placements.push_back(channel.get());
      channels.push_back(std::move(channel));
    }
    channel = std::make_unique<FailoverChannel>(&loop, std::move(channels));
  }

  ~Failover() override { loop.Kill(); }

  static Task<void> Into(FailoverChannel* channel, TimePoint deadline, std::optional<Reply>* out) {
    Reply reply = co_await channel->Call("Ask", "", deadline);
    out->emplace(std::move(reply));
  }

  void Begin(Duration within, std::optional<Reply>* out) {
    loop.Spawn(Into(channel.get(), Add(scheduler.now(), within), out));
  }

  Reply Ask(Duration within = 1s) {
    std::optional<Reply> reply;
    Begin(within, &reply);
    EXPECT_TRUE(scheduler.RunUntil([&] { return reply.has_value(); }, Add(scheduler.now(), 10s)));
    return *reply;
  }

  SimScheduler scheduler;
  SimLoop loop{&scheduler};
  std::vector<Scripted*> placements;
  std::unique_ptr<FailoverChannel> channel;
};

TEST_F(Failover, TheLeaderIsFoundWithinOneCallAndKept) {
  placements[2]->answer = "yes";
  EXPECT_EQ(*Ask(), "yes");
  EXPECT_EQ(*Ask(), "yes");
  EXPECT_EQ(placements[0]->calls + placements[1]->calls, 2);
  EXPECT_EQ(placements[2]->calls, 2);
}

TEST_F(Failover, WhereNobodyLeadsItSaysWhatEachSaid) {
  const Reply reply = Ask();
  EXPECT_EQ(reply.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(reply.status().ToString(),
              HasSubstr("does not lead: stands by; does not lead: stands by"));
}

TEST_F(Failover, AnUnknownOutcomeIsNeverReissuedAndTheNextCallGoesElsewhere) {
  placements[0]->answer = error::Unavailable("connection reset");
  placements[1]->answer = "yes";
  EXPECT_EQ(Ask().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(placements[1]->calls, 0);
  EXPECT_EQ(*Ask(), "yes");
}

TEST_F(Failover, WhereNobodyAnswersTheNextIsAskedAtOnce) {
  placements[0]->answer = NotExecuted(error::Unavailable("nobody answers at p0"));
  placements[2]->answer = "yes";
  EXPECT_EQ(*Ask(), "yes");
  placements[2]->answer = NotExecuted(error::Unavailable("nobody answers at p2"));
  const Reply reply = Ask();
  EXPECT_EQ(reply.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(WasNotExecuted(reply.status())) << "others were asked: the mark is not passed on";
  EXPECT_THAT(reply.status().ToString(), HasSubstr("nobody answers at p0"));
}

TEST_F(Failover, AHandlersErrorIsAnAnswerOfTheLeader) {
  placements[0]->answer = error::FailedPrecondition("superseded");
  EXPECT_EQ(Ask().status().code(), absl::StatusCode::kFailedPrecondition);
  placements[0]->answer = error::Aborted("the save was aborted");
  EXPECT_EQ(Ask().status().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(placements[0]->calls, 2);
}

TEST_F(Failover, ALongPollAtALeaderThatHangsEndsWhenAnotherLeads) {
  placements[0]->silent = true;
  placements[1]->answer = "yes";
  std::optional<Reply> poll;
  Begin(60s, &poll);
  EXPECT_EQ(Ask(200ms).status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_FALSE(poll.has_value()) << "nobody else leads yet";
  EXPECT_EQ(*Ask(), "yes");
  ASSERT_TRUE(scheduler.RunUntil([&] { return poll.has_value(); }, Add(scheduler.now(), 1s)));
  EXPECT_EQ(poll->status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(poll->status().ToString(), HasSubstr("p1 leads now"));
}

TEST_F(Failover, AStandbysRefusalEndsNoCallAtTheLeader) {
  placements[0]->silent = true;
  std::optional<Reply> poll;
  Begin(2s, &poll);
  EXPECT_FALSE(Ask(200ms).ok());
  EXPECT_FALSE(Ask(200ms).ok());
  EXPECT_FALSE(poll.has_value());
}

TEST_F(Failover, CallsUnderWayAreCancelledWithTheChannel) {
  placements[0]->silent = true;
  std::optional<Reply> poll;
  Begin(60s, &poll);
  scheduler.RunUntil([] { return false; }, Add(scheduler.now(), 10ms));
  channel.reset();
  ASSERT_TRUE(scheduler.RunUntil([&] { return poll.has_value(); }, Add(scheduler.now(), 1s)));
  EXPECT_EQ(poll->status().code(), absl::StatusCode::kCancelled);
}

TEST(SplitAddresses, ByCommasWithoutEmptyOnes) {
  EXPECT_THAT(*SplitAddresses("a:1"), ElementsAre("a:1"));
  EXPECT_THAT(*SplitAddresses("a:1,b:2,c:3"), ElementsAre("a:1", "b:2", "c:3"));
  for (const char* wrong : {"", "a:1,", ",a:1", "a:1,,b:2", "a:1, b:2"}) {
    EXPECT_EQ(SplitAddresses(wrong).status().code(), absl::StatusCode::kInvalidArgument) << wrong;
  }
}

}  // namespace
}  // namespace gemel

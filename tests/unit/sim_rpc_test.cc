// SPDX-License-Identifier: Apache-2.0
#include "transport/sim/sim_rpc.h"

#include "common/errors.h"
#include "common/sync.h"
#include "tests/unit/sim_fabric_nodes.h"

namespace gemel::testing {
namespace {

constexpr uint32_t kAlways = 1'000'000;

// Echoes; "hold" waits until released or its caller is gone; "big" answers too much.
class EchoService final : public RpcService {
 public:
  explicit EchoService(SimLoop* loop) : released(loop) {}

  Task<absl::StatusOr<std::string>> Handle(std::shared_ptr<RpcCall> call, std::string method,
                                           std::string request) override {
    executed += 1;
    if (method == "big") {
      co_return std::string(kRpcMessageBytesMax + 1, 'x');
    }
    if (method == "stop") {
      co_return error::Cancelled("{} is stopping", request);
    }
    if (method == "hold") {
      call->OnCallerGone([this] {
        gone += 1;
        released.NotifyAll();
      });
      while (!open && !call->cancelled()) {
        co_await released.WaitUntil(kTimeNever);
      }
    }
    ended += 1;
    co_return "echo " + request;
  }

  WaitQueue released;
  bool open = false;
  int executed = 0;
  int ended = 0;
  int gone = 0;
};

class SimRpc : public ::testing::Test {
 protected:
  void SetUp() override { Serve(); }

  void Serve(size_t calls_max = kRpcCallsInFlightMax) {
    server_life_ = std::make_unique<Life>(&world_, "manager");
    service_ = std::make_unique<EchoService>(&server_life_->loop);
    server_ =
        *SimRpcServer::Start(server_life_->process, "sim://manager/1", service_.get(), calls_max);
  }

  void KillServer() {
    if (server_life_ == nullptr) {
      return;
    }
    server_life_->Kill();
    server_.reset();
    service_.reset();
    server_life_.reset();
  }

  void TearDown() override { KillServer(); }

  absl::StatusOr<std::string> Call(std::string method, std::string request, Duration timeout = 1s) {
    return client_->Run(channel_->Call(std::move(method), std::move(request), world_.In(timeout)));
  }

  // Starts a call and lets it go on.
  std::shared_ptr<std::optional<absl::StatusOr<std::string>>> Begin(std::string method,
                                                                    Duration timeout = 1s) {
    auto result = std::make_shared<std::optional<absl::StatusOr<std::string>>>();
    client_->loop.Spawn(
        Life::Keep(channel_->Call(std::move(method), "x", world_.In(timeout)), result));
    return result;
  }

  World world_{5};
  std::unique_ptr<Life> client_ = std::make_unique<Life>(&world_, "client");
  std::unique_ptr<RpcChannel> channel_ =
      *SimRpcChannel::Create(client_->process, "sim://manager/1");
  std::unique_ptr<Life> server_life_;
  std::unique_ptr<EchoService> service_;
  std::unique_ptr<SimRpcServer> server_;
};

TEST_F(SimRpc, ACallIsAnswered) {
  EXPECT_EQ(*Call("echo", "hello"), "echo hello");
  EXPECT_EQ(service_->executed, 1);
}

// As gRPC's channel says it.
TEST_F(SimRpc, WhatTheOtherSideCancelsIsOfUnknownOutcome) {
  EXPECT_EQ(Call("stop", "placement").status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(SimRpc, NobodyListeningIsUnavailable) {
  KillServer();
  EXPECT_EQ(Call("echo", "x").status().code(), absl::StatusCode::kUnavailable);
  Serve();
  EXPECT_TRUE(Call("echo", "x").ok());
}

TEST_F(SimRpc, ALostReplyWasExecutedAndLooksLikeALostRequest) {
  int unavailable = 0;
  for (int i = 0; i < 40; ++i) {
    LinkFaults& lossy = i % 2 == 0 ? world_.world.Faults("manager", "client")
                                   : world_.world.Faults("client", "manager");
    (i % 2 == 0 ? lossy.lose_reply_ppm : lossy.lose_request_ppm) = kAlways;
    const absl::Status status = Call("echo", "x").status();
    EXPECT_TRUE(status.code() == absl::StatusCode::kUnavailable ||
                status.code() == absl::StatusCode::kDeadlineExceeded);
    unavailable += status.code() == absl::StatusCode::kUnavailable ? 1 : 0;
    lossy = LinkFaults();
  }
  EXPECT_EQ(service_->executed, 20);
  EXPECT_GT(unavailable, 5);
  EXPECT_LT(unavailable, 35);
  EXPECT_EQ(world_.world.TotalStats().replies_lost, 20U);
  EXPECT_EQ(world_.world.TotalStats().requests_lost, 20U);
}

TEST_F(SimRpc, ADuplicatedCallIsExecutedTwiceAndAnsweredOnce) {
  world_.world.Faults("client", "manager").duplicate_call_ppm = kAlways;
  EXPECT_EQ(*Call("echo", "x"), "echo x");
  world_.RunFor(100ms);
  EXPECT_EQ(service_->executed, 2);
  EXPECT_EQ(world_.world.TotalStats().duplicate_calls, 1U);
}

TEST_F(SimRpc, ALateCallIsExecutedAgainAfterItsAnswer) {
  LinkFaults& faults = world_.world.Faults("client", "manager");
  faults.late_call_ppm = kAlways;
  faults.late_max = 2s;
  EXPECT_EQ(*Call("echo", "x"), "echo x");
  const int before = service_->executed;
  faults.late_call_ppm = 0;
  world_.RunFor(5s);
  EXPECT_EQ(before, 1);
  EXPECT_EQ(service_->executed, 2);
  EXPECT_EQ(world_.world.TotalStats().late_calls, 1U);
}

TEST_F(SimRpc, ALateCallReachesNoOtherProcessThanTheOneItWasSentTo) {
  LinkFaults& faults = world_.world.Faults("client", "manager");
  faults.late_call_ppm = kAlways;
  faults.late_max = 2s;
  EXPECT_EQ(*Call("echo", "x"), "echo x");
  ASSERT_EQ(service_->executed, 1) << "it is not late";
  faults.late_call_ppm = 0;
  KillServer();
  Serve();
  world_.RunFor(5s);
  EXPECT_EQ(service_->executed, 0);
  EXPECT_EQ(world_.world.TotalStats().late_calls, 1U);
}

TEST_F(SimRpc, SomeLateCallsWaitForTheNextLifeOfTheirSender) {
  constexpr int kCalls = 20;
  LinkFaults& faults = world_.world.Faults("client", "manager");
  faults.late_call_ppm = kAlways;
  faults.late_max = 2s;
  for (int i = 0; i < kCalls; ++i) {
    EXPECT_TRUE(Call("echo", "x").ok());
  }
  faults.late_call_ppm = 0;
  client_->Kill();
  world_.RunFor(3s);
  const int waiting = 2 * kCalls - service_->executed;
  EXPECT_GT(waiting, 0);
  EXPECT_LT(waiting, kCalls);
  const Life next(&world_, "client");
  world_.RunFor(200ms);
  EXPECT_EQ(service_->executed, 2 * kCalls);
}

TEST_F(SimRpc, AStragglerIsOvertakenByACallSentLater) {
  LinkFaults& faults = world_.world.Faults("client", "manager");
  faults.straggle_ppm = kAlways;
  faults.straggle_max = 900ms;
  auto first = Begin("hold", 60s);
  world_.RunFor(1us);
  faults.straggle_ppm = 0;
  bool overtaken = false;
  for (int i = 0; i < 20 && !overtaken; ++i) {
    const int before = service_->executed;
    EXPECT_TRUE(Call("echo", "x").ok());
    overtaken = before == 0 && service_->executed == 1;
  }
  EXPECT_TRUE(overtaken);
  world_.RunFor(2s);
  EXPECT_GE(world_.world.TotalStats().stragglers, 1U);
  service_->open = true;
  service_->released.NotifyAll();
  EXPECT_TRUE(world_.RunUntil([&] { return first->has_value(); }, 1s));
}

TEST_F(SimRpc, ADeadlineIsADurationForAServerWhoseClockIsAnother) {
  server_life_->loop.SetClockRate(1900);
  auto held = Begin("hold", 1s);
  world_.RunFor(900ms);
  EXPECT_FALSE(held->has_value());
  EXPECT_EQ(service_->gone, 0);
  world_.RunFor(300ms);
  ASSERT_TRUE(held->has_value());
  EXPECT_EQ((*held)->status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(SimRpc, AKilledServerIsUnavailableToItsCallers) {
  auto held = Begin("hold", 60s);
  world_.RunFor(100ms);
  ASSERT_EQ(service_->executed, 1);
  KillServer();
  ASSERT_TRUE(world_.RunUntil([&] { return held->has_value(); }, 1s));
  EXPECT_EQ((*held)->status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(SimRpc, AServerThatDiesBehindABlackholeEndsACallAtItsDeadlineOnly) {
  auto held = Begin("hold", 60s);
  world_.RunFor(100ms);
  world_.world.Partition({"client"}, {"manager"});
  KillServer();
  world_.RunFor(50s);
  EXPECT_FALSE(held->has_value());
  ASSERT_TRUE(world_.RunUntil([&] { return held->has_value(); }, 11s));
  EXPECT_EQ((*held)->status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(SimRpc, AKilledCallerIsToldToTheHandler) {
  auto held = Begin("hold", 60s);
  world_.RunFor(100ms);
  client_->Kill();
  EXPECT_TRUE(world_.RunUntil([&] { return service_->gone == 1; }, 1s));
  EXPECT_TRUE(world_.RunUntil([&] { return service_->ended == 1; }, 1s));
}

TEST_F(SimRpc, ABrokenLinkEndsTheCallOnBothSides) {
  auto held = Begin("hold", 60s);
  world_.RunFor(100ms);
  world_.world.BreakConnections("manager", "client");
  ASSERT_TRUE(world_.RunUntil([&] { return held->has_value() && service_->gone == 1; }, 1s));
  EXPECT_EQ((*held)->status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(SimRpc, TheDeadlineEndsACallOnBothSides) {
  auto held = Begin("hold", 2s);
  ASSERT_TRUE(world_.RunUntil([&] { return held->has_value(); }, 3s));
  EXPECT_EQ((*held)->status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(world_.RunUntil([&] { return service_->gone == 1; }, 1s));
}

TEST_F(SimRpc, OnCallerGoneDoesNotRunAfterTheReply) {
  auto held = Begin("hold", 2s);
  world_.RunFor(100ms);
  service_->open = true;
  service_->released.NotifyAll();
  ASSERT_TRUE(world_.RunUntil([&] { return held->has_value(); }, 1s));
  EXPECT_TRUE((*held)->ok());
  client_->Kill();
  world_.RunFor(5s);
  EXPECT_EQ(service_->gone, 0);
}

TEST_F(SimRpc, ARequestHeldInAPartitionMayBeExecutedAfterItsCallerGaveUp) {
  world_.world.Partition({"client"}, {"manager"});
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(Call("echo", "x").status().code(), absl::StatusCode::kDeadlineExceeded);
  }
  EXPECT_EQ(service_->executed, 0);
  world_.world.Heal();
  world_.RunFor(1s);
  EXPECT_GT(service_->executed, 2);
  EXPECT_LT(service_->executed, 18);
}

TEST_F(SimRpc, OverloadIsResourceExhaustedAtOnce) {
  KillServer();
  Serve(2);
  auto first = Begin("hold", 60s);
  auto second = Begin("hold", 60s);
  world_.RunFor(100ms);
  EXPECT_EQ(Call("echo", "x").status().code(), absl::StatusCode::kResourceExhausted);
  service_->open = true;
  service_->released.NotifyAll();
  world_.RunFor(100ms);
  EXPECT_TRUE(Call("echo", "x").ok());
}

TEST_F(SimRpc, MessagesOverTheLimitAreResourceExhausted) {
  EXPECT_EQ(Call("echo", std::string(kRpcMessageBytesMax + 1, 'x')).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(service_->executed, 0);
  EXPECT_EQ(Call("big", "x").status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(SimRpc, StopCancelsAndWaitsForHandlers) {
  auto held = Begin("hold", 60s);
  world_.RunFor(100ms);

  struct Stopping {
    static Task<absl::Status> Stop(SimRpcServer* server) {
      co_await server->Stop();
      co_return absl::OkStatus();
    }
  };

  EXPECT_TRUE(server_life_->Run(Stopping::Stop(server_.get())).ok());
  EXPECT_EQ(service_->ended, 1);
  EXPECT_EQ(server_->calls_in_flight(), 0U);
  EXPECT_EQ(Call("echo", "x").status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace gemel::testing

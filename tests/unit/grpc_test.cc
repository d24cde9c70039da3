// SPDX-License-Identifier: Apache-2.0
//
// The gRPC adapter on real loopback sockets: the facts of sim_rpc_test, with the real thing.
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "common/epoll_loop.h"
#include "common/errors.h"
#include "common/sync.h"
#include "transport/control/grpc_address.h"
#include "transport/control/grpc_channel.h"
#include "transport/control/grpc_message.h"
#include "transport/control/grpc_server.h"
#include "transport/control/grpc_status.h"

namespace gemel {
namespace {

constexpr std::string_view kAnyPort = "127.0.0.1:0";

class EchoService final : public RpcService {
 public:
  explicit EchoService(Loop* loop) : released_(loop) {}

  Task<absl::StatusOr<std::string>> Handle(std::shared_ptr<RpcCall> call, std::string method,
                                           std::string request) override {
    executed += 1;
    if (method == "Echo") {
      co_return "echo " + request;
    }
    if (method == "Fail") {
      co_return error::FailedPrecondition("epoch {} is stale", request);
    }
    if (method == "Stop") {
      co_return error::Cancelled("{} is stopping", request);
    }
    if (method == "Big") {
      co_return std::string(kRpcMessageBytesMax + 1, 'x');
    }
    if (method != "Hold" && method != "HoldOn") {
      co_return error::Unimplemented("no method {}", method);
    }
    call->OnCallerGone([this] {
      gone += 1;
      released_.NotifyAll();
    });
    while (!open && (method == "HoldOn" || !call->cancelled())) {
      co_await released_.WaitUntil(kTimeNever);
    }
    ended += 1;
    co_return "held";
  }

  void Release() {
    open = true;
    released_.NotifyAll();
  }

  bool open = false;
  int executed = 0;
  int ended = 0;
  int gone = 0;

 private:
  WaitQueue released_;
};

class Grpc : public ::testing::Test {
 protected:
  using Result = std::optional<absl::StatusOr<std::string>>;

  void SetUp() override {
    Serve(kAnyPort);
    channel_ = *GrpcChannel::Create(loop_.get(), server_->address());
  }

  void TearDown() override {
    service_->Release();
    EXPECT_TRUE(Stop().ok());
    channel_.reset();
    loop_->Shutdown();
  }

  void Serve(std::string_view address, size_t calls_max = kRpcCallsInFlightMax) {
    auto started = GrpcServer::Start(loop_.get(), address, service_.get(), calls_max);
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
  }

  TimePoint In(Duration time) const { return Add(loop_->Now(), time); }

  bool RunUntil(const std::function<bool()>& done, Duration limit = 10s) {
    return loop_->RunUntil(done, In(limit));
  }

  static Task<void> Keep(Task<absl::StatusOr<std::string>> task, std::shared_ptr<Result> result) {
    absl::StatusOr<std::string> value = co_await std::move(task);
    result->emplace(std::move(value));
  }

  std::shared_ptr<Result> Begin(std::string method, std::string request, Duration timeout) {
    auto result = std::make_shared<Result>();
    Task<absl::StatusOr<std::string>> call =
        channel_->Call(std::move(method), std::move(request), In(timeout));
    loop_->Spawn(Keep(std::move(call), result));
    return result;
  }

  absl::StatusOr<std::string> Call(std::string method, std::string request, Duration timeout = 5s) {
    std::shared_ptr<Result> result = Begin(std::move(method), std::move(request), timeout);
    EXPECT_TRUE(RunUntil([&] { return result->has_value(); }));
    return **result;
  }

  static Task<void> KeepStop(GrpcServer* server, std::shared_ptr<std::optional<absl::Status>> out) {
    absl::Status status = co_await server->Stop(100ms);
    out->emplace(status);
  }

  absl::Status Stop() {
    auto stopped = std::make_shared<std::optional<absl::Status>>();
    loop_->Spawn(KeepStop(server_.get(), stopped));
    EXPECT_TRUE(RunUntil([&] { return stopped->has_value(); }));
    return stopped->value_or(error::Internal("Stop() did not return"));
  }

  std::unique_ptr<EpollLoop> loop_ = *EpollLoop::Create();
  std::unique_ptr<EchoService> service_ = std::make_unique<EchoService>(loop_.get());
  std::unique_ptr<GrpcServer> server_;
  std::unique_ptr<GrpcChannel> channel_;
};

TEST_F(Grpc, BytesGoThereAndBackUnchanged) {
  EXPECT_EQ(*Call("Echo", "hello"), "echo hello");
  std::string all(256, '\0');
  for (size_t i = 0; i < all.size(); ++i) {
    all[i] = static_cast<char>(i);
  }
  EXPECT_EQ(*Call("Echo", all), "echo " + all);
  EXPECT_EQ(*Call("Echo", ""), "echo ");
  const std::string large(4 * kMiB, 'l');
  EXPECT_EQ(Call("Echo", large)->size(), large.size() + 5);
}

TEST_F(Grpc, AHandlersStatusArrivesAsItIs) {
  const absl::Status status = Call("Fail", "1.7").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(MessageOf(status), "epoch 1.7 is stale");
}

// A save asks again after Unavailable, and would be given up after Cancelled.
TEST_F(Grpc, WhatTheOtherSideCancelsIsOfUnknownOutcome) {
  const absl::Status status = Call("Stop", "placement-1").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(MessageOf(status).find("placement-1 is stopping"), std::string_view::npos);
  EXPECT_FALSE(WasNotExecuted(status));
}

TEST_F(Grpc, AnUnknownMethodIsUnimplemented) {
  EXPECT_EQ(Call("Nonsense", "x").status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_FALSE(MethodOfPath("/other.Service/Echo").has_value());
  EXPECT_FALSE(MethodOfPath("/gemel.v1.Placement/").has_value());
  EXPECT_FALSE(MethodOfPath("").has_value());
  EXPECT_EQ(MethodOfPath(MethodPath(kPlacementService, "Open")), "Open");
}

TEST_F(Grpc, TheDeadlineEndsACallOnBothSides) {
  const TimePoint start = loop_->Now();
  EXPECT_EQ(Call("Hold", "x", 200ms).status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_GE(loop_->Now() - start, 190ms);  // gRPC counts in milliseconds
  EXPECT_LT(loop_->Now() - start, 1200ms);
  EXPECT_TRUE(RunUntil([&] { return service_->gone == 1 && service_->ended == 1; }, 1s));
}

TEST_F(Grpc, NobodyListeningIsUnavailableAtOnceAndNamesTheAddress) {
  const std::string address = server_->address();
  ASSERT_TRUE(Stop().ok());
  server_.reset();
  const TimePoint start = loop_->Now();
  const absl::Status status = Call("Echo", "x", 60s).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(MessageOf(status).find(address), std::string_view::npos);
  EXPECT_LT(loop_->Now() - start, 5s);
  Serve(address);
}

TEST_F(Grpc, ADestroyedChannelCancelsItsCallsAndTellsTheHandlers) {
  std::shared_ptr<Result> held = Begin("Hold", "x", 60s);
  ASSERT_TRUE(RunUntil([&] { return service_->executed == 1; }));
  channel_.reset();
  EXPECT_TRUE(RunUntil([&] { return service_->gone == 1; }, 1s));
  ASSERT_TRUE(RunUntil([&] { return held->has_value(); }, 1s));
  EXPECT_EQ((*held)->status().code(), absl::StatusCode::kCancelled);
}

TEST_F(Grpc, AChannelDestroyedAtAnyMomentLeavesNothingBehind) {
  for (int i = 0; i < 100; ++i) {
    channel_ = *GrpcChannel::Create(loop_.get(), server_->address());
    std::shared_ptr<Result> first = Begin("Echo", "x", 5s);
    std::shared_ptr<Result> second = Begin("Hold", "x", 5s);
    for (int step = 0; step < i % 10; ++step) {
      loop_->RunUntil([] { return false; }, In(Duration(20us)));
    }
    channel_.reset();
    ASSERT_TRUE(RunUntil([&] { return first->has_value() && second->has_value(); }, 1s));
  }
  EXPECT_TRUE(RunUntil([&] { return service_->gone == service_->ended; }, 1s));
}

TEST_F(Grpc, OnCallerGoneDoesNotRunAfterTheReply) {
  std::shared_ptr<Result> held = Begin("Hold", "x", 60s);
  ASSERT_TRUE(RunUntil([&] { return service_->executed == 1; }));
  service_->Release();
  ASSERT_TRUE(RunUntil([&] { return held->has_value(); }));
  EXPECT_EQ(***held, "held");
  channel_.reset();
  RunUntil([] { return false; }, 50ms);
  EXPECT_EQ(service_->gone, 0);
}

TEST_F(Grpc, AServerThatStopsAnswersAndItsSuccessorIsFoundAgain) {
  const std::string address = server_->address();
  std::shared_ptr<Result> held = Begin("Hold", "x", 60s);
  ASSERT_TRUE(RunUntil([&] { return service_->executed == 1; }));
  ASSERT_TRUE(Stop().ok());
  ASSERT_TRUE(RunUntil([&] { return held->has_value(); }, 1s));
  EXPECT_EQ(***held, "held") << "cancelled in time, so it ended in order";
  server_.reset();
  Serve(address);
  EXPECT_TRUE(RunUntil([&] { return Call("Echo", "again", 1s).ok(); }, 5s));
}

TEST_F(Grpc, AHandlerThatDoesNotEndIsLeftAndItsCallerIsTold) {
  std::shared_ptr<Result> held = Begin("HoldOn", "x", 60s);
  ASSERT_TRUE(RunUntil([&] { return service_->executed == 1; }));
  const TimePoint start = loop_->Now();
  EXPECT_EQ(Stop().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_LT(loop_->Now() - start, 1s);
  ASSERT_TRUE(RunUntil([&] { return held->has_value(); }, 1s));
  EXPECT_EQ((*held)->status().code(), absl::StatusCode::kUnavailable);
  service_->Release();
  EXPECT_TRUE(RunUntil([&] { return service_->ended == 1; }, 1s));
}

TEST_F(Grpc, OverloadIsResourceExhaustedAtOnce) {
  ASSERT_TRUE(Stop().ok());
  server_.reset();
  Serve(kAnyPort, 2);
  channel_ = *GrpcChannel::Create(loop_.get(), server_->address());
  std::shared_ptr<Result> first = Begin("Hold", "x", 60s);
  std::shared_ptr<Result> second = Begin("Hold", "x", 60s);
  ASSERT_TRUE(RunUntil([&] { return service_->executed == 2; }));
  EXPECT_EQ(Call("Echo", "x").status().code(), absl::StatusCode::kResourceExhausted);
  service_->Release();
  ASSERT_TRUE(RunUntil([&] { return first->has_value() && second->has_value(); }));
  EXPECT_TRUE(Call("Echo", "x").ok());
}

TEST_F(Grpc, MessagesOverTheLimitAreResourceExhausted) {
  EXPECT_EQ(Call("Echo", std::string(kRpcMessageBytesMax + 1, 'x')).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(service_->executed, 0);
  EXPECT_EQ(Call("Big", "x").status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(Grpc, ATakenPortIsAlreadyExistsAndNamesItself) {
  auto second = GrpcServer::Start(loop_.get(), server_->address(), service_.get());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_NE(MessageOf(second.status()).find(server_->address()), std::string_view::npos);
  EXPECT_TRUE(Call("Echo", "x").ok()) << "the first one lives on";
}

TEST_F(Grpc, OnlyLoopbackAndUnixAddressesAreAccepted) {
  for (std::string_view far : {"0.0.0.0:7601", "10.0.0.1:7601", "[::]:7601"}) {
    auto channel = GrpcChannel::Create(loop_.get(), far);
    EXPECT_EQ(channel.status().code(), absl::StatusCode::kPermissionDenied) << far;
    EXPECT_NE(MessageOf(channel.status()).find("TLS"), std::string_view::npos);
    auto server = GrpcServer::Start(loop_.get(), far, service_.get());
    EXPECT_EQ(server.status().code(), absl::StatusCode::kPermissionDenied) << far;
  }
  for (std::string_view wrong :
       {"", "7601", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "unix:"}) {
    EXPECT_FALSE(ParseGrpcAddress(wrong).ok()) << wrong;
  }
  EXPECT_EQ(ParseGrpcAddress("localhost:1")->Target(), "ipv4:127.0.0.1:1");
  EXPECT_EQ(ParseGrpcAddress("[::1]:1")->Target(), "ipv6:[::1]:1");
  EXPECT_EQ(ParseGrpcAddress("unix:///run/x")->Target(), "unix:/run/x");
}

TEST(GrpcStatus, EveryCodeSurvivesAndALongMessageIsCut) {
  for (int code = 0; code <= 16; ++code) {
    const absl::Status status = MakeStatus(static_cast<absl::StatusCode>(code), "why");
    EXPECT_EQ(FromGrpc(ToGrpc(status)), status);
  }
  const absl::Status odd = FromGrpc(grpc::Status(static_cast<grpc::StatusCode>(20), "x"));
  EXPECT_EQ(odd.code(), absl::StatusCode::kUnknown);
  const absl::Status longest = FromGrpc(ToGrpc(error::Internal("{}", std::string(10'000, 'm'))));
  EXPECT_EQ(MessageOf(longest).size(), kGrpcMessageBytesMax);
}

}  // namespace
}  // namespace gemel

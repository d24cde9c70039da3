// SPDX-License-Identifier: Apache-2.0
//
// Ours: a Session over the tcp fabric whose handler gives the body back.
#include <memory>
#include <string>
#include <utility>

#include "bench/rpc.h"
#include "common/check.h"
#include "common/epoll_loop.h"
#include "transport/real_net.h"
#include "transport/session.h"

namespace gemel::bench {
namespace {

class Echo final : public SessionHandler {
 public:
  Task<Reply> Handle(std::shared_ptr<Session> /*session*/, IncomingRequest request) override {
    Reply reply;
    reply.body = std::move(request.body);
    co_return reply;
  }

  void OnSessionClosed(Session* /*session*/, const absl::Status& /*why*/) override {}
};

std::unique_ptr<EpollLoop> MakeLoop() {
  auto loop = EpollLoop::Create();
  GEMEL_CHECK(loop.ok()) << loop.status();
  return *std::move(loop);
}

class SessionServer {
 public:
  explicit SessionServer(EpollLoop* loop) : net_(loop, nullptr, {}) {
    auto listener =
        net_.Listen("tcp://127.0.0.1:0", [this, loop](std::unique_ptr<Connection> connection) {
          session_ = Session::Start(loop, std::move(connection), &echo_, {});
        });
    GEMEL_CHECK(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
  }

  int port() const {
    const std::string address = listener_->address();
    return std::stoi(address.substr(address.rfind(':') + 1));
  }

 private:
  RealNet net_;
  Echo echo_;
  std::unique_ptr<Listener> listener_;
  std::shared_ptr<Session> session_;
};

class SessionCaller final : public Caller {
 public:
  SessionCaller(EpollLoop* loop, int port) : loop_(loop), net_(loop, nullptr, {}) {
    loop_->Spawn(Connect(this, port));
    GEMEL_CHECK(loop_->RunUntil([this] { return session_ != nullptr; }, Deadline()));
  }

  ~SessionCaller() override { loop_->Shutdown(); }

  void Ask(size_t count, size_t depth, std::vector<double>* taken) override {
    to_ask_ = to_hear_ = count;
    for (size_t i = 0; i < depth; ++i) {
      loop_->Spawn(AskInTurn(this, depth == 1 ? taken : nullptr));
    }
    GEMEL_CHECK(loop_->RunUntil([this] { return to_hear_ == 0; }, Deadline()));
  }

 private:
  TimePoint Deadline() const { return Add(loop_->Now(), kPatience); }

  static Task<void> Connect(SessionCaller* self, int port) {
    std::string address = "tcp://127.0.0.1:" + std::to_string(port);
    auto made = co_await self->net_.Connect(std::move(address), self->Deadline());
    GEMEL_CHECK(made.ok()) << made.status();
    self->session_ = Session::Start(self->loop_, *std::move(made), nullptr, {});
  }

  static Task<void> AskInTurn(SessionCaller* self, std::vector<double>* taken) {
    while (self->to_ask_ > 0) {
      self->to_ask_ -= 1;
      const auto began = taken != nullptr ? std::chrono::steady_clock::now()
                                          : std::chrono::steady_clock::time_point();
      Request request;
      request.body = self->body_;
      const absl::StatusOr<Reply> reply =
          co_await self->session_->Call(std::move(request), {}, self->Deadline());
      GEMEL_CHECK(reply.ok() && reply->body.size() == kBodyBytes) << reply.status();
      if (taken != nullptr) {
        taken->push_back(SecondsSince(began));
      }
      self->to_hear_ -= 1;
    }
  }

  EpollLoop* const loop_;
  RealNet net_;
  std::shared_ptr<Session> session_;
  const std::string body_ = std::string(kBodyBytes, 'b');
  size_t to_ask_ = 0;
  size_t to_hear_ = 0;
};

// A caller with a loop of its own.
class OwnSessionCaller final : public Caller {
 public:
  explicit OwnSessionCaller(int port) : loop_(MakeLoop()), caller_(loop_.get(), port) {}

  void Ask(size_t count, size_t depth, std::vector<double>* taken) override {
    caller_.Ask(count, depth, taken);
  }

 private:
  const std::unique_ptr<EpollLoop> loop_;
  SessionCaller caller_;
};

// Both ends on one loop.
class SessionPair final : public Pair {
 public:
  SessionPair() : loop_(MakeLoop()), server_(loop_.get()), caller_(loop_.get(), server_.port()) {}

  Caller* caller() override { return &caller_; }

 private:
  const std::unique_ptr<EpollLoop> loop_;
  SessionServer server_;
  SessionCaller caller_;
};

}  // namespace

void ServeSession(int ready) {
  const std::unique_ptr<EpollLoop> loop = MakeLoop();
  const SessionServer server(loop.get());
  TellPort(ready, server.port());
  loop->Run();
}

std::unique_ptr<Caller> CallSession(int port) { return std::make_unique<OwnSessionCaller>(port); }

std::unique_ptr<Pair> PairSession() { return std::make_unique<SessionPair>(); }

}  // namespace gemel::bench

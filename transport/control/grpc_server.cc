// SPDX-License-Identifier: Apache-2.0
#include "transport/control/grpc_server.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <map>
#include <utility>
#include <vector>

#include "common/check.h"
#include "common/errors.h"
#include "common/mutex.h"
#include "common/sync.h"
#include "transport/control/grpc_message.h"
#include "transport/control/grpc_status.h"
#include "transport/control/served_call.h"

namespace gemel {
namespace {

// What the last replies have to leave after the handlers have ended.
constexpr Duration kFlushTime = 200ms;
// A unix socket's file says nothing of who listens: ask.
constexpr Duration kUnixProbeTime = 300ms;

gpr_timespec After(Duration time) {
  return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                      gpr_time_from_nanos(time.count(), GPR_TIMESPAN));
}

bool SomebodyAnswersAt(const GrpcAddress& address) {
  std::shared_ptr<grpc::Channel> probe =
      grpc::CreateChannel(address.Target(), grpc::InsecureChannelCredentials());
  return probe->WaitForConnected(After(kUnixProbeTime));
}

absl::Status Taken(const GrpcAddress& address) {
  return error::AlreadyExists(
      "cannot listen at {}: another process has it; stop that one (`ss -ltnp` shows it) or choose "
      "another address",
      address.ToString());
}

}  // namespace

// What calls, gRPC's threads and the loop share.
class GrpcServer::State final : public std::enable_shared_from_this<State> {
 public:
  State(Loop* loop, RpcService* service, size_t calls_max)
      : loop_(loop), service_(service), calls_max_(calls_max), idle_(loop) {}

  // gRPC's threads.
  absl::StatusOr<uint64_t> Admit(Incoming* incoming);
  void OnRequest(uint64_t call, std::string method, std::string body);
  void OnCancel(uint64_t call);
  // The call, if it has not been answered; it is the caller's to answer then.
  Incoming* Take(uint64_t call);

  // The loop.
  void StopAccepting();
  void CancelAll();
  void AnswerAll(const absl::Status& status);
  Task<void> WaitUntilIdle(TimePoint deadline);

  size_t handlers() const { return serving_.size(); }

  Loop* loop() const { return loop_; }

 private:
  struct Entry {
    Incoming* incoming = nullptr;
    bool cancelled = false;
  };

  void Begin(uint64_t call, std::string method, std::string body);
  static Task<void> Serve(std::shared_ptr<State> self, uint64_t call, std::string method,
                          std::string body);
  void Cancel(uint64_t call);

  Loop* const loop_;
  RpcService* const service_;
  const size_t calls_max_;
  WaitQueue idle_;
  std::map<uint64_t, std::shared_ptr<ServedCall>> serving_;  // the loop's

  Mutex mutex_;
  bool accepting_ GEMEL_GUARDED_BY(mutex_) = true;
  uint64_t next_call_ GEMEL_GUARDED_BY(mutex_) = 1;
  std::map<uint64_t, Entry> unanswered_ GEMEL_GUARDED_BY(mutex_);
};

// One call in gRPC's hands; deletes itself when gRPC is done with it.
class GrpcServer::Incoming final : public grpc::ServerGenericBidiReactor {
 public:
  Incoming(std::shared_ptr<State> state, const std::string& path) : state_(std::move(state)) {
    std::optional<std::string> method = MethodOfPath(path);
    if (!method.has_value()) {
      Finish(ToGrpc(error::Unimplemented("{} is no method of this server", path)));
      return;
    }
    method_ = *std::move(method);
    absl::StatusOr<uint64_t> call = state_->Admit(this);
    if (!call.ok()) {
      Finish(ToGrpc(call.status()));
      return;
    }
    call_ = *call;
    StartRead(&request_);
  }

  // Once. It may be gone when this returns.
  void Reply(const absl::StatusOr<std::string>& result) {
    if (!result.ok()) {
      Finish(ToGrpc(result.status()));
      return;
    }
    response_ = ToByteBuffer(*result);
    StartWriteAndFinish(&response_, grpc::WriteOptions(), grpc::Status::OK);
  }

  void OnReadDone(bool ok) override {
    std::optional<std::string> body = ok ? FromByteBuffer(request_) : std::nullopt;
    if (body.has_value()) {
      state_->OnRequest(call_, method_, *std::move(body));
    } else if (state_->Take(call_) != nullptr) {
      Reply(error::InvalidArgument("the request of {} has no message", method_));
    }
  }

  void OnCancel() override {
    if (call_ != 0) {
      state_->OnCancel(call_);
    }
  }

  void OnDone() override { delete this; }

 private:
  const std::shared_ptr<State> state_;
  std::string method_;
  uint64_t call_ = 0;  // 0: not admitted
  grpc::ByteBuffer request_;
  grpc::ByteBuffer response_;
};

class GrpcServer::Service final : public grpc::CallbackGenericService {
 public:
  explicit Service(std::shared_ptr<State> state) : state_(std::move(state)) {}

  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override {
    return new Incoming(state_, context->method());
  }

 private:
  const std::shared_ptr<State> state_;
};

absl::StatusOr<uint64_t> GrpcServer::State::Admit(Incoming* incoming) {
  MutexLock lock(&mutex_);
  if (!accepting_) {
    return error::Unavailable("this server is stopping");
  }
  if (unanswered_.size() >= calls_max_) {
    return error::ResourceExhausted("this server already handles {} calls; try again later",
                                    calls_max_);
  }
  const uint64_t call = next_call_++;
  unanswered_[call].incoming = incoming;
  return call;
}

GrpcServer::Incoming* GrpcServer::State::Take(uint64_t call) {
  MutexLock lock(&mutex_);
  auto found = unanswered_.find(call);
  if (found == unanswered_.end()) {
    return nullptr;
  }
  Incoming* incoming = found->second.incoming;
  unanswered_.erase(found);
  return incoming;
}

void GrpcServer::State::OnRequest(uint64_t call, std::string method, std::string body) {
  loop_->PostFromAnyThread([self = shared_from_this(), call, method = std::move(method),
                            body = std::move(body)]() mutable {
    self->Begin(call, std::move(method), std::move(body));
  });
}

void GrpcServer::State::OnCancel(uint64_t call) {
  {
    MutexLock lock(&mutex_);
    auto found = unanswered_.find(call);
    if (found == unanswered_.end()) {
      return;
    }
    found->second.cancelled = true;
  }
  loop_->PostFromAnyThread([self = shared_from_this(), call] { self->Cancel(call); });
}

void GrpcServer::State::Cancel(uint64_t call) {
  auto found = serving_.find(call);
  if (found != serving_.end()) {
    const std::shared_ptr<ServedCall> served = found->second;  // the callback may end the handler
    served->Cancel();
  }
}

void GrpcServer::State::Begin(uint64_t call, std::string method, std::string body) {
  auto served = std::make_shared<ServedCall>(loop_);
  {
    MutexLock lock(&mutex_);
    auto found = unanswered_.find(call);
    if (found == unanswered_.end()) {
      return;  // answered by Stop()
    }
    if (found->second.cancelled) {
      served->Cancel();
    }
  }
  serving_.emplace(call, std::move(served));
  loop_->Spawn(Serve(shared_from_this(), call, std::move(method), std::move(body)));
}

Task<void> GrpcServer::State::Serve(std::shared_ptr<State> self, uint64_t call, std::string method,
                                    std::string body) {
  const std::shared_ptr<ServedCall> served = self->serving_.at(call);
  const std::string name = method;
  absl::StatusOr<std::string> result =
      co_await self->service_->Handle(served, std::move(method), std::move(body));
  served->Finish();
  if (result.ok() && result->size() > kRpcMessageBytesMax) {
    result = error::ResourceExhausted("the reply of {} has {} bytes; at most {} fit in one message",
                                      name, result->size(), kRpcMessageBytesMax);
  }
  self->serving_.erase(call);
  if (self->serving_.empty()) {
    self->idle_.NotifyAll();
  }
  if (Incoming* incoming = self->Take(call)) {
    incoming->Reply(result);
  }
}

void GrpcServer::State::StopAccepting() {
  MutexLock lock(&mutex_);
  accepting_ = false;
}

void GrpcServer::State::CancelAll() {
  const std::map<uint64_t, std::shared_ptr<ServedCall>> serving = serving_;
  for (const auto& [call, served] : serving) {
    served->Cancel();
  }
}

void GrpcServer::State::AnswerAll(const absl::Status& status) {
  std::vector<uint64_t> calls;
  {
    MutexLock lock(&mutex_);
    for (const auto& [call, entry] : unanswered_) {
      calls.push_back(call);
    }
  }
  for (uint64_t call : calls) {
    if (Incoming* incoming = Take(call)) {
      incoming->Reply(status);
    }
  }
}

Task<void> GrpcServer::State::WaitUntilIdle(TimePoint deadline) {
  bool in_time = true;
  while (in_time && !serving_.empty()) {
    in_time = co_await idle_.WaitUntil(deadline);
  }
}

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(Loop* loop, std::string_view address,
                                                              RpcService* service,
                                                              size_t calls_in_flight_max) {
  GEMEL_CHECK(loop != nullptr && service != nullptr && calls_in_flight_max > 0);
  absl::StatusOr<GrpcAddress> own = ParseGrpcAddress(address);
  if (!own.ok()) {
    return own.status();
  }
  if (own->is_unix() && SomebodyAnswersAt(*own)) {
    return Taken(*own);
  }
  auto state = std::make_shared<State>(loop, service, calls_in_flight_max);
  auto generic = std::make_unique<Service>(state);
  grpc::ServerBuilder builder;
  // With it, a second server would share a taken port in silence.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.SetMaxReceiveMessageSize(static_cast<int>(kRpcMessageBytesMax));
  builder.SetMaxSendMessageSize(static_cast<int>(kRpcMessageBytesMax));
  builder.RegisterCallbackGenericService(generic.get());
  int port = 0;
  builder.AddListeningPort(own->ToString(), grpc::InsecureServerCredentials(), &port);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    return Taken(*own);
  }
  own->port = own->is_unix() ? 0 : static_cast<uint16_t>(port);
  std::unique_ptr<GrpcServer> started(
      new GrpcServer(*std::move(own), std::move(state), std::move(generic)));
  started->server_ = std::move(server);
  return started;
}

GrpcServer::GrpcServer(GrpcAddress address, std::shared_ptr<State> state,
                       std::unique_ptr<Service> service)
    : address_(std::move(address)), state_(std::move(state)), service_(std::move(service)) {}

GrpcServer::~GrpcServer() {
  GEMEL_CHECK(state_->handlers() == 0 || state_->loop()->is_shut_down())
      << address() << " is destroyed with " << state_->handlers() << " handlers: Stop() first";
  ShutDown();
}

void GrpcServer::ShutDown() {
  state_->StopAccepting();
  state_->AnswerAll(
      error::Unavailable("the server at {} stopped; the outcome is unknown", address()));
  if (server_ != nullptr) {
    server_->Shutdown(After(kFlushTime));
    server_.reset();
  }
}

Task<absl::Status> GrpcServer::Stop(Duration grace) {
  GEMEL_CHECK(state_->loop()->OnLoopThread());
  const TimePoint deadline = Add(state_->loop()->Now(), grace);
  state_->StopAccepting();
  state_->CancelAll();
  co_await state_->WaitUntilIdle(deadline);
  ShutDown();
  if (state_->handlers() > 0) {
    co_return error::DeadlineExceeded(
        "{} handlers of {} did not end within {} ms of being cancelled", state_->handlers(),
        address(), Milliseconds(grace));
  }
  co_return absl::OkStatus();
}

}  // namespace gemel

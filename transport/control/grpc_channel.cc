// SPDX-License-Identifier: Apache-2.0
#include "transport/control/grpc_channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/mutex.h"
#include "common/sync.h"
#include "transport/control/grpc_message.h"
#include "transport/control/grpc_status.h"

namespace gemel {
namespace {

constexpr int kReconnectBackoffMinMs = 100;
constexpr int kReconnectBackoffMaxMs = 1000;
// What one attempt to connect may take; a busy host needs more than the shortest backoff.
constexpr int kConnectTimeoutMs = 1000;

grpc::ChannelArguments Arguments() {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kReconnectBackoffMinMs);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectTimeoutMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kReconnectBackoffMaxMs);
  // An unknown outcome is re-read by logic, never reissued below it.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  // A proxy of the environment has no business between processes of one machine.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetMaxReceiveMessageSize(static_cast<int>(kRpcMessageBytesMax));
  arguments.SetMaxSendMessageSize(static_cast<int>(kRpcMessageBytesMax));
  return arguments;
}

gpr_timespec DeadlineIn(Duration left) {
  const gpr_timespec span =
      gpr_time_from_nanos(std::max(left, Duration::zero()).count(), GPR_TIMESPAN);
  return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), span);
}

}  // namespace

// The way from gRPC's threads to the loop; closed when the channel goes.
struct GrpcChannel::Core {
  explicit Core(std::shared_ptr<grpc::Channel> channel) : channel(std::move(channel)) {}

  void Post(Loop::Callback callback) {
    MutexLock lock(&mutex);
    if (loop != nullptr) {
      loop->PostFromAnyThread(std::move(callback));
    }
  }

  const std::shared_ptr<grpc::Channel> channel;
  Mutex mutex;
  Loop* loop GEMEL_GUARDED_BY(mutex) = nullptr;
};

// gRPC's part of one call: alive until its callback has run. No member refers to the loop but
// through `core`, which comes first so that gRPC itself is the last to go.
struct GrpcChannel::Wire {
  std::shared_ptr<Core> core;
  grpc::ClientContext context;
  grpc::ByteBuffer request;
  grpc::ByteBuffer response;
};

// The loop's part of one call.
struct GrpcChannel::Pending {
  explicit Pending(Loop* loop) : result(loop) {}

  OneShot<absl::StatusOr<std::string>> result;
  std::weak_ptr<Wire> wire;

  void Cancel() {
    if (std::shared_ptr<Wire> alive = wire.lock()) {
      alive->context.TryCancel();
    }
  }
};

absl::StatusOr<std::unique_ptr<GrpcChannel>> GrpcChannel::Create(Loop* loop,
                                                                 std::string_view address) {
  GEMEL_CHECK(loop != nullptr);
  absl::StatusOr<GrpcAddress> parsed = ParseGrpcAddress(address);
  if (!parsed.ok()) {
    return parsed.status();
  }
  auto core = std::make_shared<Core>(
      grpc::CreateCustomChannel(parsed->Target(), grpc::InsecureChannelCredentials(), Arguments()));
  {
    MutexLock lock(&core->mutex);
    core->loop = loop;
  }
  return std::unique_ptr<GrpcChannel>(new GrpcChannel(loop, *std::move(parsed), std::move(core)));
}

GrpcChannel::GrpcChannel(Loop* loop, GrpcAddress address, std::shared_ptr<Core> core)
    : loop_(loop),
      address_(std::move(address)),
      core_(std::move(core)),
      pending_(std::make_shared<std::map<uint64_t, std::shared_ptr<Pending>>>()) {}

GrpcChannel::~GrpcChannel() {
  {
    MutexLock lock(&core_->mutex);
    core_->loop = nullptr;
  }
  for (const auto& [number, pending] : std::exchange(*pending_, {})) {
    pending->Cancel();
    pending->result.Set(error::Cancelled("the channel to {} was closed", address()));
  }
}

void GrpcChannel::Begin(const std::shared_ptr<Pending>& pending, const std::string& method,
                        const std::string& request, TimePoint deadline) {
  auto wire = std::make_shared<Wire>();
  wire->core = core_;
  wire->context.set_deadline(DeadlineIn(deadline - loop_->Now()));
  wire->context.set_wait_for_ready(false);
  wire->request = ToByteBuffer(request);
  pending->wire = wire;
  auto done = [wire, weak = std::weak_ptr(pending)](const grpc::Status& status) {
    absl::StatusOr<std::string> result = FromGrpc(status);
    if (status.ok()) {
      std::optional<std::string> bytes = FromByteBuffer(wire->response);
      result = bytes.has_value() ? absl::StatusOr<std::string>(*std::move(bytes))
                                 : error::Internal("gRPC cannot unpack the {} bytes of a reply",
                                                   wire->response.Length());
    }
    wire->core->Post([weak, result = std::move(result)]() mutable {
      if (std::shared_ptr<Pending> alive = weak.lock()) {
        alive->result.Set(std::move(result));
      }
    });
  };
  grpc::GenericStub stub(core_->channel);
  stub.UnaryCall(&wire->context, MethodPath(method), grpc::StubOptions(), &wire->request,
                 &wire->response, std::move(done));
}

namespace {

// Cancels a call whose coroutine ends before its answer, and takes it off the channel's list.
template <typename Pending>
struct PendingGuard {
  std::shared_ptr<std::map<uint64_t, std::shared_ptr<Pending>>> all;
  std::shared_ptr<Pending> pending;
  uint64_t number;

  PendingGuard(std::shared_ptr<std::map<uint64_t, std::shared_ptr<Pending>>> all,
               std::shared_ptr<Pending> pending, uint64_t number)
      : all(std::move(all)), pending(std::move(pending)), number(number) {}

  PendingGuard(const PendingGuard&) = delete;
  PendingGuard& operator=(const PendingGuard&) = delete;

  ~PendingGuard() {
    all->erase(number);
    if (!pending->result.is_set()) {
      pending->Cancel();
    }
  }
};

// What gRPC says of a connection names neither the call nor its unknown outcome.
absl::Status Explain(const absl::Status& status, std::string_view method,
                     const std::string& address) {
  if (status.code() == absl::StatusCode::kUnavailable ||
      status.code() == absl::StatusCode::kDeadlineExceeded) {
    return Annotate(status, fmt::format("{} at {}", method, address));
  }
  return status;
}

}  // namespace

Task<absl::StatusOr<std::string>> GrpcChannel::Call(std::string method, std::string request,
                                                    TimePoint deadline) {
  GEMEL_CHECK(loop_->OnLoopThread());
  GEMEL_CHECK(deadline != kTimeNever) << method << " without a deadline";
  if (request.size() > kRpcMessageBytesMax) {
    co_return error::ResourceExhausted(
        "the request of {} has {} bytes; at most {} fit in one message", method, request.size(),
        kRpcMessageBytesMax);
  }
  const std::string address = this->address();  // the channel may go while this waits
  auto pending = std::make_shared<Pending>(loop_);
  const uint64_t number = next_call_++;
  pending_->emplace(number, pending);
  PendingGuard<Pending> guard(pending_, pending, number);
  Begin(pending, method, request, deadline);
  const bool answered = co_await pending->result.WaitUntil(deadline);
  if (!answered) {
    co_return error::DeadlineExceeded("{} at {}: no answer by the deadline, the outcome is unknown",
                                      method, address);
  }
  if (!pending->result.value().ok()) {
    co_return Explain(pending->result.value().status(), method, address);
  }
  co_return std::move(pending->result.value());
}

}  // namespace gemel
